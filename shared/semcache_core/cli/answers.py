"""The commands about single answers: `explain`, `feedback` and `forget`."""

import json
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from semcache_core.cache import SemanticCache
from semcache_core.cli.options import (
    DEFAULT_PATH,
    ArtefactOption,
    JsonOption,
    PathOption,
    YesOption,
    existing,
    live_entry,
    printable,
    printable_lines,
)
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT, OnnxEmbedder
from semcache_core.errors import SemcacheError
from semcache_core.settings import CacheOptions, settings_from
from semcache_core.storage.ledger import Ledger
from semcache_core.transfer.entries import Listing
from semcache_core.types import Request

NamespaceOption = Annotated[
    str | None, typer.Option(help="The tenant; without it, the one of the setting `namespace`.")
]
ScopeOption = Annotated[
    str | None, typer.Option(help="The scope, as `inspect --json` shows it; empty without it.")
]
EntryOption = Annotated[
    int | None,
    typer.Option(help="Take namespace and scope from the entry with this id, see `inspect`."),
]


def explain(
    question: Annotated[str, typer.Argument(help="The question, as a user asks it.")],
    path: PathOption = DEFAULT_PATH,
    namespace: NamespaceOption = None,
    scope: ScopeOption = None,
    entry: EntryOption = None,
    artefact: ArtefactOption = None,
    max_error_rate: Annotated[
        float | None,
        typer.Option(help="The bound to decide at; without it, that of the app that served."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Why a lookup of this question would hit or miss, with the nearest entries.

    Nothing is stored or counted. The adapters make a scope of the system prompt, the model and all
    else that must be equal: name an entry of the same calls by --entry.
    """
    options: CacheOptions = {"path": existing(path)}
    if artefact is not None:
        options["artefact"] = artefact
    with closing(Ledger.open(existing(path), None)) as ledger:
        request = _request(ledger, question, namespace, scope, entry)
        _check_model(ledger, settings_from(options).artefact)
        served_at = ledger.traffic().max_error_rate
        bound = served_at if max_error_rate is None else max_error_rate
    if bound is not None:
        options["max_error_rate"] = bound
    with SemanticCache(**options) as cache:
        explanation = cache.explain(request)
    if as_json:
        typer.echo(json.dumps({**asdict(explanation), "text": str(explanation)}, default=str))
    else:
        typer.echo(printable_lines(str(explanation)))


def _check_model(ledger: Ledger, artefact: Path | None) -> None:
    """Raise SemcacheError where no stored vector is of this model: it would find nothing near."""
    known = [model.fingerprint for model in Listing(ledger).models()]
    if known and OnnxEmbedder(artefact or DEFAULT_ARTEFACT).fingerprint not in known:
        raise SemcacheError(
            f"the entries were embedded by another model ({known[0][:12]}...); give its artefact "
            "by --artefact, or call cache.explain(question) in the app that has its own embedder"
        )


def _request(
    ledger: Ledger,
    question: str | None,
    namespace: str | None,
    scope: str | None,
    entry: int | None,
) -> Request:
    """The request of a question, in the place of an entry where one is named; without a question,
    the entry's own.
    """
    if entry is None:
        return Request(question or "", scope or "", namespace)
    if namespace is not None or scope is not None:
        raise SemcacheError("--entry says namespace and scope; leave out --namespace and --scope")
    found = live_entry(ledger, entry, time.time())
    return Request(found.question if question is None else question, found.scope, found.namespace)


def feedback(
    entry: Annotated[int, typer.Argument(help="Its id: `Hit.entry_id`, or as `inspect` shows it.")],
    right: Annotated[
        bool, typer.Option("--right/--wrong", help="Whether its answer was right for the question.")
    ],
    question: Annotated[
        str | None,
        typer.Option(help="What was asked; without it, what it last answered by meaning."),
    ] = None,
    path: PathOption = DEFAULT_PATH,
) -> None:
    """Say of a hit whether its answer was right.

    A wrong answer is never given to that question again, and needs a higher probability for others.
    An answer that is wrong for its own question is forgotten.
    """
    with closing(Ledger.open(existing(path), None)) as ledger:
        asked = _request(ledger, question, None, None, entry)
    with SemanticCache(path=existing(path)) as cache:
        cache.feedback(entry, right, request=None if question is None else asked)
    typer.echo(f"noted: the answer of entry {entry} was {'right' if right else 'wrong'}")


def forget(
    question: Annotated[
        str | None, typer.Argument(help="The stored question, exactly; or give --entry.")
    ] = None,
    path: PathOption = DEFAULT_PATH,
    namespace: NamespaceOption = None,
    scope: ScopeOption = None,
    entry: Annotated[
        int | None, typer.Option(help="The entry with this id, in place of a question.")
    ] = None,
    yes: YesOption = False,
) -> None:
    """Delete one stored answer.

    `invalidate` deletes by tag and age, `clear` all that a tenant asked.
    """
    if (question is None) is (entry is None):
        raise SemcacheError("give either the stored question or --entry")
    with closing(Ledger.open(existing(path), None)) as ledger:
        request = _request(ledger, question, namespace, scope, entry)
    stored = printable(request.question)
    if not yes:
        typer.confirm(f'Forget the answer to "{stored}"?', abort=True)
    with SemanticCache(path=existing(path)) as cache:
        if not cache.forget(request):
            raise SemcacheError(
                f'nothing is stored for exactly "{stored}" in this namespace and scope; '
                "`semcache inspect --question` lists what is, with its id for --entry"
            )
    typer.echo("1 entry forgotten")
