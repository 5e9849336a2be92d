"""Lets a fork wait until no thread of this process is inside a ledger."""

import threading
from types import TracebackType

PATIENCE_SECONDS = 10.0


class ForkGate:
    """Entered by every operation on a ledger; a fork shuts it, and waits for those inside.

    A child made in the middle of an operation inherits SQLite's mutexes and its record of file
    locks as they are at that moment, held for ever by a thread that the child does not have.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._inside = 0
        self._shut = False

    def __enter__(self) -> None:
        with self._changed:
            while self._shut:
                self._changed.wait()
            self._inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._inside -= 1
            if not self._inside:
                self._changed.notify_all()

    def shut(self) -> bool:
        """Let nobody in any more; whether everybody left in time (a fork must not hang)."""
        with self._changed:
            self._shut = True
            return self._changed.wait_for(lambda: not self._inside, PATIENCE_SECONDS)

    def open(self) -> None:
        with self._changed:
            self._shut = False
            self._changed.notify_all()
