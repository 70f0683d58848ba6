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


def forks(count: int, work: Callable[[], object], folder: Path, timeout: float = 240) -> Forks:
    """`work` in so many forks of this process, with the environment that torchrun gives each.

    folder  of what they print
    A process that fails does not end the others, as under torchrun: they have to notice. Past `timeout` all are killed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = [folder / name for name in ("stdout", "stderr")]
    for path in said:
        path.write_bytes(b"")
    children = []
    for rank in range(count):
        child = os.fork()
        if not child:
            _become(rank, count, port, said, work)
        children.append(child)
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
    return Forks([ended[child] for child in children], *(path.read_text() for path in said))


def _become(rank: int, count: int, port: int, said: list[Path], work: Callable[[], object]) -> NoReturn:
    """In the fork: a process that knows nothing of pytest runs `work` and ends as a program does."""
    code = 1
    try:
        for fd, path in enumerate(said, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), fd)
        sys.stdout, sys.stderr = (open(fd, "w", closefd=False) for fd in (1, 2))
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)  # a new pool, before several threads at once ask for one
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in own.items()}}
        for module in (dealing, together):  # which read them
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
