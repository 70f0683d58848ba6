"""Golden files: a source's answers in a few hundred kB, so that a growth is checked without it.

record("small", "small.safetensors")          where the source is
against("small.safetensors", "small-base")    anywhere: a `Verification`, as `verify` gives it
"""

from grow.verification.golden.comparing import against
from grow.verification.golden.content import Golden
from grow.verification.golden.golden_file import read
from grow.verification.golden.recording import record

__all__ = ["Golden", "against", "read", "record"]
