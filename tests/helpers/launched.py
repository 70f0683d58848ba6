"""Starts of several processes, and what they leave."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dealing
import together

import grow

ROOT = Path(grow.__file__).parents[1]
LOADED = {"tied": ("gpt2", "bfloat16"), "words": ("bert-mlm", "float32"), "fused": ("mixtral", "float32")}
FAULTS = ("full", "apart", "other", "missing", "different")


def torchrun(count: int, *line: object, timeout: float = 240) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return subprocess.run(
        [*command, *map(str, line)], env=env, capture_output=True, text=True, timeout=timeout, check=False
    )


def scenarios(folder: Path, count: int, *names: str) -> dict[str, list[dict[str, Any]]]:
    done = torchrun(count, Path(together.__file__), ",".join(names), folder)
    assert done.returncode == 0, done.stderr
    found = {name: [json.loads((folder / f"{name}.{k}.json").read_text()) for k in range(count)] for name in names}
    failed = [
        process["said"] for name in {*names} - {*FAULTS, "uneven"} for process in found[name] if "said" in process
    ]
    assert not failed, failed
    return found


def shortened(dealt: Path, by: str, then: int) -> None:
    """Copies of runs that lack the last checkpoint, for so many processes to go on."""
    for name in dealing.NAMES:
        path = shutil.copytree(dealt / f"{name}-{by}", dealt / f"{name}-{by}-then-{then}")
        shutil.rmtree(path / "step-00000004")
