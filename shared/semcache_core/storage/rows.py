"""Rows of the ledger read as what they should be: the file is anybody's who can write to it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from semcache_core.types import Matrix, Vector

UNREADABLE = (TypeError, ValueError, OverflowError)
"""What reading a row raises that semcache did not write."""

_FAR = 2e-3  # from 1, of the square of a float32 unit vector's length


def vector_from(blob: object) -> Vector:
    """A unit vector; ValueError for any other bytes.

    A longer one would be nearer to every question than its own.
    """
    if type(blob) is not bytes or len(blob) % 4:
        raise ValueError("its vector is no row of float32 numbers")
    vector = np.frombuffer(blob, np.float32)
    if not _are_units(vector[None, :])[0]:
        raise ValueError("its vector has not the length 1")
    return vector


def vectors_from(blobs: Sequence[object], dimension: int | None) -> Matrix:
    """Unit rows [n, dimension]; zeros, which are alike to nothing, for what is none.

    Not left out: whoever counts entries, or asks for those after the last, must see them all.
    `dimension` None takes that of the first.
    """
    if dimension is None:
        dimension = len(first) // 4 if blobs and type(first := blobs[0]) is bytes else 0
    size = 4 * dimension
    whole = [blob if type(blob) is bytes and len(blob) == size else bytes(size) for blob in blobs]
    matrix: Matrix = np.frombuffer(b"".join(whole), np.float32).reshape(len(blobs), dimension)
    units = _are_units(matrix)
    return matrix if units.all() else np.where(units[:, None], matrix, np.float32(0))


def number_from(value: object) -> float:
    """A finite number; ValueError or TypeError for anything else."""
    if type(value) not in (int, float) or not -np.inf < value < np.inf:  # type: ignore[operator]
        raise ValueError(f"{str(value)[:40]!r} is no number")
    return float(value)  # type: ignore[arg-type]


def _are_units(matrix: Matrix) -> NDArray[np.bool_]:
    with np.errstate(all="ignore"):  # NaN, or beyond what a float32 holds
        units: NDArray[np.bool_] = np.abs(np.vecdot(matrix, matrix) - 1) <= _FAR
    return units
