"""Several processes do what one does, bit for bit, and what ends one of them ends all, with one message.

The processes are real: torchrun over gloo on the CPU, in few runs that go through many scenarios (`together.py`).
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import dealing
import models
import numpy as np
import pytest
import tiny
import together
import torch
import torch.distributed.checkpoint as dcp
from safetensors.numpy import load_file
from test_train import apart, tokens
from transformers import LlamaConfig, LlamaForCausalLM

import grow
from grow.applying.engine import share
from grow.costs.process_memory import portions
from grow.errors import BadInput
from grow.files.distributed_checkpoint import PiecedFolder
from grow.growth.plan_document import plan_document
from grow.optimizer.state.find import open_state
from grow.planning.record import read_record
from grow.processes import Lost, World, _ending_together, is_shared

ROOT = Path(grow.__file__).parents[1]
LOADED = {"tied": ("gpt2", "bfloat16"), "words": ("bert-mlm", "float32"), "fused": ("mixtral", "float32")}
FAULTS = ("full", "apart", "other", "missing", "different")
STAGED = """
name = "staged"
data = "tokens"
train = {length = 16, batch = 6, lr = 1e-2, warmup = 0, eval_every = 2}
stage = [
    {kind = "load", from = "wide"},
    {kind = "train", steps = 3},
    {kind = "widen", to = "hidden_size=48,layers=3"},
    {kind = "train", steps = 3},
]
"""


def torchrun(count: int, *line: object, timeout: float = 240) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return subprocess.run(
        [*command, *map(str, line)], env=env, capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("together")
    tiny.checkpoint(made / "source", "llama", dtype="BF16", tie_word_embeddings=False)
    tiny.checkpoint(made / "wide", "llama", tie_word_embeddings=False, intermediate_size=19)
    for name, (variant, dtype) in LOADED.items():
        models.save(variant, made / name, dtype)
    tokens(made / "tokens", vocab=29)
    (made / "staged.toml").write_text(STAGED)
    tiny.checkpoint(made / "other", "llama", dtype="BF16", tie_word_embeddings=False, vocab_size=31)
    return made


@pytest.fixture(scope="module")
def dealt(folder) -> Path:
    """A grown model and runs of one process from it."""
    made = folder / dealing.FOLDER
    models.save("llama-tied", made / "small", "float32")
    grow.widen(made / "small", {"hidden": 36, "ffn": 43, "layers": 3}, out=made / "source", verify=False)
    tokens(made / "text")
    for name in dealing.NAMES:
        dealing.run(folder, name, f"{name}-1")
    return made


@pytest.fixture(scope="module")
def three(dealt, folder) -> dict[str, list[dict[str, Any]]]:
    """What each of three processes found in each scenario."""
    shortened(dealt, "1", 3)
    return scenarios(folder, 3, "growths", "sharded", "loading", "staged", "dealt", "uneven", "begun", *FAULTS)


@pytest.fixture(scope="module")
def two(three, dealt, folder) -> dict[str, list[dict[str, Any]]]:
    """What each of two found, who go on where three were."""
    shortened(dealt, "3", 2)
    return scenarios(folder, 2, "dealt", "continued")


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


def files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


# Growth


def test_three_processes_write_the_bytes_of_one_and_each_its_share(three, folder):
    for name, run in together.growths_of(folder / "source", folder / "alone").items():
        one = run()
        assert one.path is not None
        assert files(one.path) == files(folder / "together" / name)
        shares = [process["returned"][name] for process in three["growths"]]
        assert sum(shares) == one.plan.nbytes
        largest = max(t.nbytes for t in one.plan.tensors)
        assert max(shares) - min(shares) <= largest  # what no dealing of whole tensors can even out


def test_a_sharded_checkpoint_grows_as_the_whole_one_does(three, folder, tmp_path):
    """Saved by three processes under FSDP2, grown by three, by one, and from a stock checkpoint of the same weights."""
    assert all(process["returned"] == {"verdict": "lossless"} for process in three["sharded"])
    assert len(list((folder / "pieces").glob("*.distcp"))) == 3
    pieced, whole = (
        grow.widen(folder / source, "hidden_size=48,layers=3", out=tmp_path / source, verify=False)
        for source in ("pieces", "wide")
    )
    weights = [(path / "model.safetensors").read_bytes() for path in (pieced.path, folder / "together" / "sharded")]
    assert weights[0] == weights[1]
    assert {name: tensor.tobytes() for name, tensor in load_file(pieced.path / "model.safetensors").items()} == {
        name: tensor.tobytes() for name, tensor in load_file(whole.path / "model.safetensors").items()
    }
    assert pieced.plan.parameters == whole.plan.parameters
    assert not (folder / "together" / "sharded" / ".source").exists()


def lost(path: Path) -> str:
    next(path.glob("__1_*")).unlink()
    return "cannot be read: No such file or directory"


def cut(path: Path) -> str:
    file = next(path.glob("__1_*"))
    file.write_bytes(file.read_bytes()[:2000])
    return ""  # of many tensors the first that is read, in whichever way it is damaged


def unnamed(path: Path) -> str:
    (path / "config.json").unlink()
    return "has no config.json, nor has the folder around it"


def foreign(path: Path) -> str:
    with warnings.catch_warnings():  # of torch: that one process is meant
        warnings.simplefilter("ignore")
        dcp.save({"net.weight": torch.zeros(2, 3)}, checkpoint_id=path, no_dist=True)
    return "holds no tensor of a llama; it has net.weight"


def harmful(path: Path) -> str:
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(path / "harm"),)

    (path / ".metadata").write_bytes(pickle.dumps(Harm()))
    return "mkdir is no part of an index"


@pytest.mark.parametrize("damage", [lost, cut, unnamed, foreign, harmful])
def test_a_damaged_sharded_checkpoint_is_one_message(three, folder, tmp_path, damage):
    path = shutil.copytree(folder / "pieces", tmp_path / "pieces")
    said = damage(path)
    with pytest.raises(BadInput) as error:
        grow.widen(path, "hidden_size=48", out=tmp_path / "out", verify=False)
    assert said in str(error.value)
    assert error.value.fix
    assert [p.name for p in tmp_path.iterdir()] == ["pieces"]
    assert not (path / "harm").exists()


def test_a_strangers_sharded_checkpoint_is_opened_only_when_trusted(three, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 4321)
    options = dict(out=tmp_path / "out", verify=False)
    with pytest.raises(BadInput, match="you are user 4321"):
        grow.widen(folder / "pieces", "hidden_size=48", **options)
    assert grow.widen(folder / "pieces", "hidden_size=48", trust_checkpoint=True, **options).path == tmp_path / "out"


def test_pieces_of_any_split_are_read_as_the_whole(tmp_path):
    """Rows, columns and both, by bytes that begin and end anywhere; and what does not tile a tensor is refused."""
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import (
        ChunkStorageMetadata,
        Metadata,
        MetadataIndex,
        TensorProperties,
        TensorStorageMetadata,
    )  # fmt: skip

    draw = torch.Generator().manual_seed(0)
    splits = {
        "rows": ((7, 5), [((0, 0), (3, 5)), ((3, 0), (4, 5))]),
        "columns": ((7, 5), [((0, 0), (7, 2)), ((0, 2), (7, 3))]),
        "both": ((6, 4, 3), [((a, b, 0), (3, 2, 3)) for a in (0, 3) for b in (0, 2)]),
        "empty": ((2, 3), [((0, 0), (2, 3)), ((2, 0), (0, 3))]),
        "scalar": ((), [((), ())]),
    }

    def saved(name: str, without: int | None = None) -> tuple[PiecedFolder, torch.Tensor]:
        shape, chunks = splits[name]
        full = torch.randn(shape, generator=draw).bfloat16()
        kept = [chunk for k, chunk in enumerate(chunks) if k != without]
        stored, file = {}, io.BytesIO(b"before")
        file.seek(6)
        for begin, sizes in kept:
            at = file.tell()
            torch.save(full[tuple(slice(b, b + n) for b, n in zip(begin, sizes))].clone(), file)
            info = _StorageInfo("__0_0.distcp", at, file.tell() - at)
            stored[MetadataIndex("model.w", torch.Size(begin))] = info
        pieces = [ChunkStorageMetadata(torch.Size(begin), torch.Size(sizes)) for begin, sizes in kept]
        meta = TensorStorageMetadata(TensorProperties(torch.bfloat16), torch.Size(shape), pieces)
        (tmp_path / "__0_0.distcp").write_bytes(file.getvalue())
        (tmp_path / ".metadata").write_bytes(pickle.dumps(Metadata({"model.w": meta}, storage_data=stored)))
        return PiecedFolder(tmp_path), full

    for name in splits:
        read, full = saved(name)
        with read:
            (t,) = read.tensors.values()
            wanted = full.reshape(-1).view(torch.uint8).numpy().tobytes()
            assert (t.dtype, t.shape, t.nbytes) == ("BF16", tuple(full.shape), len(wanted))
            for start in range(len(wanted) + 1):
                for stop in range(start, len(wanted) + 1, 7):
                    assert read.read(t, start, stop) == wanted[start:stop]
    for name in ("rows", "columns", "both"):
        with pytest.raises(BadInput, match=r"numbers, \d+ are wanted"):
            saved(name, without=1)


SAID = {
    "full": "No space left on device; nothing was kept",
    "apart": "process 2 on ",
    "other": "is another checkpoint for process 2 than for process 0",
    "missing": "nowhere: does not exist",
    "different": "is different after the growth; it was not kept",
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_fails_on_one_process_fails_on_all_and_leaves_nothing(three, folder, name):
    first, *others = three[name]
    assert SAID[name] in first["said"]
    assert first["code"] == (1 if name == "different" else 2)
    assert all((found["error"], found["code"]) == (first["error"], first["code"]) for found in others)
    assert {path.name for path in folder.iterdir() if not path.name.endswith(".json")} <= {
        "source", "wide", "tied", "words", "fused", "other", "pieces", "together", "alone", "tokens", "staged.toml",
        dealing.FOLDER,
    }  # fmt: skip


def test_the_command_speaks_once(folder, tmp_path):
    done = torchrun(
        2, "-m", "grow", "widen", "--from", folder / "source", "--to", "hidden_size=48,layers=3", "--world", 2,
        "--out", tmp_path / "two", "--max-shard-size", "10KB", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["verification"]["verdict"] == "lossless"
    record = json.loads((tmp_path / "two" / "grow.json").read_text())
    assert record["verification"]["verdict"] == "lossless"
    one = grow.widen(
        folder / "source", "hidden_size=48,layers=3", out=tmp_path / "one", verify=False, max_shard_size="10KB"
    )
    assert one.path is not None
    same = {name: raw for name, raw in files(one.path).items() if name not in ("grow.json", "README.md")}
    assert same == {n: raw for n, raw in files(tmp_path / "two").items() if n not in ("grow.json", "README.md")}
    assert record["tensors"] == json.loads((one.path / "grow.json").read_text())["tensors"]


KILLED = """
    import os, signal, sys, time
    import grow.applying.engine
    before, victim = grow.applying.engine.grow_tensor, sys.argv.pop()

    def killed(*args, **kwargs):
        if os.environ["RANK"] == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2)
        return before(*args, **kwargs)

    grow.applying.engine.grow_tensor = killed
    from grow.cli import main
    main()
"""


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_all(folder, tmp_path, victim):
    """Also the first one, whose folder the others then remove."""
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    out = tmp_path / "out"
    done = torchrun(2, script, "widen", "--from", folder / "source", "--to", "2x", "--out", out, victim)
    assert done.returncode == 1  # torchrun's own; that of the process that was left stands in its report
    assert f"error: process {victim} of 2: has ended before the work was done" in done.stderr
    assert done.stderr.count("error: ") == 1
    assert "exitcode  : 2 " in done.stderr
    assert f"exitcode  : -{signal.SIGKILL.value} " in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["killed.py"]


@pytest.mark.parametrize("line", ["widen --to 2x", "deepen --layers 3", "upcycle --experts 4"])
def test_another_number_of_processes_is_refused(monkeypatch, capsys, folder, tmp_path, line):
    monkeypatch.setenv("WORLD_SIZE", "1")
    command = [*line.split(), "--from", folder / "source", "--out", tmp_path / "out", "--world", 4]
    code, _, said = tiny.command(monkeypatch, capsys, *command)
    assert code == 2
    assert "--world 4: 4 processes were asked for, WORLD_SIZE is 1" in said
    assert "torchrun --nproc-per-node 4 -m grow …" in said
    assert not list(tmp_path.iterdir())


def test_shares_are_of_one_size_and_hold_everything_once():
    class Item:
        def __init__(self, name: int, nbytes: int) -> None:
            self.name, self.nbytes = str(name), nbytes

    items: list[Any] = [Item(k, n) for k, n in enumerate([900, 7, 400, 300, 250, 50, 800, 3])]
    shares = [share(items, World(k, 3)) for k in range(3)]
    assert sorted(item.name for mine in shares for item in mine) == sorted(item.name for item in items)
    assert [sum(item.nbytes for item in mine) for mine in shares] == [900, 860, 950]
    assert all([int(i.name) for i in mine] == sorted(int(i.name) for i in mine) for mine in shares)


def test_an_error_that_all_know_of_is_known_through_what_it_causes():
    one = BadInput("here", what="is wrong")
    assert not is_shared(one)
    one.shared = True  # type: ignore[attr-defined]
    other = ValueError()
    other.__context__ = one
    assert is_shared(other)


# A recipe


def test_a_recipe_on_three_processes_is_the_one_on_one(three, folder):
    (folder / "alone").mkdir(exist_ok=True)
    alone = grow.run(folder / "staged.toml", out=folder / "alone" / "staged", quiet=True)
    together = folder / "together" / "staged"
    verdicts = [stage.get("verdict") for stage in alone.stages]
    assert verdicts[2] == "lossless"
    assert all(found["returned"]["verdicts"] == verdicts for found in three["staged"])
    for stage in ("02-train", "04-train"):
        assert apart(folder / "alone" / "staged" / stage, together / stage) < 1e-6
    made, same = (read_record(path / "03-widen") for path in (alone.path, together))
    assert made is not None
    assert same is not None
    assert made.raw["plan"] == same.raw["plan"]


# Loading a model


def test_each_process_reads_its_rows_and_no_more(three):
    itemsize = {"source": 2, "tied": 2, "words": 4}
    for name in ("source", *LOADED):
        found = [process["returned"][name] for process in three["loading"]]
        assert all(one["parameters"] and one["buffers"] and not one["ignored"] for one in found)
        assert all(one["apart"] < 1e-5 for one in found)  # sums of float32 in another order
        if name in itemsize:
            assert all(one["read"] == itemsize[name] * one["local"] for one in found)
        else:  # read by transformers, whole
            assert all(one["read"] == 0 for one in found)


# Steps of whole tensors


def furthest(wanted: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> float:
    """The largest difference, relative to the largest entry of its tensor."""
    assert wanted.keys() == found.keys()
    return max(((found[n] - w).abs().max() / w.abs().max()).item() for n, w in wanted.items())


def values(path: Path) -> dict[str, torch.Tensor]:
    """Everything that a state holds."""
    with open_state(path) as state:
        return {name: state.whole(name) for name in state.tensors}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("dtype", dealing.DTYPES)
@pytest.mark.parametrize("name", dealing.NAMES)
def test_steps_of_dealt_tensors_are_torchs_of_whole_ones(two, three, name, dtype, count):
    """Also from a state that another number of processes wrote, and of a tensor that a process has no row of."""
    found = [process["returned"][f"{name}-{dtype}"] for process in {2: two, 3: three}[count]["dealt"]]
    matrices = {"x".join(map(str, shape)) for shape in dealing.Odd.SHAPES if len(shape) == 2}
    limit = {"float32": 1e-6, "float64": 1e-14}[dtype]  # sums in another order: measured up to 1.3e-7 and 2.4e-16
    for process in found:
        for what in ("weights", "states", "parts", "whole"):
            assert max(process[what].values()) <= limit, what
            if name == "muon":  # its step of a matrix is torch's, bit for bit
                assert not any(
                    process[what][n] for n in process[what] if n.removeprefix("optim.").split(".")[0] in matrices
                )
        own, ours = process["classes"]
        assert own[0].startswith("torch.optim.")
        assert ours[0].startswith("grow.training.step.sharded_optimizers.")
    assert min(process["rows"]["1"] for process in found) == min(process["rows"]["1x4"] for process in found) == 0
    assert [process["rows"]["7x5"] for process in found] == {2: [4, 3], 3: [3, 3, 1]}[count]


@pytest.mark.parametrize("name", dealing.NAMES)
def test_a_state_of_dealt_tensors_is_read_as_that_of_whole_ones(three, dealt, name):
    """As a growth reads it, with pieces of no row."""
    found = {}
    for which in ("parts", "whole"):
        with PiecedFolder(dealt / "odd" / f"{name}-float64-3" / which) as files:
            raw = {n: (t.shape, files.read(t, 0, t.nbytes)) for n, t in files.tensors.items()}
        found[which] = {n: (s, np.frombuffer(b, "<f8" if s else "<f4")) for n, (s, b) in raw.items()}
    assert found["parts"].keys() == found["whole"].keys()
    for n, (shape, value) in found["whole"].items():
        assert found["parts"][n][0] == shape, n
        assert np.allclose(found["parts"][n][1], value, rtol=0, atol=1e-13 * abs(value).max()), n


@pytest.mark.parametrize("name", dealing.NAMES)
def test_runs_are_the_same_on_any_number_of_processes(two, three, dealt, tmp_path, name):
    """A grown, tied model, re-warmed; on three, on from one to three, from three to two and to one.

    Muon rounds the momentum to bfloat16: two that differ in the last bits of float64 are rounded to the same.
    """
    then_one = shutil.copytree(dealt / f"{name}-3", tmp_path / "then-1")
    shutil.rmtree(then_one / "step-00000004")
    grow.train(out=then_one, resume=True, quiet=True)
    one = dealt / f"{name}-1"
    for path in (dealt / f"{name}-3", dealt / f"{name}-1-then-3", dealt / f"{name}-3-then-2", then_one):
        assert apart(one, path) < 1e-13  # sums of float64 in another order: measured up to 5e-16
        state = furthest(values(one / "step-00000004"), values(path / "step-00000004"))
        assert state < 1e-12, path  # measured up to 8e-15


@pytest.mark.parametrize("name", dealing.NAMES)
def test_grown_states_and_frozen_entries_are_dealt_too(two, dealt, tmp_path, name):
    """What three processes saved, grown by two and taken over by two, where old entries keep their bits."""
    one = grow.widen(
        dealt / f"{name}-3" / "step-00000004", dealing.WIDER, out=tmp_path / "grown", state="carry", verify=False
    )
    begun, found = values(one.path), values(dealt / f"{name}-grown")
    assert begun.keys() == found.keys()
    assert all(torch.equal(found[n], value) for n, value in begun.items())
    dealing.run(dealt.parent, name, tmp_path / "one", **dealing.RUNS["carried"])
    run = dealt / f"{name}-carried-2"
    assert apart(tmp_path / "one", run) < 1e-13
    after = values(run / "step-00000004")
    assert furthest(values(tmp_path / "one" / "step-00000004"), after) < 1e-12
    for n, new in grow.new_entries(one.plan).items():
        before, now = begun[f"model.{n}"], after[f"model.{n}"]
        assert torch.equal(before[~new], now[~new])
        assert not torch.equal(before, now)


@pytest.mark.parametrize("name", dealing.NAMES)
def test_float32_runs_agree_as_far_as_they_can(two, dealt, tmp_path, name):
    """As far as one process agrees with itself when it sums in another order, that of two parts or three.

    For Muon that is not far: what differs in the last bit of float32 may round to another bfloat16, which
    Newton-Schulz hands on to the whole matrix. Measured, after 4 steps at the large rate: Adafactor 1e-7, Muon 3e-4.
    """
    paths = [tmp_path / f"{parts}" for parts in (1, 2, 3)]
    for parts, path in enumerate(paths, 1):
        dealing.run(dealt.parent, name, path, accumulate=parts, **dealing.RUNS["float32"])
    found, own = apart(paths[0], dealt / f"{name}-float32-2"), max(apart(paths[0], path) for path in paths[1:])
    assert found < 4 * own
    assert found < {"adafactor": 1e-6, "muon": 1e-2}[name]


def test_a_gradient_that_some_have_is_refused_by_all(three):
    for process in three["uneven"]:
        assert (process["error"], process["code"]) == ("Refused", 2)
        assert process["said"].startswith("9x3, 2: has a gradient on some of the processes alone")


# Memory of one process


def counted_by_torch(model: Any, processes: int) -> float:
    """Bytes at the peak of two steps of two parts on one of so many processes, without activations and inputs. The
    others are made up: torch's "fake" backend communicates with nobody."""
    import torch.distributed as dist
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from grow.training.sharding import shard

    dist.init_process_group("fake", rank=0, world_size=processes, store=FakeStore())
    try:
        mesh = dist.device_mesh.init_device_mesh("cpu", (processes,))
        shard(model, World(0, processes, torch.device("cpu"), mesh))
        optimizer = torch.optim.AdamW(model.parameters())
        tracker = FSDPMemTracker(model, optimizer)
        tracker.track_inputs(())
        ids = torch.randint(0, 50, (1, 4))
        with tracker:
            for _ in range(2):
                for _ in range(2):
                    tracker.reset_mod_stats()
                    model(input_ids=ids, use_cache=False).logits.square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
        (found,) = tracker.get_tracker_snapshot("peak").values()
        left = {str(kind).split(".")[-1]: count for kind, count in found.items()}
        return left["Total"] - left["ACT"] - left["INP"]
    finally:
        dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # torch's tool, and the backend that it runs on
@pytest.mark.parametrize(
    ("processes", "fields"),
    [
        (8, dict(vocab_size=500, tie_word_embeddings=False)),  # behind a block's backward pass
        (5, dict(vocab_size=6000, tie_word_embeddings=False)),  # when a forward pass begins
        (8, dict(vocab_size=6000, tie_word_embeddings=True)),  # when a table's two gradients are added
    ],
)
def test_the_memory_of_a_process_is_what_torch_counts(processes, fields):
    sizes = dict(hidden_size=96, intermediate_size=250, num_hidden_layers=5, num_attention_heads=6, **fields)
    model = LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, **sizes))
    found, _ = portions(grow.plan(model, {"layers": 6}), processes)
    # norms are gathered beside the matrices, and torch's optimizer keeps a number per parameter
    assert found.total == pytest.approx(counted_by_torch(model, processes), rel=0.02)


def test_a_plan_says_it_when_asked(folder):
    plan = grow.plan(folder / "source", "2x")
    assert "world" not in plan_document(plan)
    alone, shared = (plan_document(plan, count)["world"] for count in (1, 3))
    parameters = plan.parameters
    for side, count in zip(("old", "new"), parameters):
        assert alone[side]["total"] == 16 * count
        assert alone[side]["in_flight"] == 0
        assert shared[side]["weights"] >= 4 * count / 3
        assert shared[side]["moments"] == 2 * shared[side]["weights"]


def test_experts_that_are_fused_in_memory_are_loaded_whole(folder):
    plan = grow.plan(
        folder / "source", None, upcycling=dict(experts=4, top_k=None, granularity=1, every=1, route="routed")
    )
    old, new = portions(plan, 4)
    assert new.loading == 4 * plan.parameters[1]
    assert old.loading < 4 * plan.parameters[0]


def test_a_process_that_was_killed_and_not_yet_buried_is_lost():
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # ended, and nobody has looked
    try:
        world = World(0, 2, peers=[(socket.gethostname(), os.getpid()), (socket.gethostname(), child)])
        assert world.lost() == [1]
    finally:
        os.waitpid(child, 0)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_broken_connection_is_a_lost_process_and_one_of_the_others_says_so(rank):
    here = [(socket.gethostname(), os.getpid())] * 2
    world = World(rank, 3, peers=[("elsewhere", 1), *here])
    with pytest.raises(Lost, match="process one of 3: has ended before") as error, _ending_together(world):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:728: Connection reset by peer.")
    assert error.value.alone == (rank == 1)  # the first process speaks anyway, where it is there
