"""Commands that measure an artefact: score, evaluate, simulate."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from semcache_core.cli.options import ArtefactOption, JsonOption, loaded, table_of
from semcache_core.cli.progress import Steps

if TYPE_CHECKING:
    from semcache_core.evaluation.evaluate import Evaluation
    from semcache_core.evaluation.simulation import Rate, Simulation

ReportOption = Annotated[
    Path | None, typer.Option("--report", help="Write a page with plots into this directory.")
]
PairsArgument = Annotated[
    Path, typer.Argument(help='JSON lines or CSV: {"prompt", "other", "same_answer"}.')
]


def score(
    pairs: Annotated[Path, typer.Argument(help='JSON lines or CSV: {"prompt", "other"}.')],
    artefact: ArtefactOption = None,
) -> None:
    """Similarity and P(same answer) of each pair: a JSON line each, in the order read."""
    from semcache_core.training.calibration.streams import similarities_of
    from semcache_core.training.data.records import read_mined

    read = read_mined(pairs)
    embedder, calibration = loaded(artefact)
    for similarity in similarities_of(embedder, read).tolist():
        probability = calibration.probability(similarity)
        typer.echo(json.dumps({"similarity": similarity, "probability": probability}))


def evaluate(
    pairs: PairsArgument,
    artefact: ArtefactOption = None,
    base: Annotated[
        Path | None,
        typer.Option(help="Take the hard pairs by this artefact's similarity, not by its own."),
    ] = None,
    as_json: JsonOption = False,
    report: ReportOption = None,
    seed: Annotated[int, typer.Option(help="Draws streams and intervals.")] = 0,
) -> None:
    """AUC, average precision, calibration, hard pairs, and what could be served at which error.

    Where the pairs name a split, only those of "test" are used. The exit code is 1 where the
    artefact serves more wrong answers than a bound allows.
    """
    from semcache_core.evaluation.evaluate import evaluate as evaluate_pairs
    from semcache_core.evaluation.report import report_directory, write_report
    from semcache_core.training.calibration.streams import similarities_of
    from semcache_core.training.data.records import read_pairs
    from semcache_core.training.data.splits import part_of

    if report is not None:
        report_directory(report)  # an error before the work
    read = part_of(read_pairs(pairs), "test")
    embedder, calibration = loaded(artefact)
    with Steps() as steps:
        evaluation = evaluate_pairs(
            read,
            embedder,
            calibration,
            base_similarities=None if base is None else similarities_of(loaded(base)[0], read),
            seed=seed,
            progress=steps.show,
        )
    if report is not None:
        write_report(evaluation, report)
    broken = evaluation.forms.broken_bounds()
    if as_json:
        typer.echo(json.dumps(evaluation.as_json()))
    else:
        _print_evaluation(evaluation, broken)
        if report is not None:
            typer.echo(f"the page with plots and the worst pairs is in {report}")
    if broken:
        typer.echo(
            f"the artefact does not keep its bound at max_error_rate {', '.join(broken)}: do not "
            "serve with it; calibrate it on more answers (`semcache calibrate`), or use its base",
            err=True,
        )
        raise typer.Exit(1)


def simulate(
    stream: Annotated[Path, typer.Argument(help='JSON lines or CSV: {"question", "answer_id"}.')],
    artefact: ArtefactOption = None,
    untuned: Annotated[
        Path | None, typer.Option(help="Artefact of the fixed thresholds; the shipped one if none.")
    ] = None,
    max_error_rate: Annotated[
        list[float] | None, typer.Option(help="A bound to serve at; can be given several times.")
    ] = None,
    capacity: Annotated[
        int | None, typer.Option(min=1, help="Entries held; beyond them the oldest used goes.")
    ] = None,
    cost_per_call: Annotated[float, typer.Option(min=0, help="Of the model, in any unit.")] = 1.0,
    seconds_per_call: Annotated[
        float, typer.Option(min=0, help="How long a call of the model takes.")
    ] = 1.0,
    cost_of_wrong: Annotated[
        float | None, typer.Option(min=0, help="Of one wrong answer; one call if not given.")
    ] = None,
    as_json: JsonOption = False,
    report: ReportOption = None,
    seed: Annotated[int, typer.Option(help="Draws the intervals.")] = 0,
) -> None:
    """One stream under several policies side by side: what each would have saved, and how wrong."""
    from semcache_core.embedding.onnx import DEFAULT_ARTEFACT
    from semcache_core.evaluation.policies import Arm, ExactOnly, InHindsight, artefact_arm
    from semcache_core.evaluation.replay import read_stream
    from semcache_core.evaluation.report import report_directory, write_simulation_report
    from semcache_core.evaluation.simulation import simulate as simulate_stream

    if report is not None:
        report_directory(report)
    bounds = max_error_rate or [0.02, 0.05]
    arrivals = read_stream(stream)
    plain, _ = loaded(untuned)
    arms = [Arm(ExactOnly(), None)]
    for bound in bounds:
        arms.append(Arm(InHindsight(f"best threshold at {bound:g}", bound), plain))
        served = artefact or DEFAULT_ARTEFACT
        arms.append(artefact_arm(served, bound, f"max_error_rate {bound:g}"))
    with Steps() as steps:
        simulation = simulate_stream(
            arrivals,
            arms,
            capacity=capacity,
            cost_per_call=cost_per_call,
            seconds_per_call=seconds_per_call,
            cost_of_wrong=cost_of_wrong,
            seed=seed,
            progress=lambda done, total: steps.show("simulating", done, total),
        )
    if report is not None:
        write_simulation_report(simulation, report)
    if as_json:
        typer.echo(json.dumps(simulation.as_json()))
        return
    _print_simulation(simulation)
    if report is not None:
        typer.echo(f"the page with plots over the stream is in {report}")


def _print_evaluation(evaluation: "Evaluation", broken: Sequence[str]) -> None:
    figures = evaluation.as_json()
    intervals = figures["intervals"]

    def shown(value: float | None, interval: list[float] | None) -> str:
        if value is None:
            return "-"
        return f"{value:.3f}" + (f"  ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")

    rows = [
        (name, shown(figures[name], intervals[name]))
        for name in ("auc", "average_precision", "hard_auc", "p_chr_auc", "brier", "ece")
    ]
    rows += [
        (f"{form} {bound}", shown(value, intervals[form][bound]))
        for form in ("served_at_error", "served_at_error_half_missing")
        for bound, value in figures[form].items()
    ]
    for bound, at in figures["at_max_error_rate"].items():
        interval = intervals["at_max_error_rate"][bound]["half_missing"]["error"]
        wrong = shown(at["half_missing"]["error"], interval)
        wrong = f"[red]{wrong}  the bound is broken[/red]" if bound in broken else wrong
        rows.append((f"wrong at max_error_rate {bound}", wrong))
    title = f"{figures['n']} pairs, {figures['positives']} with the same answer"
    Console().print(table_of(rows, ("figure", "value (95 % interval)"), title))
    if figures["streams_note"]:
        typer.echo(figures["streams_note"])


def _print_simulation(simulation: "Simulation") -> None:
    def shown(rate: "Rate") -> str:
        if rate.value is None:
            return "-"
        return f"{rate.value:.1%} ({rate.low:.1%} to {rate.high:.1%})"

    rows = [
        (
            arm.name,
            shown(arm.caching_efficiency),
            shown(arm.false_hit_rate),
            f"{arm.cost_saved_share:.1%}",
        )
        for arm in simulation.arms
    ]
    columns = ("policy", "rightly served", "wrong, of served by meaning", "cost saved")
    title = (
        f"{simulation.requests} requests, {simulation.distinct_questions} different "
        f"questions, {simulation.answerable:.0%} answerable"
    )
    Console().print(table_of(rows, columns, title))
