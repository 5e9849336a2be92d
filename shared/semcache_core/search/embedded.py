"""The directory of an embedded Chroma index: its owner, its files, and locks of other programs."""

import os
import re
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from semcache_core.errors import IndexBusyError, IndexUnavailableError
from semcache_core.search.chroma import as_unavailable, local_client, log
from semcache_core.storage.sqlite import identity_of

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

PROBE_SECONDS = 120.0
_STOPPED_BY_OTHERS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
DATABASE = "chroma.sqlite3"
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def usable_here() -> bool:
    """False in a process forked from one that had Chroma open: its locks hang in the child."""
    return not _inherited_chroma


_inherited_chroma = False


def _in_forked_child() -> None:
    global _inherited_chroma
    clients: Any = sys.modules.get("chromadb.api.shared_system_client")
    # Chroma keeps one system per path for the whole process, and hands it out again
    if clients is not None and clients.SharedSystemClient._identifier_to_system:
        _inherited_chroma = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)


class EmbeddedIndex:
    """The directory of an embedded index. One process owns it: two on one path lose vectors.

    The lock is on the real path, so `dir` and `./dir` are the same index. After an unclean stop
    the index is first opened in a subprocess, because a torn file can crash the process that
    opens it, which no `except` catches.
    """

    def __init__(self, directory: Path) -> None:
        directory = directory.resolve()
        self._chroma = directory / "chroma"
        self._open_marker = directory / "index.open"
        self.address_file = directory / "index.address"
        """Holds the address of the owner's socket, see `IndexServer`."""
        self._opened: tuple[int, int] | None = None
        self._lock_probe = LockProbe(None)
        self._lock = FileLock(directory / "index.lock", timeout=0, mode=0o600, thread_local=False)

    def acquire(self) -> bool:
        """Become the owner; False when another process (or cache) is."""
        try:
            with as_unavailable("lock"):
                self._lock.acquire()
        except IndexUnavailableError as error:
            if isinstance(error.__cause__, Timeout):
                return False
            raise
        return True

    def open(self) -> "ClientAPI":
        """A client on the directory; a broken one is set aside first, and a new one made."""
        before = LockProbe(self._chroma)
        try:
            before.check_free(writing=True)
        finally:
            before.close()
        if self._open_marker.exists() and not _can_be_opened(self._chroma):
            self.set_aside()
        with as_unavailable("open"):
            self._open_marker.touch(mode=0o600)
            # Chroma makes its own files as the umask says; others cannot enter the directory
            self._chroma.mkdir(mode=0o700, exist_ok=True)
            self._chroma.chmod(0o700)
            client = local_client(self._chroma)
            self._opened = identity_of(self._chroma / DATABASE)
            self._lock_probe.close()
            self._lock_probe = LockProbe(self._chroma)
            return client

    def is_intact(self) -> bool:
        """Whether the directory is still the one that was opened: writes to a deleted one are lost
        without an error.
        """
        return self._opened is not None and identity_of(self._chroma / DATABASE) == self._opened

    def check_free(self, writing: bool) -> None:
        """Raise IndexBusyError while another program has the database locked."""
        self._lock_probe.check_free(writing)

    def remove_dropped(self) -> None:
        """Remove the directories of collections that were dropped: Chroma leaves them."""
        remove_unreferenced(self._chroma)

    def set_aside(self) -> None:
        """Move the directory out of the way as `chroma.broken`, in place of an older one."""
        if not self._chroma.exists():
            return
        kept = self._chroma.with_name("chroma.broken")
        with as_unavailable("set aside"):
            if kept.is_dir() and not kept.is_symlink():
                shutil.rmtree(kept)
            else:
                kept.unlink(missing_ok=True)
            if self._chroma.is_dir():
                self._chroma.chmod(0o700)  # an older version made it as the umask said
            self._chroma.rename(kept)
        log.warning(
            "semcache: the vector index is rebuilt from the ledger, which lost nothing; the old "
            "one is kept as %s and can be deleted",
            kept,
        )

    def release(self, clean: bool) -> None:
        """Stop being the owner; `clean` when the client was closed without an error."""
        self._lock_probe.close()
        if clean:
            self._open_marker.unlink(missing_ok=True)
        self._lock.release()


class LockProbe:
    """Checks whether another process has the database locked, without opening the database.

    Chroma waits for such a lock for ever, and in a write, or in two calls at once, it holds
    Python's global lock meanwhile: every thread of the app stands still. So the kernel is asked
    about SQLite's lock bytes (sqlite.org/lockingv3.html). To open the database for that was
    rejected: closing it again drops the locks that Chroma has in this process. Only on Linux;
    elsewhere, and where `chroma` is None or has no database, no lock is seen.
    """

    _FIRST_BYTE, _BYTES = 0x40000000, 512  # pending, reserved and shared
    _FLOCK = struct.Struct("hhqqi4x")  # type, whence, start, length, pid

    def __init__(self, chroma: Path | None) -> None:
        self._file: int | None = None
        if chroma is not None and sys.platform == "linux":
            with suppress(OSError):
                self._file = os.open(chroma / DATABASE, os.O_RDONLY | os.O_CLOEXEC)

    def check_free(self, writing: bool) -> None:
        """Raise IndexBusyError where another process has a lock that stops a write, or a read."""
        if self._file is None:
            return
        import fcntl

        kind = fcntl.F_WRLCK if writing else fcntl.F_RDLCK
        asked = self._FLOCK.pack(kind, os.SEEK_SET, self._FIRST_BYTE, self._BYTES, 0)
        with suppress(OSError):
            found = fcntl.fcntl(self._file, fcntl.F_GETLK, asked)
            if self._FLOCK.unpack(found)[0] != fcntl.F_UNLCK:
                raise IndexBusyError("another program has its database locked")

    def close(self) -> None:
        """Call it only when Chroma has closed the database, for the reason above."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def remove_unreferenced(chroma: Path) -> int:
    """Remove the segment directories that Chroma's database does not name; returns how many.

    Only the owner of the directory may call it. Nothing is removed where anything is unexpected.
    """
    try:
        # listed first: a directory that is made later is not in the list
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


def _can_be_opened(directory: Path) -> bool:
    """Whether a subprocess can open and query every collection of the index.

    Raises IndexBusyError where that was not found out: it says nothing about the index. Nor does a
    check that takes too long: a slow disk, or an index that is large for it, is not a broken one.
    """
    if not directory.exists():
        return True
    command = [sys.executable, "-m", "semcache_core.search.embedded", str(directory)]
    path = os.pathsep.join(p for p in sys.path if p)
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=PROBE_SECONDS,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
            start_new_session=True,  # Ctrl-C in a terminal is not for it
        )
    except OSError as error:
        raise IndexBusyError(f"the index cannot be checked: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise IndexBusyError(
            f"its check takes longer than {PROBE_SECONDS:g} s; where that stays so, remove "
            f"{directory} while no process has it open: it is rebuilt from the ledger"
        ) from error
    if -done.returncode in _STOPPED_BY_OTHERS:
        raise IndexBusyError(f"its check was stopped by signal {-done.returncode}")
    return done.returncode == 0


def _query_all(directory: Path) -> None:
    for collection in local_client(directory).list_collections():
        some = collection.get(limit=1, include=["embeddings"])["embeddings"]
        if some is not None and len(some):
            collection.query(query_embeddings=np.asarray(some), n_results=1)


if __name__ == "__main__":
    _query_all(Path(sys.argv[1]))
