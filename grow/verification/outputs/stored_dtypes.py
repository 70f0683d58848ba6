"""The dtypes that a checkpoint is stored in, and the one in which stock code runs it."""

from __future__ import annotations

import collections
import math
from pathlib import Path

from grow.checkpoint.pickled import open_readable
from grow.models.true_float64 import DTYPES, Unloadable
from grow.notation.dtypes import NAMES


def shapes(folder: str | Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensor name -> (dtype as in `DTYPES`, shape), from the headers of the checkpoint's weight files."""
    with open_readable(folder) as checkpoint:
        infos = checkpoint.tensors.values()
        return {info.name: (NAMES.get(info.dtype, info.dtype), info.shape) for info in infos}


def stored_dtype(folder: str | Path) -> str:
    """The float dtype that holds most elements of the checkpoint."""
    sizes: collections.Counter[str] = collections.Counter()
    for dtype, shape in shapes(folder).values():
        if dtype in DTYPES:
            sizes[dtype] += math.prod(shape)
    if not sizes:
        raise Unloadable(Path(folder), what="no tensor is float64, float32, float16 or bfloat16")
    return sizes.most_common(1)[0][0]


def stock_dtype(folder: str | Path) -> str:
    """The dtype in which a plain `from_pretrained` runs a checkpoint: that of config.json, else the stored one."""
    with open_readable(folder) as checkpoint:
        named = checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")
    named = named.removeprefix("torch.") if isinstance(named, str) else named
    return named if isinstance(named, str) and named in DTYPES else stored_dtype(folder)
