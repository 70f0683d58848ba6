"""The table of dtypes: those that a weight can be stored in, and all that a safetensors file may hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Dtype:
    """One float format.

    code      as safetensors spells it
    name      as torch and config.json spell it
    bits      of the significand, the hidden one counted
    smallest  positive number it can store, a subnormal one
    raw       numpy dtype that reads it: bfloat16, which numpy lacks, as its bits
    """

    code: str
    name: str
    bits: int
    smallest: float
    raw: np.dtype[Any]


TABLE = (
    Dtype("F64", "float64", 53, 2.0**-1074, np.dtype("<f8")),
    Dtype("F32", "float32", 24, 2.0**-149, np.dtype("<f4")),
    Dtype("F16", "float16", 11, 2.0**-24, np.dtype("<f2")),
    Dtype("BF16", "bfloat16", 8, 2.0**-133, np.dtype("<u2")),
)
BITS = {d.code: d.bits for d in TABLE}
RAW = {d.code: d.raw for d in TABLE}
ITEMSIZE = {d.code: d.raw.itemsize for d in TABLE}
SMALLEST = {d.code: d.smallest for d in TABLE}
NAMES = {d.code: d.name for d in TABLE}
CODES = {d.name: d.code for d in TABLE}
STORES = {"F64": {"F64", "F32", "F16", "BF16"}, "F32": {"F32", "F16", "BF16"}, "F16": {"F16"}, "BF16": {"BF16"}}
"""Code -> those of which it can store every number; bfloat16 reaches further than float16 and is coarser."""
FILE_DTYPES: dict[str, tuple[int, np.dtype[Any] | None]] = {
    **{code: (raw.itemsize, raw) for code, raw in RAW.items()},
    "BOOL": (1, np.dtype("?")),
    "U8": (1, np.dtype("u1")),
    "I8": (1, np.dtype("i1")),
    "F8_E4M3": (1, None),
    "F8_E5M2": (1, None),
    "F8_E8M0": (1, None),
    "U16": (2, np.dtype("<u2")),
    "I16": (2, np.dtype("<i2")),
    "U32": (4, np.dtype("<u4")),
    "I32": (4, np.dtype("<i4")),
    "U64": (8, np.dtype("<u8")),
    "I64": (8, np.dtype("<i8")),
    "C64": (8, np.dtype("<c8")),
}
"""Every code that a safetensors file may hold -> bytes per element, and the numpy dtype that reads it: BF16 as its
uint16 bits, none for 8-bit floats."""


def code_of(dtype: object) -> str | None:
    """The code of a torch or numpy dtype, None where weights are not stored in it: torch.bfloat16 -> "BF16"."""
    return CODES.get(str(dtype).removeprefix("torch."))
