"""Starts of several processes, and what they leave."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import dealing
import together
import torch

import grow

ROOT = Path(grow.__file__).parents[1]
LOADED = {"tied": ("gpt2", "bfloat16"), "words": ("bert-mlm", "float32"), "fused": ("mixtral", "float32")}
PRINTED = ("stdout", "stderr")
FAULTS = ("full", "apart", "other", "missing", "different")


def torchrun(count: int, *line: object, timeout: float = 240) -> subprocess.CompletedProcess:
    """What users start: new processes, each of which imports everything. `forks` does for what does not need that."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return subprocess.run(
        [*command, *map(str, line)], env=env, capture_output=True, text=True, timeout=timeout, check=False
    )


class Forks(NamedTuple):
    """The exit status of each process, negative for the signal that killed it, and what all of them printed."""

    codes: list[int]
    stdout: str
    stderr: str


def started(work: Callable[[], object], folder: Path, **environment: object) -> int:
    """The id of a fork of this process that runs `work` as a program of its own; what it prints is added to
    `folder`/stdout and stderr."""
    child = os.fork()
    if not child:
        _become(work, folder, {name: str(value) for name, value in environment.items()})
    return child


def forks(count: int, work: Callable[[], object], folder: Path, timeout: float = 240) -> Forks:
    """`work` in so many forks of this process, with the environment that torchrun gives each.

    folder  of what they print
    A process that fails does not end the others, as under torchrun: they have to notice. Past `timeout` all are killed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free.getsockname()[1]}
    for name in PRINTED:
        (folder / name).write_bytes(b"")
    world = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, **address}
    children = [started(work, folder, RANK=rank, LOCAL_RANK=rank, **world) for rank in range(count)]
    ended: dict[int, int] = {}
    latest = time.monotonic() + timeout
    while len(ended) < count:
        for child in set(children) - ended.keys():
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                ended[child] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > latest:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.02)
    return Forks([ended[child] for child in children], *((folder / name).read_text() for name in PRINTED))


def _become(work: Callable[[], object], folder: Path, environment: dict[str, str]) -> NoReturn:
    """In the fork: a process that knows nothing of pytest runs `work` and ends as a program does."""
    code = 1
    try:
        for fd, name in enumerate(PRINTED, 1):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT), fd)
        sys.stdout, sys.stderr = (open(fd, "w", closefd=False) for fd in (1, 2))  # noqa: SIM115
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)  # a new pool, before several threads at once ask for one
        os.environ |= environment
        for module in (dealing, together):  # which read it
            importlib.reload(module)
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def command(*line: object) -> None:
    """`grow` with these arguments, in a process that it may end."""
    from grow.cli import main

    sys.argv = ["grow", *map(str, line)]
    main()


def scenarios(folder: Path, count: int, *names: str) -> dict[str, list[dict[str, Any]]]:
    done = forks(count, lambda: together.main(names, folder), folder.parent)
    assert done.codes == [0] * count, done.stderr
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
