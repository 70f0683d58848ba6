"""Scenarios that several processes go through together, as `launched.scenarios` starts them.

Every process writes FOLDER/SCENARIO.RANK.json: what it returned, or the error that it raised.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import dealing

import grow
import grow.applying.engine
import grow.files.shared_staging
from grow.processes import World, world_of

RANK, SIZE = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def growths(folder: Path) -> dict[str, Any]:
    """Three ways to grow; the bytes that this process has written of each."""
    source, grown = folder / "source", folder / "together"
    counts = {}
    for name, run in growths_of(source, grown, world=SIZE).items():
        written: list[int] = []
        before = grow.applying.engine.ShardWriter.write_rows

        def count(self, name, first, rows, before=before, written=written):
            written.append(rows.nbytes)
            before(self, name, first, rows)

        grow.applying.engine.ShardWriter.write_rows = count
        made = run()
        grow.applying.engine.ShardWriter.write_rows = before
        counts[name] = sum(written)
        assert made.verification is None or made.verification.lossless
    return counts


def growths_of(source: Path, out: Path, **options: Any) -> dict[str, Callable[[], grow.Growth]]:
    """The same growths on one process and on several."""
    out.mkdir(exist_ok=True)
    options["max_shard_size"] = "10KB"
    return {
        "widen": lambda: grow.widen(source, "hidden_size=48,layers=3", out=out / "widen", verify=False, **options),
        "deepen": lambda: grow.deepen(source, 5, out=out / "deepen", verify=False, **options),
        "upcycle": lambda: grow.upcycle(source, 4, out=out / "upcycle", verify=False, **options),
    }


def sharded(folder: Path) -> Any:
    """A model under FSDP2, saved as training scripts do, and grown from there."""
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from transformers import AutoModelForCausalLM

    from grow.training.sharding import shard

    model = AutoModelForCausalLM.from_pretrained(folder / "wide")
    mesh = dist.device_mesh.init_device_mesh("cpu", (SIZE,))
    shard(model, World(RANK, SIZE, torch.device("cpu"), mesh))
    dcp.save({"model": model.state_dict(), "step": torch.tensor(3)}, checkpoint_id=folder / "pieces")
    if RANK == 0:
        model.config.save_pretrained(folder / "pieces")
    dist.barrier()
    made = grow.widen(folder / "pieces", "hidden_size=48,layers=3", out=folder / "together" / "sharded", world=SIZE)
    return {"verdict": made.verification.verdict}


def loading(folder: Path) -> Any:
    """What this process reads of a checkpoint, and whether it then holds what it holds of the whole model."""
    import torch

    from grow.checkpoint.reader import Checkpoint, open_checkpoint
    from grow.models.true_float64 import load
    from grow.training.begin.loading import load_model
    from grow.training.settings.run_settings import Settings
    from grow.training.sharding import local, part_of

    found = {}
    with world_of(SIZE) as world:
        for name in ("source", "tied", "words", "fused"):
            read: list[int] = []
            before = Checkpoint.read

            def count(self, info, start, stop, before=before, read=read):
                read.append(stop - start)
                return before(self, info, start, stop)

            with open_checkpoint(folder / name) as checkpoint:
                Checkpoint.read = count
                model, ignored = load_model(checkpoint, Settings(checkpointing=True), world)
                Checkpoint.read = before
            whole, _ = load(folder / name, "float32")
            parts = dict(model.named_parameters())
            same = [torch.equal(local(parts[n]), part_of(p.detach(), parts[n])) for n, p in whole.named_parameters()]
            buffers = [torch.equal(a, b) for a, b in zip(model.buffers(), whole.buffers())]
            ids = torch.arange(4, 20).reshape(2, 8)
            with torch.no_grad():
                apart = (model.eval()(input_ids=ids).logits - whole.eval()(input_ids=ids).logits).abs().max().item()
            found[name] = {
                "read": sum(read),
                "parameters": len(parts) == len(same) and all(same) and all(p.requires_grad for p in parts.values()),
                "buffers": len(buffers) == len(list(model.buffers())) and all(buffers),
                "local": sum(local(p).numel() for p in parts.values()),
                "apart": apart,
                "ignored": len(ignored),
            }
    return found


def staged(folder: Path) -> Any:
    """A recipe: what is trained is sharded, what grows is shared."""
    done = grow.run(folder / "staged.toml", out=folder / "together" / "staged", world=SIZE, quiet=True)
    return {"verdicts": [stage.get("verdict") for stage in done.stages]}


def full(folder: Path) -> Any:
    """The last process's disk is full."""
    before = grow.applying.engine.grow_tensor

    def fault(*args, **kwargs):
        if RANK == SIZE - 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return before(*args, **kwargs)

    grow.applying.engine.grow_tensor = fault
    try:
        return grow.widen(folder / "source", "2x", out=folder / "full", verify=False, world=SIZE)
    finally:
        grow.applying.engine.grow_tensor = before


def apart(folder: Path) -> Any:
    """The last process has another file system at this place: it sees a folder without the token."""
    if RANK == SIZE - 1:
        grow.files.shared_staging.TOKEN, grow.files.shared_staging.SEEN_AFTER = "elsewhere", 0.3
    try:
        return grow.widen(folder / "source", "2x", out=folder / "apart", verify=False, world=SIZE)
    finally:
        grow.files.shared_staging.TOKEN = ".shared"


def other(folder: Path) -> Any:
    """The last process finds another checkpoint under the source's name."""
    source = folder / ("other" if RANK == SIZE - 1 else "source")
    return grow.widen(source, "hidden_size=48", out=folder / "mixed", verify=False, world=SIZE)


def missing(folder: Path) -> Any:
    """The last process does not find the source."""
    source = folder / ("nowhere" if RANK == SIZE - 1 else "source")
    return grow.widen(source, "hidden_size=48", out=folder / "mixed", verify=False, world=SIZE)


def different(folder: Path) -> Any:
    """The first process finds that the result is not lossless."""
    before = grow.applying.engine.grow_tensor

    def fault(t, read_rows, write_rows, **options):
        def wrong(first, rows):
            write_rows(first, rows * 0 if "up_proj" in t.name else rows)

        before(t, read_rows, wrong, **options)

    grow.applying.engine.grow_tensor = fault
    try:
        return grow.widen(folder / "source", "2x", out=folder / "different", world=SIZE)
    finally:
        grow.applying.engine.grow_tensor = before


def main(names: Iterable[str], folder: Path) -> None:
    with world_of(SIZE, train=False) as world:
        for name in names:
            scenario = getattr(dealing, name, None) or globals()[name]
            try:
                result: dict[str, Any] = {"returned": scenario(folder)}
                result["returned"] = result["returned"] if isinstance(result["returned"], dict) else None
            except grow.GrowError as error:
                result = {"error": type(error).__name__, "said": str(error), "code": error.exit_code}
            (folder / f"{name}.{RANK}.json").write_text(json.dumps(result))
            world.gathered(None)
