"""Scenarios of `together.py`: Muon and Adafactor on several processes, tensor by tensor and in whole runs."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import distribute_tensor

import grow
from grow.processes import World, world_of
from grow.training.saved.exact_state import load_state, save_state
from grow.training.settings.run_settings import Settings
from grow.training.sharding import local, shard, whole
from grow.training.step.parameter_groups import build_optimizers, set_rate, states

RANK, SIZE = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
FOLDER = "dealt"
NAMES, DTYPES = ("adafactor", "muon"), ("float32", "float64")
WIDER = {"hidden": 72, "ffn": 97}
RUN: dict[str, Any] = dict(
    steps=4, batch=6, length=16, warmup=0, decay=0, lr=1e-2, save_every=2, eval_every=2, keep=9, dtype="float64",
    rewarm=(2.0, 9),
)  # fmt: skip
RUNS: dict[str, dict[str, Any]] = {
    "carried": {"src": "{}-grown", "freeze_old": True},
    "float32": {"dtype": "float32"},
}


class Odd:
    """A parameter of each shape, some with fewer rows than there are processes, and its optimizers as of a run."""

    SHAPES = ((7, 5), (8, 6), (2, 9), (1, 4), (9, 3), (5, 1), (13,), (2,), (1,), (9,), (4, 3, 5), (2, 6, 3))
    SCALES = {"8x6": 0.25, "13": 0.5}

    def __init__(self, name: str, dtype: str, world: World, seed: int = 0) -> None:
        self.world, self.model = world, torch.nn.Module()
        self.model.get_output_embeddings = lambda: None  # type: ignore[assignment]
        draw = torch.Generator().manual_seed(seed)
        for shape in self.SHAPES:
            values = torch.randn(shape, generator=draw, dtype=torch.float64).to(getattr(torch, dtype))
            self.model.register_parameter("x".join(map(str, shape)), torch.nn.Parameter(values))
        shard(self.model, world)
        settings = Settings(optimizer=name, lr=0.05, weight_decay=0.1)
        self.optimizers = build_optimizers(self.model, settings, world, self.SCALES)
        for group in self.optimizers[0].param_groups if name == "muon" else ():
            group["momentum"] = 0.5

    def drawn(self, draw: torch.Generator, without: Collection[str] = ()) -> dict[str, torch.Tensor]:
        """Gradients of few bits: with a momentum of 1/2 nothing is rounded before Muon's bfloat16, on any processes."""
        named = dict(self.model.named_parameters())
        made = {n: torch.randint(-32, 33, p.shape, generator=draw).to(p.dtype) / 8 for n, p in named.items()}
        return {n: g for n, g in made.items() if n not in without}

    def step(self, gradients: dict[str, torch.Tensor]) -> None:
        set_rate(self.optimizers, 0.05)
        for name, p in self.model.named_parameters():
            g = gradients.get(name)
            if g is not None and self.world.size > 1:
                g = distribute_tensor(g, p.device_mesh, p.placements, src_data_rank=None)  # type: ignore[attr-defined]
            p.grad = g
        for optimizer in self.optimizers:
            optimizer.step()

    def weights(self) -> Iterable[tuple[str, torch.Tensor]]:
        return self.model.named_parameters()

    def states(self) -> Iterable[tuple[str, torch.Tensor]]:
        return states(self.optimizers)


def differences(wanted: Iterable[tuple[str, Any]], found: Iterable[tuple[str, Any]]) -> dict[str, float]:
    """Of every tensor the largest difference, relative to its largest entry."""
    ours, made = dict(found), {}
    for name, value in wanted:
        got = whole(ours.pop(name))
        assert (got.shape, got.dtype) == (value.shape, value.dtype), name
        made[name] = ((got - value).abs().max() / value.abs().max()).item()
    assert not ours
    return made


def dealt(folder: Path) -> Any:
    """Each optimizer on tensors of odd shapes against torch's own class on whole ones, and with states from files."""
    with world_of(SIZE) as world:
        return {
            f"{name}-{dtype}": against_torch(name, dtype, folder / FOLDER / "odd" / f"{name}-{dtype}-{SIZE}", world)
            for name in NAMES
            for dtype in DTYPES
        }


def against_torch(name: str, dtype: str, folder: Path, world: World) -> dict[str, Any]:
    """Differences behind three steps, and behind two more that began with a state from files: on one process where all
    wrote it ("parts"), on all where one did ("whole")."""
    alone, draw = World(0, 1, world.device), torch.Generator().manual_seed(5)
    one, all_ = Odd(name, dtype, alone), Odd(name, dtype, world)
    for _ in range(3):
        gradients = one.drawn(draw)
        one.step(gradients)
        all_.step(gradients)
    found: dict[str, Any] = {
        "weights": differences(one.weights(), all_.weights()),
        "states": differences(one.states(), all_.states()),
        "classes": [[f"{type(o).__module__}.{type(o).__name__}" for o in odd.optimizers] for odd in (one, all_)],
        "rows": {n: len(local(p)) for n, p in all_.weights()},
    }
    save_state(folder / "parts", all_.model, all_.optimizers, world)
    if world.first:
        save_state(folder / "whole", one.model, one.optimizers, alone)
    dist.barrier()
    loaded = {"parts": Odd(name, dtype, alone, seed=1), "whole": Odd(name, dtype, world, seed=1)}
    for which, odd in loaded.items():
        load_state(folder / which, odd.model, odd.optimizers, odd.world)
    for without in ((), ("1x4", "9")):  # in the last step two have no gradient anywhere
        gradients = one.drawn(draw, without)
        for odd in (one, *loaded.values()):
            odd.step(gradients)
    return found | {which: differences(one.weights(), odd.weights()) for which, odd in loaded.items()}


def uneven(folder: Path) -> Any:
    """The last process has no gradient of two parameters."""
    with world_of(SIZE) as world:
        odd = Odd("adafactor", "float32", world)
        odd.step(odd.drawn(torch.Generator().manual_seed(5), ("9x3", "2") if RANK == SIZE - 1 else ()))


def begun(folder: Path) -> Any:
    """Runs of a grown model, re-warmed; and on from what one process saved."""
    for name in NAMES:
        run(folder, name, f"{name}-{SIZE}")
        grow.train(out=folder / FOLDER / f"{name}-1-then-{SIZE}", resume=True, world=SIZE)


def continued(folder: Path) -> Any:
    """On from what three processes saved, also after a growth on these; and runs of other kinds."""
    for name in NAMES:
        grow.train(out=folder / FOLDER / f"{name}-3-then-{SIZE}", resume=True, world=SIZE)
        source, grown = folder / FOLDER / f"{name}-3" / "step-00000004", folder / FOLDER / f"{name}-grown"
        grow.widen(source, WIDER, out=grown, state="carry", verify=False, world=SIZE)
        for kind, changed in RUNS.items():
            run(folder, name, f"{name}-{kind}-{SIZE}", **changed)


def run(folder: Path, name: str, out: str, src: str = "source", world: int = SIZE, **changed: Any) -> None:
    settings = {**RUN, **changed, "optimizer": name, "world": world, "quiet": True}
    grow.train(folder / FOLDER / src.format(name), folder / FOLDER / "text", out=folder / FOLDER / out, **settings)
