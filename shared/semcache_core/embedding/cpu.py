"""How many cores this process may use: of the machine, of its affinity, of its container."""

import math
import os
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""Inside a container, its own: "QUOTA PERIOD" in microseconds, or "max PERIOD" for no limit
(the Linux kernel's documentation of cgroup v2).
"""


def usable_cores(cpu_max: Path = CPU_MAX) -> int:
    """Cores that this process may run on, at least 1; a share of one counts as one."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min(cores, _quota(cpu_max) or cores))


def _quota(cpu_max: Path) -> int | None:
    """The limit of a container, in cores. Affinity does not show it: with 2 of a host's 64 cores
    each worker would else start 66 threads that compete for these two.
    """
    try:
        quota, period = cpu_max.read_text(encoding="ascii").split()
        return None if quota == "max" else math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):  # no cgroup v2, or another format
        return None
