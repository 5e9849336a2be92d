"""The tables and the plot of `field.json`."""

from pathlib import Path
from typing import Any

from harness.results import Cell, Results, columns, latency_table, markdown, measured_on

# Okabe and Ito's colours, told apart with any kind of colour vision
COLOURS = {
    "SemanticCache": "#0072b2",
    "SemanticLLMCache": "#56b4e9",
    "GPTCache": "#d55e00",
    "RedisVL": "#009e73",
    "InMemoryCache": "#8a8f98",
}
OPERATIONS = ("exact hit", "semantic hit", "miss", "put")


def rates(results: Results) -> str:
    """Hits per second, and the longest that an event loop stood still."""
    of: dict[str, dict[str, Results]] = {}
    for row in results["throughput"]:
        of.setdefault(row["subject"], {})[row["by"]] = row
    ways = sorted(next(iter(of.values())), key=lambda by: ("task" in by, int(by.split()[0])))
    rows = []
    for name, by in of.items():
        late = max(row["late_ms"] for row in by.values())
        missed, failed = (sum(row[how] for row in by.values()) for how in ("missed", "failed"))
        why = ", ".join(sorted({error for row in by.values() for error in row["failed_with"]}))
        rates = [f"{by[way]['per_second']:,.0f}" for way in ways]
        ended = [str(missed or ""), f"{failed} ({why})" if failed else ""]
        rows.append((name, *rates, f"{late:,.0f}", *ended))
    head = ("hits per second by", *ways, "event loop late, ms", "missed", "failed")
    return markdown(head, rows)


def cold_starts(results: Results) -> str:
    stages = {"of it import": "import", "open": "open", "lookup": "lookup"}
    shown: dict[str, Cell] = {
        "cold start": "{subject}",
        "entries": "{entries:,}",
        "ms to first hit": "{p50_ms:,.0f}",
        **{title: f"{{{stage}_p50_ms:,.0f}}" for title, stage in stages.items()},
        "n": lambda row: (
            f"{row['n']}" + (f", {row['unexpected']} not served" if row["unexpected"] else "")
        ),
    }
    return columns(shown, results["first_hit"])


def space(results: Results) -> str:
    disk = {(each["subject"], each["entries"]): each["per_entry"] for each in results["disk"]}

    def on_disk(row: Results) -> str:
        taken = disk[row["subject"], row["entries"]]
        return f"{taken:,}" if taken else "-"

    def server(row: Results) -> str:
        if "server_rss_mib" not in row:
            return ""
        return f"{row['server_rss_mib']:,.0f} ({row['server_used_mib']:,.0f} in use)"

    shown: dict[str, Cell] = {
        "space": "{subject}",
        "entries": "{entries:,}",
        "disk bytes per entry": on_disk,
        "process MiB": "{rss_mib:,.0f}",
        "server MiB": server,
    }
    return columns(shown, results["memory"])


def answers(results: Results) -> str:
    return "\n\n".join(map(_answers, results["streams"]))


def _answers(stream: dict[str, Any]) -> str:
    def setting(arm: Results) -> str:
        return f"{arm['setting']:g}{' (default)' * arm['default']}" if arm["setting"] else "-"

    shown: dict[str, Cell] = {
        f"{stream['name']}: {stream['n']:,} questions, {stream['answers']:,} answers": "{subject}",
        "setting": setting,
        **{kind: f"{{{kind}:,}}" for kind in ("right", "wrong", "missed", "new")},
        "served": "{served:.1%}",
        "wrong among served": lambda arm: "-" if arm["error"] is None else f"{arm['error']:.1%}",
    }
    arms = sorted(stream["arms"], key=lambda arm: (arm["subject"], arm["setting"] or 0.0))
    return columns(shown, arms)


def machine(results: Results) -> str:
    named = {
        name if whose == "ours" else f"({whose}'s) {name}": version
        for whose, those in results["versions"].items()
        for name, version in those.items()
    }
    seed, rounds = (results["settings"][name] for name in ("seed", "rounds"))
    asked = f"Seed {seed}, {rounds} rounds, a response of {results['response_bytes']} bytes."
    return f"{asked} {measured_on({**results, 'versions': named})}"


TABLES = {
    "latency": latency_table,
    "rates": rates,
    "cold start": cold_starts,
    "space": space,
    "answers": answers,
    "machine": machine,
}


def plot(results: Results, path: Path) -> None:
    """Latency of each operation at the largest size, and served against wrong for each stream."""
    import matplotlib
    from matplotlib.figure import Figure
    from semcache_core.evaluation.plots import STYLE

    with matplotlib.rc_context(STYLE):
        panels = 1 + len(results["streams"])
        figure = Figure(figsize=(5.2 * panels, 4.2), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        draw_latencies(axes[0], results)
        for axis, stream in zip(axes[1:], results["streams"], strict=True):
            draw_curves(axis, stream)
        shown = axes[0].get_legend_handles_labels()
        figure.legend(*shown, loc="outside lower center", ncols=5, fontsize=8)
        figure.savefig(path, metadata={"Date": None})


def draw_latencies(axis: Any, results: Results) -> None:
    size = max(row["entries"] for row in results["rows"])
    names = list(dict.fromkeys(row["subject"] for row in results["memory"]))
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        rows = [r for r in results["rows"] if r["subject"] == name and r["entries"] == size]
        places = [OPERATIONS.index(r["operation"]) + (i - len(names) / 2) * width for r in rows]
        p50 = [r["p50_ms"] for r in rows]
        above = [r["p95_ms"] - r["p50_ms"] for r in rows]
        error = {"yerr": [[0.0] * len(rows), above], "ecolor": "#555555", "capsize": 1.5}
        axis.bar(
            places, p50, width, align="edge", color=COLOURS.get(name, "black"), label=name, **error
        )
    axis.set_yscale("log")
    axis.set_xticks(range(len(OPERATIONS)), OPERATIONS)
    axis.set_ylabel("ms, median and 95th percentile")
    axis.set_title(f"Time of a call at {size:,} entries", fontsize=11)


def draw_curves(axis: Any, stream: dict[str, Any]) -> None:
    from matplotlib.ticker import PercentFormatter

    for name in dict.fromkeys(arm["subject"] for arm in stream["arms"]):
        arms = [a for a in stream["arms"] if a["subject"] == name and a["error"] is not None]
        arms.sort(key=lambda arm: arm["served"])
        at = [(arm["served"], arm["error"]) for arm in arms]
        colour = COLOURS.get(name, "black")
        # dashed, as with the same model and the same cosine it lies on the one before
        line = "o--" if name == "RedisVL" else "o-"
        axis.plot(*zip(*at, strict=True) if at else ([], []), line, ms=3, color=colour)
        for arm in arms:
            if arm["default"]:
                axis.plot(arm["served"], arm["error"], "o", ms=9, mfc="none", color=colour)
    axis.xaxis.set_major_formatter(PercentFormatter(1, 0))
    axis.yaxis.set_major_formatter(PercentFormatter(1, 0))
    axis.set_xlabel("served, of all questions")
    axis.set_ylabel("wrong, of those served")
    axis.set_title(f"{stream['name']}, arriving (ring: default)", fontsize=11)
