"""Calls that may hang, each with a deadline and only so many at once."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from typing import TypeVar

from semcache_core.errors import IndexBusyError, IndexStalledError, IndexUnavailableError

T = TypeVar("T")

GIVEN_UP_SECONDS = 600.0


class Deadline:
    """Runs calls for `seconds` at most, `at_once` of them at the same time.

    Chroma waits for ever: its HTTP client for a server that accepts a connection and says nothing,
    the embedded one for a database that another program has locked. A timeout set on the user's
    own client was rejected: it is theirs, for other work too. So each call runs on a thread of
    its own, a daemon, which never holds up the end of the process; a pool's threads would. A call
    without an answer keeps its place until it ends or is given up after ten minutes, so that a
    server that hangs for days costs few threads.
    """

    def __init__(
        self, at_once: int, seconds: float, late: type[IndexUnavailableError] = IndexStalledError
    ) -> None:
        self._at_once = at_once
        self._seconds = seconds
        self._late = late
        self._changed = threading.Condition()
        self._begun: dict[int, float] = {}
        self._number = 0

    def run(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises.

        IndexBusyError when all places are taken for as long, `late` when there is no answer in
        time.
        """
        until = time.monotonic() + self._seconds
        number = self._take_place(until)
        answer: Future[T] = Future()

        def work() -> None:
            try:
                result = call()
            # handed to the caller, whatever it is
            except BaseException as error:  # noqa: BLE001
                answer.set_exception(error)
            else:
                answer.set_result(result)
            finally:
                self._leave(number)

        try:
            threading.Thread(target=work, name="semcache-index-call", daemon=True).start()
        except RuntimeError:  # no thread to be had
            self._leave(number)
            raise
        # not by the exception of `result`: from Python 3.11 on the call may raise the same one
        try:
            raised = answer.exception(max(0.0, until - time.monotonic()))
        except NoAnswer:
            raise self._late(f"Chroma gave no answer within {self._seconds:g} s") from None
        if raised is not None:
            raise raised
        return answer.result()

    def _take_place(self, until: float) -> int:
        with self._changed:
            if not self._changed.wait_for(self._has_place, until - time.monotonic()):
                raise IndexBusyError(f"{self._at_once} calls to Chroma have no answer yet")
            self._number += 1
            self._begun[self._number] = time.monotonic()
            return self._number

    def _has_place(self) -> bool:
        if len(self._begun) >= self._at_once:
            given_up = time.monotonic() - GIVEN_UP_SECONDS
            self._begun = {n: at for n, at in self._begun.items() if at > given_up}
        return len(self._begun) < self._at_once

    def _leave(self, number: int) -> None:
        with self._changed:
            self._begun.pop(number, None)
            self._changed.notify()
