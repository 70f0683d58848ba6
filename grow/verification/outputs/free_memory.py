"""How much memory this process may still take."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes that can be taken without swapping or being killed, or None where the system does not say."""
    limits = [n for n in (_machine(), _group(), _own_limit()) if n is not None]
    return max(0, min(limits)) if limits else None


def give_back() -> None:
    """Hand freed memory to the system. glibc keeps pieces below 32 MB for itself: of a 0.6 B model in float64, 3 GB."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library, which has no such function
        ctypes.CDLL(None).malloc_trim(0)


def counts_mapped_files() -> bool:
    """Whether a limit on the address space (`ulimit -v`) makes mapped files count as memory."""
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _group() -> int | None:
    """What is left in the control group, whose cached files can be dropped: version 2, else version 1."""
    for limit, usage, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, used = int((GROUPS / limit).read_text()), int((GROUPS / usage).read_text())
            stat = (GROUPS / limit).parent.joinpath("memory.stat").read_text().splitlines()
            files = next((int(line.split()[1]) for line in stat if line.split()[0] == cached), 0)
            return most - used + files
        except (OSError, ValueError, IndexError):  # no such version, no limit ("max"), or not to be read
            continue
    return None


def _own_limit() -> int | None:
    try:
        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return None if most == resource.RLIM_INFINITY else most - pages * resource.getpagesize()
