"""What a cache has learnt, for training."""

import json
import os
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from semcache_core.cli.options import DEFAULT_PATH, PathOption, existing
from semcache_core.errors import SemcacheError
from semcache_core.ledger import Ledger
from semcache_core.records import Judgement, Records


def export(
    file: Annotated[Path, typer.Argument(help="The pairs go here.")],
    feedback: Annotated[
        bool, typer.Option("--feedback", help="What was judged of answers, as labelled pairs.")
    ] = False,
    path: PathOption = DEFAULT_PATH,
    namespace: Annotated[
        str | None, typer.Option(help="Of this one only; without it, of all of them.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
) -> None:
    """Write judged answers as pairs that `train` and `calibrate` read."""
    if not feedback:
        raise SemcacheError("say what to export; so far there is only --feedback")
    if file.exists() and not force:
        raise SemcacheError(f"{file} is there already; name another file, or replace it by --force")
    directory = existing(path)
    typer.echo(f"reading what was judged in {directory}")
    with closing(Ledger.open(directory, None)) as ledger:
        judgements = Records(ledger).judged(namespace)
    pairs = _last_of_each_pair(judgements)
    _write(file, pairs)
    same = sum(judgement.correct for judgement in pairs)
    counted = f"{len(pairs)} pairs of {len(judgements)} judgements, {same} with the same answer"
    typer.echo(f"{counted}, in {file}" if pairs else f"nothing was judged; {file} is empty")


def _last_of_each_pair(judgements: Iterable[Judgement]) -> list[Judgement]:
    """One judgement for each two questions: who judged again knew more."""
    last = {
        frozenset((judgement.asked, judgement.stored)): judgement
        for judgement in judgements
        if judgement.asked.strip() and judgement.stored.strip()  # training refuses blank questions
    }
    return list(last.values())


def _write(file: Path, pairs: Iterable[Judgement]) -> None:
    """All of it or nothing: a failure leaves what was there.

    Not by `training.pairs.write_pairs`, which needs the extra `train`: the machine that serves
    answers has no torch.
    """
    target = Path(os.path.realpath(file))  # a link stays one: the file it leads to is replaced
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.unfinished")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("w", encoding="ascii") as out:  # JSON escapes the rest
                out.writelines(_line(pair) for pair in pairs)
                out.flush()
                os.fsync(out.fileno())
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise SemcacheError(
            f"{file} cannot be written: {error}; what was there before is as it was"
        ) from error


def _line(pair: Judgement) -> str:
    fields = {"prompt": pair.asked, "other": pair.stored, "same_answer": int(pair.correct)}
    return json.dumps(fields) + "\n"
