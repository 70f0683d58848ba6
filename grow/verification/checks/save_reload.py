"""The grown model saved by stock code, loaded again, and compared bit for bit."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

import torch

from grow.errors import GrowError, listing
from grow.models.true_float64 import Unloadable, load, quiet
from grow.verification.outputs.compare import difference
from grow.verification.outputs.forward_passes import RUNTIME_K, guard
from grow.verification.outputs.noise_floors import noise_floor, reproducible_limit
from grow.verification.outputs.pair import Pair
from grow.verification.outputs.stored_dtypes import stored_dtype
from grow.verification.outputs.two_folders import Differs
from grow.verification.rungs import EXACT
from grow.verification.verdict import Check


@guard
def save_reload(pair: Pair) -> Check:
    """`save_pretrained` and a stock `from_pretrained` give the same tensors, bit for bit, and the same outputs.

    Outputs of equal bits may differ by the order of sums, which depends on where weights lie in memory: they are held
    to the noise that the source has by itself.

    In the grown checkpoint's own dtype, through a temporary folder. Names are the module's: `save_pretrained`
    writes hub names, drops the second of two tied tensors and may shard, so file names may differ without
    harm.
    """
    limit = "same names, shapes, dtypes and bits"
    try:
        dtype = stored_dtype(pair.folders["grown"])
    except GrowError as error:
        raise Differs(str(error)) from error
    pair.room("grown", dtype)
    # what is saved has to be held in its own dtype as a whole
    model = pair.load("grown", dtype) if dtype == "float64" else pair.model("grown", dtype)
    before = model.state_dict()
    size = sum(t.numel() * t.element_size() for t in before.values())
    with tempfile.TemporaryDirectory(prefix="grow-verify-") as folder:
        free = shutil.disk_usage(folder).free
        if size * 1.1 > free:
            needs = f"{size / 1e9:.1f} GB in {folder} and {free / 1e9:.1f} GB are free"
            return Check("save_reload", "skip", limit=limit, reason=f"needs {needs}")
        pair.room("grown", dtype)
        try:
            with quiet():
                model.save_pretrained(folder)
            again = load(folder, dtype).model
        except (Unloadable, ValueError, RuntimeError) as error:
            return Check("save_reload", "fail", {"dtype": dtype}, limit, f"cannot be saved and loaded: {error}")
        after = again.state_dict()
        changed = [name for name in before.keys() & after.keys() if not _same(before[name], after[name])]
        lost, new = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
        outputs = pair.outputs("grown", dtype)
        other = pair.run("grown", again)
    moved = [key for key in outputs if not torch.equal(outputs[key], other[key])]
    apart = difference(outputs, other).relative if moved else 0.0
    if moved and not changed and not lost and not new:
        noise = EXACT if dtype == "float64" else RUNTIME_K * max(noise_floor(pair, dtype).values(), default=0.0)
        if apart <= reproducible_limit(pair, apart, noise)[0]:
            moved, limit = [], f"{limit}; outputs within {noise:.3g} of their std, which the order of sums explains"
    measured: dict[str, Any] = {
        "dtype": dtype,
        "tensors": len(before),
        "bytes": size,
        "outputs": len(outputs),
        "outputs_changed": len(moved),
        "outputs_apart": apart,
    }
    problems = [
        f"{text}: {listing(sorted(names))}"
        for text, names in (("lost", lost), ("new", new), ("changed", changed), ("outputs changed", moved))
        if names
    ]
    return Check("save_reload", "fail" if problems else "pass", measured, limit, "; ".join(problems))


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal in dtype, shape and every bit: -0.0 differs from 0.0, and a NaN equals itself."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bits(a), _bits(b))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
