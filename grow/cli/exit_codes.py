"""The exit codes of the command line, and the messages of errors that no check of grow raised.

0    done; of a verification: lossless or certified
1    verified, and different or not proved, or with parameters that can never learn (`Verification.exit_code`)
2    bad input, or refused; also where the system refuses a file, or memory runs out
70   a fault of grow itself
130  interrupted
"""

from __future__ import annotations

import errno

from grow.errors import GrowError
from grow.files import finished

BAD_INPUT = GrowError.exit_code
INTERNAL = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130


def internal_fault(error: Exception) -> GrowError:
    return GrowError(
        "grow itself",
        what=f"{type(error).__name__}: {error}",
        why=f"this is a fault of grow, not of the input; {finished.sentence()}",
        fix="report it, with what GROW_DEBUG=1 shows",
    )


def is_memory(error: Exception) -> bool:
    """Python's own error, or what torch raises in its place on a CPU and on CUDA."""
    text = str(error)
    return isinstance(error, MemoryError) or "CUDA out of memory" in text or "can't allocate memory" in text


def out_of_memory(error: Exception) -> GrowError:
    return GrowError(
        "memory",
        what=(str(error).strip().splitlines() or ["is used up"])[0][:200],
        why=f"this machine does not have that much memory; {finished.sentence()}",
        fix="smaller sizes; in training a smaller --batch, a larger --accumulate, or --checkpointing",
    )


def system_refused(error: OSError) -> GrowError:
    return GrowError(
        str(error.filename or "stdout, or a file that is written"),
        what=error.strerror or str(error),
        why=f"the system refused; {finished.sentence()}",
        fix="make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the path and its permissions",
    )
