"""What is in a cache: stats, clear, rebuild."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from semcache_core.cache import SemanticCache
from semcache_core.cli.options import DEFAULT_PATH, JsonOption, PathOption, existing
from semcache_core.explanation import CacheStats


def stats(path: PathOption = DEFAULT_PATH, as_json: JsonOption = False) -> None:
    """What a cache holds."""
    with SemanticCache(path=existing(path)) as cache:
        found = cache.stats()
        held = {**asdict(found), **cache.sizes()}
    figures = {name: held[name] for name in ("entries", "namespaces", "hits_ever", "bytes")}
    errors = {name: held[name] for name in ("max_error_rate", "claimed_error", "measured")}
    if as_json:
        typer.echo(json.dumps({**figures, **errors}))
        return
    table = Table("", "", show_header=False)
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:,}")
    for name, text in _errors(found):
        table.add_row(name, text)
    Console().print(table)


def _errors(found: CacheStats) -> list[tuple[str, str]]:
    """How wrong the hits by meaning may be, claim to be, and were where that was looked at."""
    measured = found.measured
    return [
        ("wrong, at most", f"{found.max_error_rate:.1%}"),
        ("wrong, claimed", "-" if found.claimed_error is None else f"{found.claimed_error:.1%}"),
        (
            "wrong, measured",
            "nothing audited"
            if measured.error is None
            else f"{measured.error:.1%} ({measured.low:.1%} to {measured.high:.1%}, "
            f"{measured.n:,} audited)",
        ),
    ]


def clear(
    path: PathOption = DEFAULT_PATH,
    namespace: Annotated[
        str | None, typer.Option(help="Forget this one only; without it, all of them.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
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
