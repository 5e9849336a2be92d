"""Commands from a log of questions to an artefact: mine, label, train, calibrate."""

import shutil
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semcache_core._utils.lazy import check_extra
from semcache_core.cli.options import ArtefactOption, for_json_lines, loaded
from semcache_core.cli.progress import Steps
from semcache_core.decision.calibration import FILE_NAME
from semcache_core.embedding.onnx import OnnxEmbedder
from semcache_core.embedding.wrappers import open_sentence_transformer
from semcache_core.errors import SemcacheError

if TYPE_CHECKING:
    from semcache_core.training.data.labelling import Labelling
    from semcache_core.training.data.records import MinedPair
    from semcache_core.training.data.teacher import Teacher

BASE = "sentence-transformers/all-MiniLM-L6-v2"
SeedOption = Annotated[int, typer.Option("--seed", help="Draws whatever is drawn.")]


def mine(
    questions: Annotated[
        Path,
        typer.Argument(
            help='JSON lines or CSV: {"question"}, and "answer" or "answer_id" if known.'
        ),
    ],
    out: Annotated[Path, typer.Option(help="The pairs go here.")],
    neighbours: Annotated[
        int, typer.Option(min=1, help="How many nearest questions to pair each with.")
    ] = 10,
    per_question: Annotated[
        int | None, typer.Option(min=1, help="At most so many pairs with any one question.")
    ] = None,
    hard: Annotated[
        bool,
        typer.Option("--hard", help="Needs known answers: only pairs that similarity cannot tell."),
    ] = False,
    artefact: ArtefactOption = None,
    seed: SeedOption = 0,
) -> None:
    """Nearest-neighbour candidate pairs from a log of questions, the nearest first."""
    from semcache_core.training.data.mining import mine as mine_pairs
    from semcache_core.training.data.records import read_questions, write_pairs

    for_json_lines(out)
    read = read_questions(questions)
    embedder, _ = loaded(artefact)
    with Steps() as steps:
        pairs = mine_pairs(
            read,
            embedder,
            neighbours=neighbours,
            per_question=per_question,
            hard=hard,
            seed=seed,
            progress=steps.show,
        )
    write_pairs(out, pairs)
    typer.echo(f"{len(pairs)} pairs of {len(read)} questions in {out}")


def label(
    pairs: Annotated[Path, typer.Argument(help="JSON lines as `mine` writes them, or CSV.")],
    teacher: Annotated[
        str | None, typer.Option(help="A chat model as provider:name, which judges each pair.")
    ] = None,
    answers: Annotated[
        bool, typer.Option("--answers", help="Label by the known answers instead.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="The labelled pairs go here; without it, into PAIRS.")
    ] = None,
    hard: Annotated[
        bool, typer.Option("--hard", help="Keep only pairs that similarity cannot tell.")
    ] = False,
    store: Annotated[
        Path | None, typer.Option(help="Verdicts are kept here; PAIRS.verdicts.jsonl by default.")
    ] = None,
    per_minute: Annotated[
        float | None, typer.Option(min=0.01, help="At most so many calls a minute.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls at the same time.")] = 4,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before paying a teacher.")] = False,
) -> None:
    """Say of each pair whether one answer serves both questions."""
    from semcache_core.training.data.labelling import label_by_answers
    from semcache_core.training.data.mining import hard_subset
    from semcache_core.training.data.records import read_mined, write_pairs
    from semcache_core.training.data.teacher import Teacher

    if (teacher is None) is not answers:
        raise SemcacheError("give either --teacher provider:name or --answers")
    if hard and out is None:
        raise SemcacheError("--hard leaves pairs out; say by --out where the rest goes")
    for_json_lines(out or pairs)
    read = read_mined(pairs)
    if teacher is None:
        labelled = label_by_answers(read)
    else:
        kept = store or pairs.with_name(f"{pairs.name}.verdicts.jsonl")
        done = _asked(read, Teacher.open(teacher), kept, per_minute, concurrency, yes)
        labelled = done.pairs
        typer.echo(f"{done.asked} judged now")
        if done.malformed and out is None:
            raise SemcacheError(
                f"{done.malformed} verdicts could not be read, and {pairs} is not to lose pairs: "
                "run it again, or say by --out where those with a verdict go"
            )
    if hard:
        labelled = hard_subset(labelled)
    write_pairs(out or pairs, labelled)
    same = sum((pair.same_answer or 0) > 0.5 for pair in labelled)
    typer.echo(f"{len(labelled)} pairs in {out or pairs}, {same} with the same answer")


def _asked(
    pairs: "list[MinedPair]",
    teacher: "Teacher",
    store: Path,
    per_minute: float | None,
    concurrency: int,
    yes: bool,
) -> "Labelling":
    from semcache_core.training.data.labelling import estimate, label_with_teacher

    typer.echo(str(estimate(pairs, teacher.name, store=store)))
    if not yes:
        typer.confirm("Ask the teacher?", abort=True)
    with Steps() as steps:
        return label_with_teacher(
            pairs,
            teacher,
            store=store,
            max_per_minute=per_minute,
            concurrency=concurrency,
            progress=steps.show,
        )


def train(
    pairs: Annotated[
        Path, typer.Argument(help='JSON lines or CSV: {"prompt", "other", "same_answer"}.')
    ],
    out: Annotated[Path, typer.Option(help="The artefact goes into this directory.")],
    base: Annotated[
        str, typer.Option(help="A sentence-transformers model: a name, or a directory.")
    ] = BASE,
    loss: Annotated[str, typer.Option(help="bce or sld, as in arXiv 2402.01173.")] = "bce",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the pairs.")] = 1,
    seed: SeedOption = 0,
    calibrate_on: Annotated[
        Path | None, typer.Option(help="Calibrate on these pairs, not on a part of PAIRS.")
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="Unlabelled questions, as for `mine`, for synthetic pairs.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=2, help="Pairs in one step.")] = 64,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of the optimiser, AdamW.")] = 5e-5,
    lora_rank: Annotated[int, typer.Option(min=0, help="0 trains all weights.")] = 0,
    frozen_layers: Annotated[
        int, typer.Option(min=0, help="Leave so many of the lowest layers as they are: faster.")
    ] = 0,
    distillation: Annotated[
        float, typer.Option(min=0, help="How much to hold on to what the base thinks alike.")
    ] = 1.0,
    synthetic: Annotated[
        float, typer.Option(min=0, help="Synthetic pairs for each labelled one.")
    ] = 0.5,
    composed: Annotated[
        float, typer.Option(min=0, help="Longer pairs made of two, for each labelled one.")
    ] = 0.0,
    interpolation: Annotated[
        float, typer.Option(help="1 takes the tuned weights, .5 those half way from the base.")
    ] = 1.0,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from an interrupted run's checkpoint.")
    ] = False,
    # the names that --distillation and --interpolation had once
    keep: Annotated[float | None, typer.Option(min=0, hidden=True)] = None,
    towards_tuned: Annotated[float | None, typer.Option(hidden=True)] = None,
) -> None:
    """Fine-tune an embedding model on labelled pairs, calibrate it, write an artefact."""
    from semcache_core.training import FINE_TUNING

    check_extra("semcache train", FINE_TUNING)
    from semcache_core.training.data.records import read_pairs, read_questions
    from semcache_core.training.pipeline import train as train_artefact
    from semcache_core.training.trainer import FitOptions

    options = FitOptions(
        loss=loss,  # type: ignore[arg-type]  # FitOptions checks it
        epochs=epochs,
        seed=seed,
        batch_size=batch_size,
        learning_rate=learning_rate,
        lora_rank=lora_rank,
        frozen_layers=frozen_layers,
        distillation=distillation if keep is None else keep,
        synthetic=synthetic,
        composed=composed,
        interpolation=interpolation if towards_tuned is None else towards_tuned,
        max_steps=max_steps,
    )
    read = read_pairs(pairs)
    held_out = None if calibrate_on is None else read_pairs(calibrate_on)
    unlabelled = [] if questions is None else [q.text for q in read_questions(questions)]
    with Steps() as steps:
        made = train_artefact(
            read,
            open_sentence_transformer(base),
            out,
            options,
            base_name=base,
            calibrate_on=held_out,
            questions=unlabelled,
            resume=resume,
            progress=lambda step, of, value: steps.show("step", step, of, f"loss {value:.3f}"),
        )
    if made.before is not None and made.after is not None:
        typer.echo(
            f"AUC on {made.after.pairs} test pairs: {made.before.auc:.3f} before, "
            f"{made.after.auc:.3f} after; on the {len(made.after.hard)} hard ones "
            f"{made.before.hard_auc:.3f} and {made.after.hard_auc:.3f}"
        )
    typer.echo(f"artefact in {out}; its card.md says more")
    for problem in made.problems():
        typer.echo(problem, err=True)
    if made.worse:
        raise typer.Exit(1)


def calibrate(
    pairs: Annotated[
        Path,
        typer.Argument(help="Labelled pairs that the model was not trained on, as for `evaluate`."),
    ],
    artefact: Annotated[Path, typer.Option(help="The artefact to calibrate anew.")],
) -> None:
    """Refit lambda, c and the threshold table of an artefact; the old file is kept beside it.

    Where the pairs name a split, only those of "calibration" are used.
    """
    from semcache_core.training.calibration.calibrate import calibrate as calibrate_model
    from semcache_core.training.calibration.calibrate import no_threshold
    from semcache_core.training.data.records import read_pairs
    from semcache_core.training.data.splits import part_of

    read = read_pairs(pairs)
    trained_on = [pair for pair in read if pair.split == "train"]
    own = part_of(read, "calibration")
    made = calibrate_model(OnnxEmbedder.load(artefact), own, trained_on=trained_on)
    kept = _keep_old(artefact / FILE_NAME)
    made.save(artefact)
    if kept is not None:
        typer.echo(f"the old calibration is kept as {kept}")
    served = [f"{row.max_error_rate:.0%}: {row.share_served:.1%}" for row in made.thresholds]
    typer.echo(f"lambda {made.lam:.5f}, c {made.c:.3f}; share served at each bound:")
    typer.echo(", ".join(served))
    if without := no_threshold(made):
        typer.echo(without, err=True)


def _keep_old(file: Path) -> Path | None:
    """Copy `file` to the first free name beside it; None where there is no file."""
    if not file.exists():
        return None
    names = (file.with_name(f"{file.stem}.old-{n}{file.suffix}") for n in count(1))
    kept = next(name for name in names if not name.exists())
    shutil.copyfile(file, kept)
    return kept
