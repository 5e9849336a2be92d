"""Asks a verifier about uncertain candidates, within a time limit."""

import inspect
import logging
import math
import os
import reprlib
import threading
import time
from collections import Counter, OrderedDict
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoVerdict
from dataclasses import dataclass
from numbers import Real
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from semcache_core._utils.deadline import Deadline
from semcache_core.errors import SemcacheError, SettingsError
from semcache_core.request import digest
from semcache_core.types import Clock

log = logging.getLogger("semcache")

ACCEPT = 0.9
"""The probability from which on an answer is accepted. It is not .5: of the answers to which a
calibrated verifier gives .5, every second one is wrong. Of those at .9 one in ten is, of all that
it accepts far fewer. A needless miss costs a call of the model, a wrong answer the users' trust.
"""

_Outcome: TypeAlias = Literal["accepted", "refused", "failed", "timed_out", "busy"]


@runtime_checkable
class Verifier(Protocol):
    """Gives a second opinion where the similarity does not decide."""

    def verify(self, asked: str, stored: str, response: str) -> float:
        """The probability, 0 to 1, that `response`, made for the question `stored`, also answers
        `asked`.

        Called from several threads at once. May raise: that is no opinion, and so a miss.
        """
        ...


@dataclass(frozen=True)
class VerificationCounts:
    """How the requests to the verifier ended, in this process.

    `asked` is the sum of the five after it. `calls` of the verifier may be fewer, as verdicts are
    remembered.
    """

    asked: int
    accepted: int
    refused: int
    failed: int
    timed_out: int
    busy: int
    calls: int


class _Busy(Exception):
    """As many calls are under way as may be."""


class _Late(Exception):
    """The verifier gave no verdict in time."""


@dataclass(frozen=True)
class _Call:
    """One question to the verifier, under way or ended, and the time its lookups wait until."""

    number: int
    verdict: "Future[float]"
    deadline: float


class _Process:
    """The state of one process. A forked child needs its own: it has none of these threads."""

    def __init__(self, concurrency: int, timeout_s: float) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.deadline = Deadline(
            concurrency, timeout_s, busy=_Busy, late=_Late, service="the verifier"
        )
        self.counts: Counter[str] = Counter()
        # by what they ask: those in flight, and the last ones that ended with a verdict
        self.calls: OrderedDict[str, _Call] = OrderedDict()


class Verification:
    """Asks a verifier for a lookup, which goes on whatever the verifier does.

    An answer is served if the verdict is `accept` or more. A lookup waits at most `timeout_s`
    seconds for it; the call itself cannot be stopped and goes on in its thread. While `concurrency`
    calls are under way, no further one is made. The last `remembered` verdicts are kept, late ones
    included. A lookup that asks the same as a call under way waits for that call, until its time
    is up.

    Raises SettingsError for a verifier without the method, and for an impossible limit.
    """

    def __init__(
        self,
        verifier: Verifier,
        *,
        accept: float = ACCEPT,
        timeout_s: float = 5.0,
        concurrency: int = 4,
        remembered: int = 1000,
        clock: Clock = time.monotonic,
    ) -> None:
        _check_verifier(verifier)
        _check("accept", accept, 1, "a probability above 0 and up to 1")
        _check("timeout_s", timeout_s, threading.TIMEOUT_MAX, "seconds above 0, not for ever")
        _check("concurrency", concurrency, math.inf, "a whole number above 0")
        _check("remembered", remembered, math.inf, "a whole number above 0")
        self._verifier = verifier
        self._accept = accept
        self._timeout_s = timeout_s
        self._concurrency = concurrency
        self._remembered = remembered
        self._clock = clock
        self._warned: set[str] = set()
        self._process = _Process(concurrency, timeout_s)

    def agrees(self, asked: str, stored: str, response: str) -> bool | None:
        """Whether the answer to `stored` may be served for `asked`; None means: no opinion.

        There is none when the verifier failed, returned no number from 0 to 1, took too long, or
        is busy. An error of the verifier is never raised.
        """
        process = self._here()
        outcome = self._outcome(process, (asked, stored, response))
        with process.lock:
            process.counts[outcome] += 1
        return {"accepted": True, "refused": False}.get(outcome)

    def counts(self) -> VerificationCounts:
        """Counts of this process, since it first asked."""
        process = self._here()
        with process.lock:
            counted = Counter(process.counts)
        calls = counted.pop("calls", 0)
        return VerificationCounts(
            asked=counted.total(),
            accepted=counted["accepted"],
            refused=counted["refused"],
            failed=counted["failed"],
            timed_out=counted["timed_out"],
            busy=counted["busy"],
            calls=calls,
        )

    def _here(self) -> _Process:
        """The state of this process, a new one in a forked child: there no thread would ever
        release a held lock or end a call.
        """
        process = self._process
        if process.pid != os.getpid():
            process = self._process = _Process(self._concurrency, self._timeout_s)
        return process

    def _outcome(self, process: _Process, question: tuple[str, str, str]) -> _Outcome:
        try:
            call = self._call(process, question)
            raised = call.verdict.exception(max(0.0, call.deadline - self._clock()))
        except _Busy:
            return "busy"
        except NoVerdict:
            self._warn_once("timeout", f"took more than {self._timeout_s:g} s")
            return "timed_out"
        except RuntimeError as error:  # no more threads to be had
            raised = error
        if raised is not None:
            # reprlib cuts it short, and takes an error whose own repr fails
            self._warn_once(type(raised).__name__, f"failed: {_SHORT.repr(raised)}")
            return "failed"
        return "accepted" if call.verdict.result() >= self._accept else "refused"

    def _call(self, process: _Process, question: tuple[str, str, str]) -> _Call:
        """The call for this question, under way, ended or new. Raises _Busy for one too many."""
        key = digest(question)
        with process.lock:
            if key in process.calls:
                process.calls.move_to_end(key)
                return process.calls[key]
            number = process.counts["calls"] + 1
            verdict = process.deadline.start(lambda: self._verdict(process, number, question))
            process.counts["calls"] = number
            call = process.calls[key] = _Call(number, verdict, self._clock() + self._timeout_s)
        return call

    def _verdict(self, process: _Process, number: int, question: tuple[str, str, str]) -> float:
        """The verifier's probability. A failed call is forgotten: the next lookup asks again."""
        try:
            verdict = _probability(self._verifier.verify(*question))
        except BaseException:
            key = digest(question)
            with process.lock:
                # by its number: this one forgotten, the same may have been asked anew
                if key in process.calls and process.calls[key].number == number:
                    del process.calls[key]
            raise
        with process.lock:
            if len(process.calls) > self._remembered:
                process.calls.popitem(last=False)
        return verdict

    def _warn_once(self, about: str, what: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            log.warning(
                "semcache: the verifier %s; what it does not judge is a miss, and "
                "stats().verification counts how often that is",
                what,
            )


_SHORT = reprlib.Repr()
_SHORT.maxother = 200


def _probability(given: object) -> float:
    # NaN is in no range
    if isinstance(given, Real) and 0 <= float(given) <= 1:
        return float(given)
    raise SemcacheError(
        f"verify gave {_SHORT.repr(given)}, which is no number from 0 to 1; return the probability"
    )


def _check_verifier(verifier: object) -> None:
    if isinstance(verifier, type) or not isinstance(verifier, Verifier):
        raise SettingsError(
            f"verifier cannot be {_SHORT.repr(verifier)}; give an object with a method "
            "verify(asked, stored, response) that returns a probability"
        )
    if inspect.iscoroutinefunction(verifier.verify):
        raise SettingsError(
            f"{type(verifier).__name__}.verify is async, but runs in a lookup's thread; "
            "make it a plain method"
        )


def _check(name: str, value: object, most: float, wanted: str) -> None:
    if not isinstance(value, int | float) or not 0 < value <= most:
        raise SettingsError(f"{name} cannot be {value!r}; give {wanted}")
