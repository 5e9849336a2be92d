"""Writes a file whole or not at all."""

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from semcache_core.errors import SemcacheError


def write_whole(
    file: str | Path,
    pieces: Iterable[bytes],
    error: type[SemcacheError] = SemcacheError,
    *,
    private: bool = False,
) -> None:
    """Write `pieces` one after the other to `file`, which appears, or is replaced, at the end.

    A failure leaves an older file as it was. Missing directories are created. `private` files have
    mode 0600, others the mode of the umask. Raises `error` when the file cannot be written, as on a
    full disk; what `pieces` raises passes through, unless it is an OSError too.
    """
    target = Path(os.path.realpath(file))  # a link stays: the file it leads to is replaced
    # a new name that cannot be guessed: in a shared directory it could be another user's link
    unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}.unfinished")
    mode = 0o600 if private else 0o666
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(unfinished, "xb", opener=lambda path, how: os.open(path, how, mode)) as out:
                out.writelines(pieces)
                out.flush()
                os.fsync(out.fileno())
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as problem:
        raise error(
            f"{file} cannot be written: {problem}; what was there before is as it was"
        ) from problem
