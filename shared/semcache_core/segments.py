"""The files of an embedded Chroma: directories it leaves, who else has its database locked."""

import os
import re
import shutil
import sqlite3
import struct
import sys
from contextlib import closing, suppress
from pathlib import Path

DATABASE = "chroma.sqlite3"
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def remove_unreferenced(chroma: Path) -> int:
    """Remove the segment directories that the database of an embedded Chroma does not name any
    more; returns how many. Only for the owner of the directory. Where anything is not as expected,
    nothing is removed.
    """
    try:
        # listed first: whatever is made later is not in the list
        found = [p for p in chroma.iterdir() if _UUID.fullmatch(p.name) and p.is_dir()]
        uri = f"{(chroma / DATABASE).absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=1)) as connection:
            named = {row[0] for row in connection.execute("SELECT id FROM segments")}
    except (OSError, sqlite3.Error):
        return 0
    doomed = [p for p in found if p.name not in named and not p.is_symlink()]
    for directory in doomed:
        with suppress(OSError):  # open on Windows: the next time
            shutil.rmtree(directory)
    return len(doomed)


def identity(chroma: Path) -> tuple[int, int] | None:
    """Which file the database is; None when it is not there."""
    try:
        found = (chroma / DATABASE).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


class ForeignLock:
    """Tells whether another process has the database locked, without touching it.

    Chroma waits for such a lock for ever, and holds Python's global lock while it does so in a
    write, or in two calls at once: every thread of the app stands still. The kernel is asked about
    SQLite's lock bytes (sqlite.org/lockingv3.html). To open the database for that was rejected: to
    close it again drops the locks that Chroma has in this process. Only on Linux; elsewhere nothing
    is told.
    """

    _FIRST_BYTE, _BYTES = 0x40000000, 512  # pending, reserved and shared
    _FLOCK = struct.Struct("hhqqi4x")  # type, whence, start, length, pid

    def __init__(self, chroma: Path) -> None:
        self._file: int | None = None
        if sys.platform == "linux":
            with suppress(OSError):
                self._file = os.open(chroma / DATABASE, os.O_RDONLY | os.O_CLOEXEC)

    def is_held(self, writing: bool) -> bool:
        """In a way that stops a write, or a read."""
        if self._file is None:
            return False
        import fcntl

        kind = fcntl.F_WRLCK if writing else fcntl.F_RDLCK
        asked = self._FLOCK.pack(kind, os.SEEK_SET, self._FIRST_BYTE, self._BYTES, 0)
        try:
            found = fcntl.fcntl(self._file, fcntl.F_GETLK, asked)
        except OSError:
            return False
        return bool(self._FLOCK.unpack(found)[0] != fcntl.F_UNLCK)

    def close(self) -> None:
        """Only once Chroma has let go of the database, see above."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
