"""Runs calls that may hang, with a time limit and a limit on how many run at once."""

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from typing import TypeVar

T = TypeVar("T")


class Deadline:
    """Runs calls to `service` for `seconds` at most, `at_once` of them at the same time.

    Each call runs on a daemon thread of its own, so that one that hangs never holds up the end of
    the process; the threads of a pool would. A call that does not answer keeps its place until it
    ends, or until `abandon_after` seconds have passed: a service that hangs for days then costs few
    threads. `busy` and `late` are the errors that are raised where no place is free, and where
    there is no answer in time. A forked child needs an instance of its own.
    """

    def __init__(
        self,
        at_once: int,
        seconds: float,
        *,
        busy: type[Exception],
        late: type[Exception],
        service: str,
        abandon_after: float = math.inf,
    ) -> None:
        self.seconds = seconds
        self._at_once = at_once
        self._busy = busy
        self._late = late
        self._service = service
        self._abandon_after = abandon_after
        self._changed = threading.Condition()
        self._started: dict[int, float] = {}
        self._number = 0

    def run(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises. Waits `seconds` in all, for a place and for the answer."""
        until = time.monotonic() + self.seconds
        answer = self.start(call, self.seconds)
        # not by the exception of `result`: from Python 3.11 on the call may raise the same one
        try:
            raised = answer.exception(max(0.0, until - time.monotonic()))
        except NoAnswer:
            raise self._late(f"{self._service} gave no answer within {self.seconds:g} s") from None
        if raised is not None:
            raise raised
        return answer.result()

    def start(self, call: Callable[[], T], wait: float = 0.0) -> "Future[T]":
        """The answer of `call`, which runs from now on, to be awaited by the caller.

        Raises `busy` where no place is free within `wait` seconds, and RuntimeError where no thread
        can be started.
        """
        number = self._take_place(wait)
        answer: Future[T] = Future()

        def work() -> None:
            try:
                result = call()
            # handed to the caller, whatever it is
            except BaseException as error:  # noqa: BLE001
                self._leave(number)
                answer.set_exception(error)
            else:
                # before the answer is known: who then starts the next call finds a place
                self._leave(number)
                answer.set_result(result)

        try:
            threading.Thread(target=work, name="semcache-call", daemon=True).start()
        except RuntimeError:
            self._leave(number)
            raise
        return answer

    def _take_place(self, wait: float) -> int:
        with self._changed:
            if not self._changed.wait_for(self._has_place, wait):
                raise self._busy(f"{self._at_once} calls to {self._service} have no answer yet")
            self._number += 1
            self._started[self._number] = time.monotonic()
            return self._number

    def _has_place(self) -> bool:
        if len(self._started) >= self._at_once:
            oldest = time.monotonic() - self._abandon_after
            self._started = {n: at for n, at in self._started.items() if at > oldest}
        return len(self._started) < self._at_once

    def _leave(self, number: int) -> None:
        with self._changed:
            self._started.pop(number, None)
            self._changed.notify()
