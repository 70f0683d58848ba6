"""Golden files: what a source answered, kept in a few hundred kB, so that a growth can be checked without it.

record("small", "small.safetensors")          where the source is
against("small.safetensors", "small-base")    anywhere: a `Verification`, as `verify` gives it
"""

from grow.verify.golden.comparing import against
from grow.verify.golden.content import Golden
from grow.verify.golden.file import read
from grow.verify.golden.recording import record

__all__ = ["Golden", "against", "read", "record"]
