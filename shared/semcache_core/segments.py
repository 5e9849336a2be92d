"""What Chroma leaves on disk: directories of collections that were deleted."""

import re
import shutil
import sqlite3
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
