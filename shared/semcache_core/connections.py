"""Connections that are kept for whoever needs one next."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


class Connections(Generic[C]):
    """As many as are in use at the same time, of which up to `most` are kept.

    One that an error was met on is closed. No lock: to take from a list and to append are atomic.
    """

    def __init__(self, connect: Callable[[], C], most: int) -> None:
        self._connect = connect
        self._most = most
        self._free: list[C] = []

    @contextmanager
    def one(self) -> Iterator[C]:
        free = self._free
        try:
            connection = free.pop()
        except IndexError:
            connection = self._connect()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        if free is self._free and len(free) < self._most:
            free.append(connection)
        else:  # closed meanwhile
            connection.close()

    def close(self) -> None:
        """Close those that nobody uses; the others are closed when they are given back."""
        free, self._free = self._free, []
        for connection in free:
            connection.close()
