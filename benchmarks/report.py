"""The Markdown tables of a results file, with the targets beside the figures."""

from dataclasses import dataclass
from typing import Any

Results = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """`limit` is the most that `figure` may be, or the least where `at_least`."""

    what: str
    figure: float | None
    limit: float
    unit: str
    at_least: bool = False

    @property
    def met(self) -> bool:
        assert self.figure is not None
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit

    def cells(self) -> tuple[str, ...]:
        bound = f"{'at least' if self.at_least else 'at most'} {self.limit:g} {self.unit}"
        if self.figure is None:
            return self.what, bound, "not measured", ""
        return (
            self.what,
            bound,
            f"{short(self.figure)} {self.unit}",
            "yes" if self.met else "**no**",
        )


def table(results: Results) -> str:
    """Targets, every row of the results, and what they were measured on."""
    parts = [
        markdown(("target", "bound", "measured", "met"), [t.cells() for t in targets(results)]),
        markdown(
            ("what", "operation", "entries", "scopes", "part", "p50 ms", "p95 ms", "n", "missed"),
            [_latency(row) for row in results["rows"]],
        ),
        markdown(("lookups by", "exact hits/s", "semantic hits/s", "misses/s"), _rates(results)),
        _stalls(results),
        markdown(
            ("first", "ms from import", "of it import", "open", "lookup", "memory MiB"),
            [_first(row) for row in results["first_hit"]],
        ),
        markdown(
            ("entries in a scope", "scan p50 ms", "Chroma p50 ms", "first scan ms", "Chroma finds"),
            [_scan(row) for row in results["scan_limit"]],
        ),
        _made_on(results),
    ]
    return "\n\n".join(parts)


def targets(results: Results) -> list[Target]:
    """What semcache promises, each with its worst figure over the layouts measured."""
    sizes = sorted({row["entries"] for row in results["rows"] if row["subject"] == "semcache"})
    found = [
        Target(
            f"exact hit at {size:,} entries", _worst(results, "exact hit", size, "whole"), 0.5, "ms"
        )
        for size in sizes
    ]
    for size, limit in ((10_000, 2.0), (100_000, 5.0)):
        for operation in ("semantic hit", "miss"):
            figure = _worst(results, operation, size, "without forward pass")
            what = f"{operation} without the forward pass at {size:,} entries"
            found.append(Target(what, figure, limit, "ms"))
    for size in sizes:
        what = f"paraphrases found at {size:,} entries in one scope"
        found.append(Target(what, _share_found(results, size), 0.99, "of all", at_least=True))
    for part in ("whole", "without forward pass"):
        what = f"semantic hit ({part}), GPTCache's time over ours at 10,000 entries"
        found.append(Target(what, _over_gptcache(results, part), 5.0, "times", at_least=True))
    for operation in ("exact hit", "semantic hit", "miss"):
        for by in ("32 threads", "32 tasks"):
            what = f"{operation}: lookups per second of {by} over those of 1 thread"
            found.append(Target(what, _gain(results, operation, by), 1.5, "times", at_least=True))
    return found


def _worst(results: Results, operation: str, size: int, part: str) -> float | None:
    wanted = ("semcache", operation, size, part)
    return max((row["p50_ms"] for row in results["rows"] if _is(row, *wanted)), default=None)


def _share_found(results: Results, size: int) -> float | None:
    rows = [r for r in results["rows"] if _is(r, "semcache", "semantic hit", size, "whole")]
    one_scope = [1 - row["unexpected"] / row["n"] for row in rows if row["scopes"] == 1]
    return one_scope[0] if one_scope else None


def _over_gptcache(results: Results, part: str) -> float | None:
    theirs = [r for r in results["rows"] if _is(r, "GPTCache", "semantic hit", 10_000, part)]
    ours = _worst(results, "semantic hit", 10_000, part)
    return theirs[0]["p50_ms"] / ours if theirs and ours else None


def _gain(results: Results, operation: str, by: str) -> float | None:
    rates = {(r["operation"], r["by"]): r["per_second"] for r in results["throughput"]}
    one = rates.get((operation, "1 thread"))
    return rates[operation, by] / one if one else None


def _is(row: dict[str, Any], subject: str, operation: str, size: int, part: str) -> bool:
    found = (row["subject"], row["operation"], row["entries"], row["part"])
    return found == (subject, operation, size, part)


def _latency(row: dict[str, Any]) -> tuple[str, ...]:
    sizes = (f"{row[key]:,}" if row[key] else "" for key in ("entries", "scopes"))
    times = (
        short(row["p50_ms"]),
        short(row["p95_ms"]),
        str(row["n"]),
        str(row["unexpected"] or ""),
    )
    return (row["subject"], row["operation"], *sizes, row["part"], *times)


def _rates(results: Results) -> list[tuple[str, ...]]:
    by_number: dict[str, list[str]] = {}
    for row in results["throughput"]:
        by_number.setdefault(row["by"], []).append(f"{row['per_second']:,.0f}")
    return [(by, *rates) for by, rates in by_number.items()]


def _stalls(results: Results) -> str:
    return markdown(
        ("32 tasks doing", "event loop late, worst ms", "99th percentile ms", "memory MiB"),
        [
            (
                row["operation"],
                f"{row['loop_late_max_ms']:g}",
                f"{row['loop_late_p99_ms']:g}",
                f"{row['rss_mib']:g}",
            )
            for row in results["throughput"]
            if "loop_late_max_ms" in row
        ],
    )


def _first(row: dict[str, Any]) -> tuple[str, ...]:
    stages = ("p50_ms", "import_p50_ms", "open_p50_ms", "lookup_p50_ms", "rss_mib")
    return (row["operation"], *(f"{row[stage]:,.0f}" for stage in stages))


def _scan(row: dict[str, Any]) -> tuple[str, ...]:
    times = (short(row["scan_p50_ms"]), short(row["chroma_p50_ms"]), f"{row['first_scan_ms']:g}")
    return (f"{row['entries']:,}", *times, f"{row['chroma_recall_of_nearest']:.1%}")


def _made_on(results: Results) -> str:
    on, settings = results["hardware"], results["settings"]
    packages = {**results["versions"], **{f"(GPTCache's) {k}": v for k, v in _theirs(results)}}
    return (
        f"Measured on {on['cpu']}, {on['cores']} cores, {on['memory_gib']} GiB; model: "
        f"{results['artefact']}; seed {settings['seed']}, {settings['rounds']} rounds. "
        + ", ".join(f"{name} {version}" for name, version in packages.items())
        + "."
    )


def _theirs(results: Results) -> list[tuple[str, str]]:
    return list((results["gptcache_versions"] or {}).items())


def short(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
