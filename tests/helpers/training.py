"""Token files of random ids, short runs over them, and what two runs have in common."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launched import command, forks
from safetensors.torch import load_file

import grow
import grow.data
from grow.data.corpus import MANIFEST, OFFSETS
from grow.errors import BadInput, GrowError

QUICK: dict[str, Any] = dict(
    steps=4, batch=6, length=16, warmup=0, decay=0, lr=1e-2, save_every=2, eval_every=2, keep=9
)


def tokens(folder: Path, count: int = 700, seed: int = 0, vocab: int = 41, held_out: int = 200) -> Path:
    """Token files of random ids, some of them a document's first."""
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    splits = {}
    for name, n in (("train", count), ("val", held_out)):
        ids = draw.integers(4, vocab, n).astype("<u2")
        starts = np.unique(np.append(0, draw.integers(0, max(1, n), n // 12)))[: n or 0].astype(OFFSETS)
        ids.tofile(folder / f"{name}.bin")
        starts.tofile(folder / f"{name}.docs")
        digest = hashlib.sha256(ids.tobytes()).hexdigest()
        splits[name] = {"tokens": n, "documents": len(starts), "bytes": n, "sha256": digest}
    tokenizer = {"name": "none", "sha256": "0", "vocab_size": vocab, "end": None}
    document = {"schema": 1, "dtype": "uint16", "tokenizer": tokenizer, "splits": splits, "sources": []}
    (folder / MANIFEST).write_text(json.dumps({**document, "seed": 0, "validation": 0.1, "grow": "0"}))
    return folder


def curve(path: Path) -> list[dict[str, float]]:
    """metrics.jsonl without what a clock says."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")} for line in lines]


def weights(path: Path, step: int = 4) -> dict[str, torch.Tensor]:
    return load_file(path / f"step-{step:08d}" / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def apart(a: Path, b: Path) -> float:
    """The largest difference between two curves, relative."""
    first, second = curve(a), curve(b)
    assert [sorted(x) for x in first] == [sorted(y) for y in second]
    return max(abs(x[k] - y[k]) / max(1.0, abs(x[k])) for x, y in zip(first, second) for k in x)


def refused(kind: type[GrowError] = BadInput, **options: Any) -> str:
    with pytest.raises(kind) as error:
        grow.train(**options)
    assert error.value.exit_code == 2
    assert error.value.why
    assert error.value.fix
    return str(error.value)


def trained(count: int, folder: Path, *arguments: object) -> None:
    """`grow train` with these arguments in so many processes, of which one speaks; what they print lies in `folder`."""
    done = forks(count, partial(command, "train", *arguments), folder)
    assert done.codes == [0] * count, done.stderr
    assert done.stdout.count("\n") == 1


def forked(work: Callable[[], object]) -> int:
    """Exit status of `work` in a fork: negative for the signal that killed it."""
    child = os.fork()
    if not child:
        code = 99
        try:
            torch.set_num_threads(1)  # a new pool, before several threads at once ask for one
            found = work()
            code = found if isinstance(found, int) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(event: int, patched: Iterable[tuple[Any, Iterable[str]]], work: Callable[[], Any]) -> int:
    """Exit status of `work` in a fork that SIGKILLs itself at its n-th event: the n-th call of any of the functions
    that are named beside their owner."""
    left = event

    def count(function: Callable) -> Callable:
        def counted(*args, **kwargs):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return counted

    def counted_work() -> None:
        for owner, names in patched:
            for name in names:
                setattr(owner, name, count(getattr(owner, name)))
        work()

    return forked(counted_work)
