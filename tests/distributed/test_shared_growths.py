"""Several processes do what one does, bit for bit, and what ends one of them ends all, with one message.

The processes are real, over gloo on the CPU, in few runs that go through many scenarios (`together.py`): forks of this
one, and once what torchrun starts.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import time
import warnings
from pathlib import Path

import dealing
import pytest
import tiny
import together
import torch
import torch.distributed.checkpoint as dcp
from launched import FAULTS, LOADED, command, forks, torchrun
from safetensors.numpy import load_file
from training import apart

import grow
import grow.applying.engine
from grow.costs.process_memory import portions
from grow.errors import BadInput
from grow.growth.plan_document import plan_document
from grow.planning.record import read_record


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
    return "mkdir is not part of an index"


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


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_all(folder, tmp_path, victim):
    """Also the first one, whose folder the others then remove."""
    out = tmp_path / "there" / "out"
    out.parent.mkdir()

    def work() -> None:
        before = grow.applying.engine.grow_tensor

        def killed(*args, **kwargs):
            if os.environ["RANK"] == str(victim):
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.2)
            return before(*args, **kwargs)

        grow.applying.engine.grow_tensor = killed
        command("widen", "--from", folder / "source", "--to", "2x", "--out", out)

    done = forks(2, work, tmp_path)
    assert done.codes[victim] == -signal.SIGKILL
    assert done.codes[1 - victim] == 2
    assert f"error: process {victim} of 2: has ended before the work was done" in done.stderr
    assert done.stderr.count("error: ") == 1
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("line", ["widen --to 2x", "deepen --layers 3", "upcycle --experts 4"])
def test_another_number_of_processes_is_refused(monkeypatch, capsys, folder, tmp_path, line):
    monkeypatch.setenv("WORLD_SIZE", "1")
    command = [*line.split(), "--from", folder / "source", "--out", tmp_path / "out", "--world", 4]
    code, _, said = tiny.command(monkeypatch, capsys, *command)
    assert code == 2
    assert "--world 4: 4 processes were asked for, WORLD_SIZE is 1" in said
    assert "torchrun --nproc-per-node 4 -m grow …" in said
    assert not list(tmp_path.iterdir())


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
