"""Training states that are recognised and never opened: DeepSpeed, FSDP, Megatron, Lightning and others.

This module does not import torch, since a growth calls it before it knows whether there is a state at all.
"""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path

from grow.errors import listing
from grow.files.header import show

KINDS: dict[str, tuple[str, ...]] = {
    "DeepSpeed": ("global_step*/", "latest", "zero_to_fp32.py", "*_optim_states.pt", "zero_pp_rank_*"),
    "FSDP": ("optimizer_[0-9]*/", "pytorch_model_fsdp*", "optimizer_fsdp*", "fsdp_model*", "sharded_state_dict/"),
    "torch.distributed.checkpoint": ("*.distcp", ".metadata"),
    "Megatron": ("iter_[0-9]*/", "latest_checkpointed_iteration.txt", "mp_rank_[0-9]*", "distrib_optim*"),
    "Lightning": ("*.ckpt",),
    "an optimizer's": ("optimizer*.bin", "optimizer*.safetensors", "optimizer*.pt", "optimizer*.pth", "optim*.pt"),
    "a run's": (
        *("scheduler*.pt", "scheduler*.bin", "lr_scheduler*", "scaler*.pt", "scaler*.bin"),
        *("rng_state*.pth", "random_states_*.pkl", "custom_checkpoint_*.pkl", "sampler*.bin", "dl_state_dict*.bin"),
        "trainer_state.json",
    ),
}
"""Framework -> patterns of the names of its files, and of its folders, which end in a slash."""
READ = ("optimizer.pt",)  # `grow.optimizer.state.of_trainer` opens it


def foreign(path: Path) -> dict[str, list[str]]:
    """Framework -> names in the folder that belong to its training state, for every state that grow does not read."""
    by_framework: dict[str, list[str]] = {}
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        folder = entry.is_dir()
        if entry.name in READ or (folder and entry.name == "state"):
            continue
        name = f"{entry.name}/" if folder else entry.name
        whose = next((kind for kind, patterns in KINDS.items() if any(_fits(name, p) for p in patterns)), "")
        if folder and not whose and _sharded(path / entry.name):
            whose = "torch.distributed.checkpoint"
        if whose:
            by_framework.setdefault(whose, []).append(name)
    return by_framework


def told(by_framework: dict[str, list[str]]) -> str:
    """`DeepSpeed (global_step5/, latest), a run's (scheduler.pt)`: for a note or an error."""
    return ", ".join(f"{whose} ({listing(map(show, names), 4)})" for whose, names in by_framework.items())


def _fits(name: str, pattern: str) -> bool:
    """Whether a name fits; a pattern without a slash fits files and folders."""
    wanted = name if pattern.endswith("/") else name.removesuffix("/")
    return fnmatch.fnmatchcase(wanted, pattern)


def _sharded(folder: Path) -> bool:
    try:
        return any(name.endswith((".distcp", "_optim_states.pt")) for name in os.listdir(folder))
    except OSError:
        return False
