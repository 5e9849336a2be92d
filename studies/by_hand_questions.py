"""What the shipped model serves of questions written by hand, in trades that it was not tuned on.

python studies/by_hand_questions.py

`by_hand/traps.jsonl` has 200 pairs that look alike and need different answers, of 39 kinds: each is
asked of a store of all others' first questions. `rewordings.jsonl` has 40 questions of four trades,
each worded anew five times, one of the five hard: they are asked of the ten of their trade.
`harmless.jsonl` has 20 questions with a slip, an emoji, a greeting or a name. Nothing was
trained, fitted or chosen on these files: do not read them when you change the model or the guard.
"""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from runner import Results, markdown, parser, run_study
from semcache_core import Request, SemanticCache

HERE = Path(__file__).parent / "by_hand"
BOUNDS = (0.02, 0.05, 0.1)

Row = dict[str, str]


def main(argv: Sequence[str] | None = None) -> None:
    run_study(study, table, parser(__doc__, "by_hand_questions").parse_args(argv))


def study(_: argparse.Namespace) -> Results:
    return {"bounds": {f"{bound:g}": at_bound(bound) for bound in BOUNDS}}


def at_bound(bound: float) -> Results:
    traps = asked_of(rows("traps"), bound, own_is_right=False)
    trades = defaultdict(list)
    for row in rows("rewordings"):
        trades[row["trade"]].append(row)
    rewordings = sum((asked_of(some, bound)["all"] for some in trades.values()), Counter())
    harmless = asked_of(rows("harmless"), bound, by="kind")
    return {
        "traps": dict(traps["all"]),
        "rewordings": dict(rewordings),
        **{kind: dict(found) for kind, found in harmless.items() if kind != "all"},
    }


def asked_of(
    asked: Sequence[Row], bound: float, *, by: str = "", own_is_right: bool = True
) -> dict[str, Counter[str]]:
    """How many were asked and served, rightly or not, in all and for each value of the key `by`."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    with SemanticCache(path=None, max_error_rate=bound) as cache:
        for question in dict.fromkeys(row["stored"] for row in asked):
            cache.update(Request(question), question)
        for row in asked:
            hit = cache.lookup(Request(row["asked"]))
            right = hit is not None and own_is_right and hit.response == row["stored"]
            result = "missed" if hit is None else "right" if right else "wrong"
            for name in ("all", *([row[by]] if by else ())):
                found[name].update(("asked", result))
    return found


def rows(name: str) -> list[Row]:
    lines = (HERE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def table(results: Results) -> str:
    kinds = next(iter(results["bounds"].values()))
    return markdown(
        ["asked", "of", *(f"at {float(bound):.0%}: right, wrong" for bound in results["bounds"])],
        (
            [kind, str(kinds[kind]["asked"]), *shown(kind, results["bounds"].values())]
            for kind in kinds
        ),
    )


def shown(kind: str, bounds: Iterable[Results]) -> list[str]:
    return [f"{one[kind].get('right', 0)}, {one[kind].get('wrong', 0)}" for one in bounds]


if __name__ == "__main__":
    main()
