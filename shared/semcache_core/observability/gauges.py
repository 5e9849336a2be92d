"""Gauges: the size and state of each ledger of this process, read when metrics are collected."""

import math
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from opentelemetry import metrics

from semcache_core._utils.intervals import Measured

READ_EVERY_SECONDS = 5.0
"""How long a reading of the ledger is used: all gauges of one collection share one reading."""


@dataclass(frozen=True)
class Levels:
    """The gauges of one ledger.

    `ledger` is its name, the file's. `bytes` is the size of the entries as `max_bytes` counts it,
    `disk` the size of the files. `index_lag` is how many entries the vector index still lacks.
    `wrong` are shares of wrong hits by meaning, by kind of estimate (see `estimates`).
    """

    ledger: str
    entries: int
    bytes: int
    disk: int
    index_lag: int
    wrong: dict[str, float]


def estimates(bound: float, claimed: float | None, measured: Measured) -> dict[str, float]:
    """`Levels.wrong`: the promised bound, the error the calibration claims, the measured error."""
    wrong = {"bound": bound}
    if claimed is not None:
        wrong["claimed"] = claimed
    if measured.error is not None:
        interval = {"measured_low": measured.low, "measured_high": measured.high}
        wrong |= {"measured": measured.error, **interval}
    return wrong


class Gauges:
    """The gauges of one cache, reported until it is closed or dropped.

    `levels` gives their values, None for none; it may be called in any thread, whenever metrics
    are collected. It is held weakly, so that a gauge keeps no cache alive. `clock` is in seconds.
    """

    def __init__(
        self,
        levels: "weakref.WeakMethod[Callable[[], Levels | None]]",
        meter: metrics.Meter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._levels, self._clock = levels, clock
        self._read: Levels | None = None
        self._read_at = -math.inf
        for name, unit, description, values in _GAUGES:
            meter.create_observable_gauge(name, [_observing(values)], unit, description)
        _SHOWN[id(self)] = self

    def levels(self) -> Levels | None:
        """The values, at most READ_EVERY_SECONDS old; None when the cache is closed.

        There is no lock, as a fork could leave it held for ever: two readers at once read twice.
        """
        now = self._clock()
        if now - self._read_at >= READ_EVERY_SECONDS:
            read = self._levels()
            self._read = None if read is None else read()
            self._read_at = now
        return self._read

    def close(self) -> None:
        """Stop reporting."""
        _SHOWN.pop(id(self), None)


# OpenTelemetry keeps one instrument of a name and calls the callback of its first creator, so that
# callback must find the other caches too. A dictionary, as its values are copied in one step.
_SHOWN: "weakref.WeakValueDictionary[int, Gauges]" = weakref.WeakValueDictionary()

Values: TypeAlias = Callable[[Levels], Iterable[tuple[float, dict[str, str]]]]


def _observing(values: Values) -> Callable[[Any], Iterable[metrics.Observation]]:
    def observe(options: object) -> Iterator[metrics.Observation]:
        for ledger, levels in _levels_by_ledger().items():
            for value, attributes in values(levels):
                yield metrics.Observation(value, {"semcache.ledger": ledger, **attributes})

    return observe


def _levels_by_ledger() -> dict[str, Levels]:
    """Each ledger once, also where several caches are open on it."""
    alive = [gauges for one in _SHOWN.valuerefs() if (gauges := one()) is not None]
    found = [levels for gauges in alive if (levels := gauges.levels()) is not None]
    return {levels.ledger: levels for levels in found}


_GAUGES: tuple[tuple[str, str, str, Values], ...] = (
    ("semcache.entries", "{entry}", "Live entries", lambda levels: [(levels.entries, {})]),
    (
        "semcache.entries.size",
        "By",
        "What entries take, as max_bytes counts it",
        lambda levels: [(levels.bytes, {})],
    ),
    ("semcache.disk.size", "By", "Ledger and index on disk", lambda levels: [(levels.disk, {})]),
    (
        "semcache.index.lag",
        "{entry}",
        "Entries that the vector index lacks, in scopes that are searched through it",
        lambda levels: [(levels.index_lag, {})],
    ),
    (
        "semcache.wrong_hits",
        "1",
        "Share of the hits by meaning that are wrong: bound, claimed, measured",
        lambda levels: [
            (share, {"semcache.estimate": estimate}) for estimate, share in levels.wrong.items()
        ],
    ),
)
