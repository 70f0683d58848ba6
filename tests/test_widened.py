"""Large weights in float64 that stay as they are stored: the same numbers, wherever they are used."""

from __future__ import annotations

import pytest
import tiny
import torch

import grow
from grow.models import upcast
from grow.models.true_float64 import load, stored, tensors
from grow.models.upcast import Widened, worth_it
from grow.verification.outputs import memory_needed, stored_outputs
from grow.verification.outputs import pair as pair_module
from grow.verification.outputs.compare import difference
from grow.verification.outputs.noise_floors import moved, storage_floor
from grow.verification.outputs.pair import Pair
from grow.verification.outputs.stored_outputs import on_disk


@pytest.fixture
def always(monkeypatch):
    """No model fits as a whole, every matrix is large, and products take several slices."""
    monkeypatch.setattr(Pair, "whole", False)
    monkeypatch.setattr(upcast, "LARGE", 2)
    monkeypatch.setattr(upcast, "SLICE", 50)


def drawn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 5, 7), (5, 2, 3, 7)])
def test_products_are_those_of_the_plain_float64_weight(always, dtype, shape):
    w, bias, x = drawn(13, 7, dtype=dtype), drawn(13, seed=1), drawn(*shape, seed=2)
    lazy, plain = Widened(w), w.double()
    linear = torch.nn.functional.linear
    strided = x.movedim(0, -2) if x.ndim > 2 else x
    for given in (x, strided):
        for found, wanted in (
            (linear(given, lazy, bias), linear(given, plain, bias)),
            (linear(given, lazy), linear(given, plain)),
            (given @ lazy.T, given @ plain.T),
            (torch.einsum("...i,oi->...o", given, lazy), torch.einsum("...i,oi->...o", given, plain)),
        ):
            assert (found.dtype, found.shape) == (torch.float64, wanted.shape)
            assert torch.allclose(found, wanted, rtol=1e-14, atol=1e-14)  # the order of the sums may differ
    rows = drawn(4, 13, seed=3)
    for options in ({}, {"beta": 0.5, "alpha": -2.0}):  # Conv1D multiplies by a weight that is not transposed
        found, wanted = (torch.addmm(drawn(7, seed=4), rows, m, **options) for m in (lazy, plain))
        assert torch.allclose(found, wanted, rtol=1e-14, atol=1e-14)  # the order of the sums may differ


def test_everything_else_gets_the_same_bits(always):
    w = drawn(6, 4, 5, dtype=torch.bfloat16)
    lazy, plain, ids = Widened(w), w.double(), torch.tensor([[5, 0, 5]])
    for use in (
        lambda m: m[2],
        lambda m: m[1:4, :, -1],
        lambda m: m[ids],
        lambda m: m.transpose(1, 2).reshape(5, -1),
        lambda m: torch.cat([m, m], 1)[3],
        lambda m: torch.stack([m[0], m[5]]),
        lambda m: torch.stack([m[0], torch.ones(4, 5, dtype=torch.float64)]),
        lambda m: torch.nn.functional.embedding(ids, m[:, 0]),
        lambda m: m.abs().std(),
        lambda m: m * 3 - m[0],
        lambda m: m.flatten().softmax(0),
        lambda m: torch.bmm(torch.ones(6, 2, 4, dtype=torch.float64), m),
    ):
        found, wanted = use(lazy), use(plain)
        assert (found.dtype, found.shape) == (torch.float64, wanted.shape)
        assert torch.equal(found + 0, wanted)
    assert lazy.to(torch.float64) is lazy
    parameter = torch.nn.Parameter(lazy, requires_grad=False)
    assert (parameter.dtype, type(parameter), isinstance(parameter, torch.nn.Parameter)) == (
        torch.float64,
        Widened,
        True,
    )


def test_it_cannot_be_written_to_but_given_other_numbers(always):
    lazy = Widened(drawn(3, 4, dtype=torch.bfloat16))
    for write in (lambda: lazy.mul_(2), lambda: lazy[0].zero_(), lambda: lazy.__setitem__(0, 1.0)):
        with pytest.raises(RuntimeError, match="cannot be written to"):
            write()
    total = torch.ones(3, 4, dtype=torch.float64)
    assert torch.equal(total.add_(lazy), 1 + lazy)  # it is read, something else is written to
    other = drawn(3, 4, seed=5)
    lazy.data = other
    assert torch.equal(lazy + 0, other)
    with pytest.raises(RuntimeError, match="cannot become"):
        lazy.data = drawn(4, 3)


def test_only_large_narrow_matrices_are_worth_it():
    assert worth_it((1024, 1024), torch.bfloat16)
    assert worth_it((8, 512, 512), torch.float32)
    for shape, dtype in (((1024, 1023), torch.bfloat16), ((2**21,), torch.float32), ((2048, 2048), torch.float64)):
        assert not worth_it(shape, dtype)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize(
    "family",
    ["llama", "qwen3", "gpt2", "gpt_neox", "opt", "bert"],
)
def test_a_model_gives_the_outputs_of_the_plain_way(family, dtype, tmp_path, monkeypatch):
    source = tiny.checkpoint(tmp_path / "source", family, dtype=dtype)
    found = []
    for large in (2, 10**9):
        monkeypatch.setattr(upcast, "LARGE", large)
        monkeypatch.setattr(upcast, "SLICE", 50)
        monkeypatch.setattr(Pair, "whole", False)
        with Pair(source, source) as pair:
            model = pair.model("source", "float64")
            lazy = {name for name, p in model.named_parameters() if isinstance(p, Widened)}
            assert lazy == ({name for name, p in model.named_parameters() if p.ndim > 1} if large == 2 else set())
            assert all(t.dtype == torch.float64 for t in tensors(model).values() if t.is_floating_point())
            assert model.dtype == torch.float64
            found.append((pair.outputs("source", "float64"), pair.hidden("source", "float64")))
    for lazy_ones, plain_ones in zip(*found):
        assert difference(plain_ones, lazy_ones).relative < 1e-13


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_ties_stay_ties_and_weights_can_be_read(family, always, tmp_path):
    source = tiny.checkpoint(tmp_path / "source", family, dtype="BF16")
    model = load(source, "float64", lazy=True).model
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert embedding is head
    name = next(name for name, p in model.named_parameters() if p is embedding)
    plain = load(source, "float64").model
    assert not any(isinstance(p, Widened) for p in plain.parameters())  # who changes a model asks for all of it
    assert torch.equal(stored(model, name) + 0, plain.get_parameter(name))


@pytest.mark.parametrize(("family", "to"), [("llama", "2x"), ("llama", "hidden_size=36"), ("bert", "2x")])
def test_the_whole_check_says_the_same(family, to, always, tmp_path):
    source = tiny.checkpoint(tmp_path / "source", family, dtype="BF16")
    done = grow.widen(source, to, out=tmp_path / "grown")
    assert done.verification.verdict == "lossless"
    assert done.verification.check("true_float64").status == "pass"


def test_damage_is_found_and_named(always, tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "llama")
    grown = grow.widen(source, "2x", out=tmp_path / "grown", verify=False).path

    def damage(raw):
        raw[3, 5] += 0.1

    tiny.edit_tensor(grown, "model.layers.1.mlp.down_proj.weight", damage)
    found = grow.verify(source, grown, rungs=["true_float64"])
    assert found.verdict == "different"
    assert found.first["module"] == "model.layers.1.mlp.down_proj"


def test_one_rounding_of_each_weight_moves_it_as_the_plain_way_does(tmp_path, monkeypatch):
    source = tiny.checkpoint(tmp_path / "source", "llama", dtype="BF16")
    floors = []
    monkeypatch.setattr(Pair, "whole", False)
    for large in (2, 10**9):
        monkeypatch.setattr(upcast, "LARGE", large)
        with Pair(source, source) as pair:
            floors.append([storage_floor(pair, dtype) for dtype in ("bfloat16", "float32")])
            assert moved(pair, "bfloat16")[0].keys() == pair.outputs("source", "float64").keys()
    assert floors[0] == pytest.approx(floors[1], rel=1e-2)  # the same draws, held in float32


def test_numbers_in_a_temporary_file_fall_back_to_memory(monkeypatch):
    value = on_disk((3, 5), torch.float32)
    value.copy_(drawn(3, 5))
    assert (value.shape, value.dtype) == ((3, 5), torch.float32)
    assert torch.equal(value, drawn(3, 5).float())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored_outputs.os, "posix_fallocate", full)
    assert on_disk((2, 3), torch.float64).shape == (2, 3)


def test_the_estimate_counts_a_large_weight_as_it_is_stored(tmp_path, monkeypatch):
    source = tiny.checkpoint(tmp_path / "source", "llama", dtype="BF16", vocab_size=4001)
    sizes = {}
    monkeypatch.setattr(Pair, "whole", False)
    for large in (4000, 10**9):
        monkeypatch.setattr(upcast, "LARGE", large)
        with Pair(source, source) as pair:
            sizes[large] = pair._needs("source", "float64", pair.probes)
            whole = pair._needs("source", "float64", pair.probes, whole=True)
    assert whole == sizes[10**9]
    table = 4001 * 24
    assert sizes[4000].files == 2 * table
    assert sizes[4000].weights == pytest.approx(sizes[10**9].weights - table * 8 * memory_needed.HEADROOM, abs=1)


@pytest.mark.parametrize("free", ["all", "less than the whole"])
def test_weights_stay_as_they_are_stored_only_where_a_model_does_not_fit_as_a_whole(free, tmp_path, monkeypatch):
    """Widening them in every pass takes time."""
    source = tiny.checkpoint(tmp_path / "source", "llama", dtype="BF16", vocab_size=4001)
    monkeypatch.setattr(upcast, "LARGE", 4000)
    with Pair(source, source) as pair:
        whole = pair._needs("source", "float64", pair.probes, whole=True).total
    monkeypatch.setattr(pair_module, "available_memory", lambda: 100 * whole if free == "all" else whole - 1)
    with Pair(source, source) as pair:
        assert pair.whole is (free == "all")
        model = pair.model("source", "float64")
        assert any(isinstance(p, Widened) for p in model.parameters()) is not pair.whole
        assert not pair.streaming
