"""Progress of a long command: a bar on a terminal, a plain line now and then elsewhere."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typing_extensions import Self

_LINES = 10


class Steps:
    """Shows the current step, how much of it is done, and a note such as the loss.

    Everything goes to standard error, so that output can be piped.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
        )
        self._what = ""
        self._said = -1

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, what: str, done: int, total: int, note: str = "") -> None:
        if what != self._what:
            self._what, self._said = what, -1
            self._task = self._bar.add_task(what, total=total, note=note)
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, total=total, note=note)
            return
        part = _LINES * done // total if total else _LINES
        if part > self._said:
            self._said = part
            self._console.print(f"{what}: {done}/{total} {note}".rstrip(), highlight=False)
