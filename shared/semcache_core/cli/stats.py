"""The command `stats`: entries, savings and error rate of a cache, once or repeatedly.

It opens the ledger only, so that the vector index stays with the app that owns it.
"""

import json
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from semcache_core._utils.intervals import Measured
from semcache_core.cli.options import DEFAULT_PATH, JsonOption, PathOption, existing, table_of
from semcache_core.costs import Saved
from semcache_core.quality.monitor import ErrorMonitor
from semcache_core.quality.verdicts import VerdictLog
from semcache_core.settings import CacheSettings, settings_from
from semcache_core.storage.ledger import Ledger

EVERY_SECONDS = 2.0


@dataclass(frozen=True)
class Figures:
    """Figures of a ledger, over all namespaces and processes, `at` seconds since the epoch.

    `exact_hits`, `semantic_hits` and `misses` are all lookups since the ledger was made, those of
    stores for LlamaIndex too; a hit that was withheld, to ask the model, is a miss. `hits_ever` and
    `saved` are by the hits of entries that are still here. `bytes` are on disk; `max_bytes`, of the
    environment, limits `entries_bytes`. `max_error_rate` is that of the app which last served by
    meaning; of the first app that looked up, where none has; else of the environment.
    """

    at: float
    entries: int
    namespaces: int
    hits_ever: int
    exact_hits: int
    semantic_hits: int
    misses: int
    hit_rate: float | None
    bytes: int
    entries_bytes: int
    max_bytes: int | None
    saved: Saved
    max_error_rate: float
    claimed_error: float | None
    measured: Measured

    @classmethod
    def of(cls, ledger: Ledger, settings: CacheSettings, now: float) -> "Figures":
        records, traffic = VerdictLog(ledger), ledger.traffic()
        max_error_rate = traffic.max_error_rate or settings.max_error_rate
        return cls(
            at=now,
            entries=ledger.count(now=now),
            namespaces=ledger.namespaces(),
            hits_ever=ledger.hits_ever(),
            exact_hits=traffic.exact_hits,
            semantic_hits=traffic.semantic_hits,
            misses=traffic.misses,
            hit_rate=traffic.hit_rate,
            bytes=ledger.bytes_on_disk(),
            entries_bytes=ledger.space().bytes,
            max_bytes=settings.max_bytes,
            saved=ledger.saved(),
            max_error_rate=max_error_rate,
            claimed_error=records.claimed_error(),
            measured=records.measured(ErrorMonitor(max_error_rate, None).size),
        )


def stats(
    path: PathOption = DEFAULT_PATH,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on, every SECONDS, until Ctrl-C.")
    ] = False,
    seconds: Annotated[
        float | None,
        typer.Argument(
            min=0.1, metavar="SECONDS", help=f"With --watch; {EVERY_SECONDS:g} unless given."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What a cache holds, how often it hits, what that saved, and how many hits were wrong.

    Lookups are counted since the ledger was made, of all apps on this path, about a second late.
    """
    if seconds is not None and not watch:
        raise typer.BadParameter("SECONDS goes with --watch: semcache stats --watch 5")
    settings = settings_from({})
    with closing(Ledger.open(existing(path), None)) as ledger:
        if watch:
            with suppress(KeyboardInterrupt):
                _show_each(_looks(ledger, settings, seconds or EVERY_SECONDS), as_json)
            return
        found = Figures.of(ledger, settings, time.time())
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        Console().print(_table(found))


def _looks(ledger: Ledger, settings: CacheSettings, seconds: float) -> Iterator[Figures]:
    while True:
        yield Figures.of(ledger, settings, time.time())
        time.sleep(seconds)


def _show_each(looks: Iterator[Figures], as_json: bool) -> None:
    """A table that is updated on a terminal; elsewhere, a line for each look."""
    console = Console()
    if as_json:
        for found in looks:
            typer.echo(json.dumps(asdict(found)))
    elif console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            for found in looks:
                live.update(_table(found), refresh=True)
    else:
        for found in looks:
            clock = time.strftime("%H:%M:%S", time.localtime(found.at))
            typer.echo(f"{clock} " + "; ".join(f"{name} {text}" for name, text in _rows(found)))


def _table(found: Figures) -> Table:
    return table_of(_rows(found), ("", ""))


def _rows(found: Figures) -> list[tuple[str, str]]:
    saved, measured = found.saved, found.measured
    return [
        ("entries", f"{found.entries:,}"),
        ("namespaces", f"{found.namespaces:,}"),
        ("hits ever", f"{found.hits_ever:,}"),
        ("bytes", f"{found.bytes:,}"),
        ("taken", f"{found.entries_bytes:,}{_limit(found.max_bytes)}"),
        ("exact hits", f"{found.exact_hits:,}"),
        ("semantic hits", f"{found.semantic_hits:,}"),
        ("misses", f"{found.misses:,}"),
        ("hit rate", _shown(found.hit_rate, ".1%")),
        ("saved tokens", f"{_shown(saved.tokens_in)} in, {_shown(saved.tokens_out)} out"),
        ("saved cost", _shown(saved.cost, ",.2f")),
        ("saved seconds", _shown(saved.seconds, ",.1f")),
        ("wrong, at most", f"{found.max_error_rate:.1%}"),
        ("wrong, claimed", _shown(found.claimed_error, ".1%")),
        (
            "wrong, measured",
            "nothing audited"
            if measured.error is None
            else f"{measured.error:.1%} ({measured.low:.1%} to {measured.high:.1%}, "
            f"{measured.n:,} audited)",
        ),
    ]


def _limit(max_bytes: int | None) -> str:
    return "" if max_bytes is None else f" of {max_bytes:,}"


def _shown(value: float | None, how: str = ",") -> str:
    """`-` for what is not known: that is not nothing."""
    return "-" if value is None else format(value, how)
