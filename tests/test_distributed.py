"""Pieces, shares, memory and lost processes: what one process can tell of several."""

from __future__ import annotations

import io
import os
import pickle
import socket
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import grow
from grow.applying.engine import share
from grow.costs.process_memory import memory_per_process
from grow.errors import BadInput
from grow.files.distributed_checkpoint import PiecedFolder
from grow.processes import Lost, World, _ending_together, is_shared


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
    found, _ = memory_per_process(grow.plan(model, {"layers": 6}), processes)
    # norms are gathered beside the matrices, and torch's optimizer keeps a number per parameter
    assert found.total == pytest.approx(counted_by_torch(model, processes), rel=0.02)


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
