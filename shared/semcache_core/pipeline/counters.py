"""What one cache counts and logs, and the boundary behind which its errors stay."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger("semcache")


class Counters:
    """Counts events of one process by name, and logs each kind of warning once.

    `on_failure` is called with the operation whenever one fails open.
    """

    def __init__(self, on_failure: Callable[[str], None]) -> None:
        self._on_failure = on_failure
        self._warned: set[str] = set()
        self.reset()

    def reset(self) -> None:
        """Start at 0 again, with a new lock: a forked child may have inherited a held one."""
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, event: str) -> None:
        """Count one event."""
        with self._lock:
            self._counts[event] += 1

    def counted(self) -> Counter[str]:
        """A copy of all counts."""
        with self._lock:
            return Counter(self._counts)

    def failures(self) -> dict[str, int]:
        """How often each operation failed open."""
        return {
            event.removeprefix("failed "): count
            for event, count in self.counted().items()
            if event.startswith("failed ")
        }

    @contextmanager
    def failing_open(self, operation: str) -> Iterator[None]:
        """Swallow any error of the cache, count it in `stats().failures`, log each kind once.

        The one boundary behind which an error cannot reach the app; adapters use it too.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001
            self.add(f"failed {operation}")
            self._on_failure(operation)
            self.warn_once(
                f"{operation} {type(error).__name__}",
                f"{operation} failed, the app goes on without it: {error!r}; this is logged once, "
                "stats().failures counts on",
            )

    def warn_once(self, about: str, text: str) -> None:
        """Log a warning, once per `about` in the life of this cache."""
        if about not in self._warned:
            self._warned.add(about)
            log.warning("semcache: %s", text)
