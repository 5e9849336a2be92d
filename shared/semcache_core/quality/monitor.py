"""Measures the error of hits by meaning, and raises the threshold where it breaks the bound."""

import logging
import math
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from statistics import NormalDist

from semcache_core._utils.intervals import NOTHING, Measured, wilson
from semcache_core.errors import SettingsError

# All chosen by simulation, see ErrorMonitor.
_BROKEN = NormalDist().inv_cdf(0.99)  # 90 % raised the threshold by luck in a tenth of the runs
_LEAST, _LEAST_WRONG = 20, 3  # most of that luck was in the first few judgements
_LATEST = 100  # by themselves too: in the whole window a drift takes three times as long to show
_KEPT = NormalDist().inv_cdf(0.90)
# The best of many thresholds looks better than it is. Asked of all together too, it would hold the
# calibrated threshold back where 5 of 500 were wrong and 2 % are allowed.
_KEPT_BY_THE_BEST = NormalDist().inv_cdf(0.95)
_ALLOWED = 5  # a window in which fewer wrong ones break the bound could never show it kept

log = logging.getLogger("semcache")


def _warn(text: str) -> None:
    log.warning("semcache: %s", text)


@dataclass(frozen=True)
class _Judged:
    probability: float
    correct: bool
    served: bool
    """At the threshold of then. One that was withheld says nothing of what is served."""


class ErrorMonitor:
    """Judged answers of late, and the threshold they allow; safe to use from many threads.

    What is estimated is the error among all lookups that the calibrated `threshold` (None: there
    is none) would serve: over the last `size` judgements (5 / bound where that is more: fewer could
    never show the bound kept), or those since the last alarm. `bound` is the error promised.

    - **Alarm.** When the judgements of what was served, all or the last 100, show an error above
      the bound at 99 % (one-sided Wilson limit, from 20 judgements and 3 wrong ones on), they are
      dropped, as they are of a past that is over, and nothing is served by meaning. Each such
      lookup is then a miss whose answer can be compared for nothing: fresh judgements come fast.
    - **Raised.** It is served from the lowest probability from which on the fresh judgements keep
      the error within the bound, at 95 %.
    - **Calibrated** again, by itself, when all of them together keep it, at 90 %.

    Simulated at a bound of .02 with 5 % of the hits audited (tests/quality/test_monitor.py): an
    error of .015 raised it in 4 of 100 runs of 10,000 lookups. That 30 % of the hits had become
    wrong was noticed after 290 hits in the median, 590 at most; then nothing was served for 470
    lookups, and it was the calibrated one again 7,600 lookups after the drift.

    `chance` draws the samples. `tell` gets a line for the operator at an alarm, when serving begins
    again and when the threshold is as calibrated; unless given, it is logged as a warning.
    """

    def __init__(
        self,
        bound: float,
        threshold: float | None,
        size: int = 500,
        *,
        chance: random.Random | None = None,
        tell: Callable[[str], None] = _warn,
    ) -> None:
        if not 0 < bound < 1:  # written so that NaN fails too
            raise SettingsError(f"bound is {bound!r}; give a share between 0 and 1, such as 0.02")
        if threshold is not None and not 0 <= threshold <= 1:
            raise SettingsError(f"threshold is {threshold!r}; give a probability, or None for none")
        if size < _LEAST:
            raise SettingsError(f"size is {size!r}; fewer than {_LEAST} judgements show nothing")
        self.bound = bound
        self.size = max(size, math.ceil(_ALLOWED / bound))
        self._calibrated = NOTHING if threshold is None else threshold
        self.threshold = self._calibrated
        """The probability to serve at now: never below the calibrated one, or NOTHING."""
        self._chance = chance or random.Random()
        self._tell = tell
        self._lock = threading.Lock()
        self._window: deque[_Judged] = deque(maxlen=self.size)
        self._heaviest = 0.0
        self._resumed = False

    def sampled(self, rate: float) -> bool:
        """Whether to audit this hit: true for a share of `rate` of them, at random."""
        return self._chance.random() < rate

    def add(self, probability: float, correct: bool, weight: float = 1.0) -> None:
        """A lookup was judged that could have been served at `probability`.

        That is the probability held against the threshold; one below the calibrated threshold does
        not count. `weight` is how many lookups it stands for: 1 / rate for an audited hit, 1 where
        every lookup is judged (shadow mode, or withheld by the raised threshold).

        While something is served, those of little weight are thinned to the share of the heaviest,
        so that each in the window stands for as many lookups. Weighted sums would use them all,
        but the withheld, a hundred for each audited hit, would soon push those out of the window,
        and with them all that is known of what is served.
        """
        if not weight > 0:
            raise SettingsError(f"weight is {weight!r}; give 1 / rate, or 1 where all are judged")
        if not probability >= self._calibrated:
            return
        with self._lock:
            if not self._represents(weight):
                return
            self._window.append(_Judged(probability, correct, probability >= self.threshold))
            text = self._decide()
        if text:
            self._tell(text)

    def measured(self) -> Measured:
        """The error of what the calibrated threshold would serve, where the audit looked of late.

        0 judgements after an alarm: what was measured before is in the text that was told.
        """
        with self._lock:
            return Measured.of(*_counts(self._window))

    def _represents(self, weight: float) -> bool:
        if self.threshold == NOTHING:
            return True  # every lookup is judged now, each stands for itself
        self._heaviest = max(self._heaviest, weight)
        return self._chance.random() < weight / self._heaviest

    def _decide(self) -> str:
        """Set the threshold by the window; returns what is to be told, mostly nothing."""
        served = [one for one in self._window if one.served]
        for judged in (served, served[-_LATEST:]):
            n, wrong = _counts(judged)
            enough = n >= _LEAST and wrong >= _LEAST_WRONG
            if enough and wilson(n, wrong, -_BROKEN) > self.bound:
                self._window.clear()
                self._resumed = False
                return self._serve_from(NOTHING, n, wrong)
        if self.threshold == self._calibrated:
            return ""
        text = self._serve_from(*self._kept_from())
        if self.threshold == NOTHING:
            return ""
        again, self._resumed = self._resumed, True
        # nothing of the small steps of a raised threshold
        return "" if again and self.threshold != self._calibrated else text

    def _kept_from(self) -> tuple[float, int, int]:
        """What may be served from, and how many judged from there on were how often wrong."""
        n, wrong = _counts(self._window)
        if wilson(n, wrong, _KEPT) <= self.bound:
            return self._calibrated, n, wrong
        lower = -1.0
        for one in sorted(self._window, key=attrgetter("probability")):
            # of equal ones all are served, or none
            if one.probability > lower and wilson(n, wrong, _KEPT_BY_THE_BEST) <= self.bound:
                return one.probability, n, wrong
            lower = one.probability
            n, wrong = n - 1, wrong - (not one.correct)
        return NOTHING, *_counts(self._window)

    def _serve_from(self, threshold: float, n: int, wrong: int) -> str:
        """Returns what an operator should know of it."""
        before, self.threshold = self.threshold, threshold
        advice = _BACK if threshold == self._calibrated else _ADVICE
        return (
            f"the threshold went from {_shown(before)} to {_shown(threshold)}, where "
            f"{self._calibrated:.3g} is calibrated: of {n} answers judged, {wrong} were wrong, and "
            f"max_error_rate is {self.bound:g}. {advice}"
        )


_BACK = "All is as calibrated again; there is nothing to do"
_ADVICE = (
    "It comes down by itself as answers prove right. If answers have changed, invalidate the old "
    "ones or set a ttl; if other things are asked than before, run `semcache calibrate` on pairs "
    "of your own questions"
)


def _counts(judged: Iterable[_Judged]) -> tuple[int, int]:
    """How many there are, and how many of them were wrong."""
    verdicts = [one.correct for one in judged]
    return len(verdicts), verdicts.count(False)


def _shown(threshold: float) -> str:
    return "serving nothing by meaning" if threshold == NOTHING else f"{threshold:.3g}"
