"""The commands `export` and `import`."""

import json
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from semcache_core._utils.files import write_whole
from semcache_core.cache import SemanticCache
from semcache_core.cli.options import DEFAULT_PATH, PathOption, existing, for_json_lines, is_cache
from semcache_core.cli.progress import Steps
from semcache_core.errors import SemcacheError
from semcache_core.quality.verdicts import Verdict, VerdictLog
from semcache_core.storage.ledger import Ledger
from semcache_core.transfer.entries import Listing
from semcache_core.transfer.jsonl import EntriesFile
from semcache_core.transfer.transfer import write_entries


def export(
    file: Annotated[Path, typer.Argument(help="The entries, or the pairs, go here.")],
    feedback: Annotated[
        bool,
        typer.Option("--feedback", help="What was judged of answers, as pairs for training."),
    ] = False,
    vectors: Annotated[
        bool, typer.Option("--vectors", help="With vectors: to be embedded nowhere again.")
    ] = False,
    path: PathOption = DEFAULT_PATH,
    namespace: Annotated[
        str | None, typer.Option(help="Of this one only; without it, of all of them.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
) -> None:
    """Write stored answers for `import`, or judged ones as pairs that `train` and `calibrate` read.

    The file can be read by you alone, as the cache itself.
    """
    if feedback and vectors:
        raise SemcacheError("judged pairs have no vectors; leave out --vectors or --feedback")
    if file.exists() and not force:
        raise SemcacheError(f"{file} is there already; name another file, or replace it by --force")
    for_json_lines(file)
    with closing(Ledger.open(existing(path), None)) as ledger:
        if feedback:
            _export_judged(file, VerdictLog(ledger).judged(namespace))
        else:
            _export_entries(file, ledger, namespace, vectors)


def _export_entries(file: Path, ledger: Ledger, namespace: str | None, vectors: bool) -> None:
    # not the shipped model's: an app may have brought its own, which is known to the ledger alone
    models = Listing(ledger).models() if vectors else []
    fingerprint = models[0].fingerprint if models else None
    written = write_entries(ledger, file, time.time(), namespace, fingerprint)
    typer.echo(f"{written.entries:,} entries, {written.vectors:,} with their vectors, in {file}")
    if written.left_out:
        typer.echo(f"{written.left_out:,} entries are too long for a file and were left out")


def _export_judged(file: Path, judgements: list[Verdict]) -> None:
    pairs = _last_of_each_pair(judgements)
    write_whole(file, (_line(pair) for pair in pairs), private=True)
    same = sum(judgement.correct for judgement in pairs)
    counted = f"{len(pairs)} pairs of {len(judgements)} judgements, {same} with the same answer"
    typer.echo(f"{counted}, in {file}" if pairs else f"nothing was judged; {file} is empty")


def _last_of_each_pair(judgements: Iterable[Verdict]) -> list[Verdict]:
    """One judgement for each two questions: who judged again knew more."""
    last = {
        frozenset((judgement.asked, judgement.stored)): judgement
        for judgement in judgements
        if judgement.asked.strip() and judgement.stored.strip()  # training refuses blank questions
    }
    return list(last.values())


def _line(pair: Verdict) -> bytes:
    fields = {"prompt": pair.asked, "other": pair.stored, "same_answer": int(pair.correct)}
    return (json.dumps(fields) + "\n").encode("ascii")  # JSON escapes the rest


def import_(
    file: Annotated[
        Path,
        typer.Argument(help='An export, or a log: JSON lines or CSV, {"question", "response"}.'),
    ],
    path: PathOption = DEFAULT_PATH,
    namespace: Annotated[
        str, typer.Option(help="Of the lines of a log that name none.")
    ] = "default",
    embed: Annotated[
        bool,
        typer.Option(
            "--embed/--no-embed",
            help="Make the vectors that are missing; else only take those in FILE, of any model.",
        ),
    ] = True,
) -> None:
    """Store the answers in FILE; what is here already stays where it is as new or newer.

    All of FILE is checked before anything of it is stored. Stopped and begun again, it goes on.
    """
    directory = path.expanduser()
    is_new = not is_cache(directory)
    with EntriesFile(file) as source:
        if is_new:  # a wrong line is named before a directory is made for the others
            source.check()
    with SemanticCache(path=directory, namespace=namespace) as cache, Steps() as steps:
        done = cache.import_entries(
            file, embed=embed, progress=lambda n, total: steps.show("importing", n, total)
        )
    where = f"a new cache at {directory}" if is_new else str(directory)
    typer.echo(
        f"{done.stored:,} of {done.read:,} entries stored in {where}: {done.present:,} were there, "
        f"{done.expired:,} have expired; {done.embedded:,} embedded"
    )
