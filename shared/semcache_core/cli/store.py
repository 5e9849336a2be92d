"""The commands `inspect`, `invalidate`, `clear` and `rebuild`."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timezone
from itertools import islice
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from semcache_core.cache import SemanticCache
from semcache_core.cli.options import (
    DEFAULT_PATH,
    JsonOption,
    PathOption,
    YesOption,
    existing,
    live_entry,
    printable,
    printable_lines,
)
from semcache_core.errors import SemcacheError
from semcache_core.quality.verdicts import Verdict, VerdictLog
from semcache_core.storage.entries import ListedEntry
from semcache_core.storage.ledger import Ledger
from semcache_core.transfer.entries import Listing

_SHOWN = 60  # characters of a question in the table


def inspect(
    path: PathOption = DEFAULT_PATH,
    namespace: Annotated[str | None, typer.Option(help="Only entries of this one.")] = None,
    scope: Annotated[str | None, typer.Option(help="Only entries of this one.")] = None,
    question: Annotated[
        str | None, typer.Option(help="Only entries with this in their question, in any case.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    entry: Annotated[
        int | None, typer.Option(help="All that is kept of the entry with this id.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="With the responses, whole.")] = False,
    as_json: JsonOption = False,
) -> None:
    """What is stored, the last stored first; or one entry in full, with what was judged of it."""
    now = time.time()
    with closing(Ledger.open(existing(path), None)) as ledger:
        if entry is not None:
            _show_one(ledger, entry, now, as_json)
            return
        found = Listing(ledger).newest_first(now, namespace, scope)
        listed = list(islice(_asking(found, question), limit))
    if as_json:
        typer.echo(json.dumps({"entries": [_summary(one, now, full) for one in listed]}))
    elif not listed:
        typer.echo("nothing is stored that meets this")
    else:
        _print_table(listed, now, full)


def _asking(listed: Iterator[ListedEntry], text: str | None) -> Iterator[ListedEntry]:
    wanted = "" if text is None else text.casefold()
    return (one for one in listed if wanted in one.question.casefold())


def _summary(one: ListedEntry, now: float, full: bool) -> dict[str, Any]:
    summary = {
        "id": one.id,
        "namespace": one.namespace,
        "scope": one.scope,
        "question": one.question,
        "age_s": max(0.0, now - one.created),
        "hits": one.hits,
        "expires_in_s": None if one.expires is None else one.expires - now,
        "kind": one.kind,
        "tags": list(one.tags),
        "doubt": one.doubt,
    }
    return summary | {"response": one.response} if full else summary


def _print_table(listed: list[ListedEntry], now: float, full: bool) -> None:
    columns = ["id", "namespace", "question", "age", "hits", "expires", "kind", "tags", "doubt"]
    table = Table(*columns, *(["response"] if full else []))
    for one in listed:
        cells = [
            str(one.id),
            printable(one.namespace),
            _beginning(printable(one.question)),
            _span(now - one.created),
            str(one.hits),
            "never" if one.expires is None else f"in {_span(one.expires - now)}",
            one.kind,
            printable(", ".join(one.tags)),
            f"{one.doubt:.2f}" if one.doubt else "",
        ]
        # as Text, and not as text: what is stored is no markup
        table.add_row(*map(Text, cells), *([Text(printable_lines(one.response))] if full else []))
    Console().print(table)


def _show_one(ledger: Ledger, entry_id: int, now: float, as_json: bool) -> None:
    one = live_entry(ledger, entry_id, now)
    about = [j for j in VerdictLog(ledger).judged(one.namespace) if j.entry_id == entry_id]
    fields = {
        **_summary(one, now, full=True),
        "created": one.created,
        "expires": one.expires,
        **{name: getattr(one, name) for name in ("cost", "tokens_in", "tokens_out", "seconds")},
        "writer": one.writer,
        "model": one.fingerprint,
        "answer": one.answer_text,
        "never_for": len(one.wrong_for),
    }
    judgements = [_judged(judgement) for judgement in about]
    if as_json:
        typer.echo(json.dumps({**fields, "judgements": judgements}))
        return
    fields |= {"age_s": _span(fields["age_s"]), "created": _date(one.created)}
    if one.expires is not None:
        fields |= {"expires_in_s": _span(one.expires - now), "expires": _date(one.expires)}
    table = Table("", "", show_header=False)
    for name, value in fields.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        text = "-" if shown is None else printable_lines(str(shown))
        table.add_row(name.removesuffix("_s").replace("_", " "), Text(text))
    Console().print(table)
    _print_judgements(judgements)


def _judged(judgement: Verdict) -> dict[str, Any]:
    names = ("asked", "similarity", "probability", "correct", "source", "at")
    return {name: getattr(judgement, name) for name in names}


def _print_judgements(judgements: list[dict[str, Any]]) -> None:
    if not judgements:
        typer.echo("nothing was judged of it")
        return
    table = Table("asked", "similarity", "P", "right", "by", "when")
    for one in judgements:
        cells = [
            printable(one["asked"]),
            f"{one['similarity']:.3f}",
            f"{one['probability']:.3f}",
            "yes" if one["correct"] else "no",
            one["source"],
            _date(one["at"]),
        ]
        table.add_row(*map(Text, cells))
    Console().print(table)


def _beginning(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _span(seconds: float) -> str:
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(0.0, seconds):.0f} s"


def _date(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, timezone.utc).isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):  # a year that no calendar has
        return f"{at:g}"


def invalidate(
    path: PathOption = DEFAULT_PATH,
    tag: Annotated[
        list[str] | None, typer.Option(help="Answers with this tag; can be given several times.")
    ] = None,
    older_than: Annotated[
        float | None, typer.Option(help="Answers stored more seconds ago than this.")
    ] = None,
    namespace: Annotated[
        str | None, typer.Option(help="Of this one only; without it, of all of them.")
    ] = None,
    yes: YesOption = False,
) -> None:
    """Delete answers that are out of date: those that meet all conditions given.

    With several tags, an answer with any of them is deleted. `clear` deletes without a condition.
    """
    if not tag and older_than is None:
        raise SemcacheError("give --tag or --older-than; `semcache clear` forgets all answers")
    directory = existing(path)
    if not yes:
        typer.confirm(f"Forget {_which(tag, older_than, namespace)} in {path}?", abort=True)
    with SemanticCache(path=directory) as cache:
        gone = cache.invalidate(
            tag or None, namespace, older_than, all_namespaces=namespace is None
        )
    typer.echo(f"{gone} entries forgotten")


def _which(tags: list[str] | None, older_than: float | None, namespace: str | None) -> str:
    of = f"namespace {namespace!r}" if namespace else "every namespace"
    tagged = f" with a tag of {', '.join(tags)}" if tags else ""
    old = "" if older_than is None else f" stored more than {_span(older_than)} ago"
    return f"the answers of {of}{tagged}{old}"


def clear(
    path: PathOption = DEFAULT_PATH,
    namespace: Annotated[
        str | None, typer.Option(help="Forget this one only; without it, all of them.")
    ] = None,
    yes: YesOption = False,
) -> None:
    """Forget stored answers."""
    what = f"namespace {namespace!r}" if namespace else "every namespace"
    if not yes:
        typer.confirm(f"Forget {what} in {path}?", abort=True)
    with SemanticCache(path=existing(path)) as cache:
        gone = cache.clear(namespace, all_namespaces=namespace is None)
    typer.echo(f"{gone} entries forgotten")


def rebuild(path: PathOption = DEFAULT_PATH) -> None:
    """Make the vector index anew from the ledger; no answer is lost."""
    with SemanticCache(path=existing(path)) as cache:
        renewed = cache.rebuild()
        indexed = cache.stats().indexed_scopes
    typer.echo(f"{renewed} entries embedded anew, {indexed} large scopes indexed")
