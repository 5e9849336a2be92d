"""What is in a cache: clear, rebuild."""

from typing import Annotated

import typer

from semcache_core.cache import SemanticCache
from semcache_core.cli.options import DEFAULT_PATH, PathOption, existing


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
