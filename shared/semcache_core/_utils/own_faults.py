"""Tells a fault of this process, such as its own end, from a fault of what it uses."""

import concurrent.futures.thread
import errno
import sys
import threading

_NO_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)


def is_shutting_down() -> bool:
    """Whether this interpreter is about to end: libraries then refuse work, and fail in many ways.

    Executors refuse work before the main thread counts as ended, and daemon threads run on until
    the interpreter is finalised.
    """
    executors_closed = bool(getattr(concurrent.futures.thread, "_shutdown", False))
    return executors_closed or not threading.main_thread().is_alive() or sys.is_finalizing()


def is_own_fault(error: BaseException) -> bool:
    """Whether `error` says nothing about the files or the service that a call was made to."""
    if is_shutting_down() or isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno in _NO_RESOURCES
    return isinstance(error, RuntimeError) and "can't start new thread" in str(error)
