"""Golden files: sketches, stored probes, and where the old coordinates are."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from golden_files import judged

import grow
from grow.architectures import family_of
from grow.architectures.architecture import Architecture
from grow.checkpoint.reader import open_checkpoint
from grow.notation.maps import identity
from grow.planning import readback
from grow.planning.record import read_record
from grow.verification.golden import against, record, sketch
from grow.verification.golden.content import pack, unpack
from grow.verification.golden.golden_probes import fit
from grow.verification.outputs.compare import difference
from grow.verification.probes import Probe, Probes
from grow.verification.weights.recorded_growth import Replay

# Sketches


def random(rows: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width))


@pytest.mark.parametrize(
    ("rows", "columns", "top"), [(12, 90, 8), (12, 10, 8), (5, 10, 8), (5, 90, 8), (5, 0, 0), (1, 0, 0)]
)
def test_every_element_moves_a_sketch(rows, columns, top):
    x = random(12, 90)
    kept = sketch.sketch(x, seed=3, rows=rows, columns=columns, top=top)
    sketch.check(kept, 12, 90)
    assert sketch.worst(kept, x, 3) == (0, "")
    for row, column in np.ndindex(12, 90):
        y = x.copy()
        y[row, column] += 1e-3
        delta, where = sketch.worst(kept, y, 3)
        assert 0.99e-3 / np.sqrt(12 * 90) < delta < 1.01e-3
        assert where


@pytest.mark.parametrize("part", ["values", "top", "logsumexp", "projections", "sum"])
def test_every_part_of_a_sketch_is_compared(part):
    x = random(12, 90)
    kept = sketch.sketch(x, seed=0, rows=5, columns=10, top=8)
    kept[part] = kept[part] + 0.5 * (np.arange(kept[part].size).reshape(kept[part].shape) == kept[part].size - 1)
    delta, where = sketch.worst(kept, x, 0)
    assert delta == pytest.approx(0.5)
    assert {"values": "[11, ", "top": "[11, ", "logsumexp": "[11] in logsumexp", "projections": "[11] in projection 7",
            "sum": " in the sum over all 12 rows"}[part] in where  # fmt: skip


def test_a_tie_in_the_first_place_is_no_difference():
    x = random(3, 90)
    x[:, [20, 30]] = 9
    kept = sketch.sketch(x, seed=0, rows=3, columns=10, top=8)
    y = x.copy()
    y[:, 30] += 1e-14
    assert sketch.worst(kept, y, 0).delta < 1e-13
    assert sketch.same_first(kept, y, 1e-12).all()
    y[:, 30] += 1
    assert not sketch.same_first(kept, y, 1e-12).any()


def test_the_signs_are_the_same_for_ever():
    found = sketch.signs(0, "columns", 2048, 8)
    assert found[:2].astype(int).tolist() == [[-1, -1, 1, 1, -1, -1, -1, 1], [-1, 1, 1, 1, 1, -1, 1, -1]]
    assert abs(found.mean()) < 0.02
    assert sketch.kept_columns(0, 2048, 4).tolist() == [270, 919, 1494, 1644]
    assert sketch.kept_rows(10, 4).tolist() == [0, 3, 6, 9]
    assert sketch.kept_rows(10, 1).tolist() == [9]
    assert sketch.kept_rows(1, 1).tolist() == [0]


def test_the_unit_is_that_of_the_ladder():
    a, b = random(7, 5), random(3, 5, seed=1)
    outputs = {"x/logits": torch.from_numpy(a), "y/logits": torch.from_numpy(b)}
    moved = {key: value + 1 for key, value in outputs.items()}
    assert sketch.spread([a, b]) == pytest.approx(difference(outputs, moved).std)
    assert sketch.spread([np.array([-3.0])]) == 3


# Probes


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0, 1], [1, 1]]), np.array([[True, False]]), np.array([[0, 50_000]]), np.array([[-100, 2**40]]),
        np.array([[-127.0, 0.0, 64.0]]), np.array([[0.0]]), np.array([[0.375, -0.5]], np.float32),
    ],
)  # fmt: skip
def test_inputs_are_stored_as_the_smallest_integers_that_hold_them(values):
    stored, scale = pack(values)
    back = unpack(stored, scale, values.dtype.name)
    assert back.dtype == values.dtype
    assert (back == values).all()
    again, same = pack(back)
    assert same == scale
    assert (again == stored).all()


def test_images_are_rounded_to_a_byte_and_left_out_where_they_do_not_fit():
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, 8, 8, generator=draw, dtype=torch.float64)
    counted = torch.ones(2, 1, dtype=torch.bool)
    drawn = Probes(0, [Probe(name, {"pixel_values": pixels}, counted) for name in ("random", "natural", "outlier")])
    given = fit(drawn, 3 * 3 * 64 + 5)
    assert {p.name: len(p.counted) for p in given} == {"random": 2, "natural": 1}
    assert given.skipped == {"outlier": "its inputs take 193 bytes, and 2 are left of 581"}
    asked = given.items[0].inputs["pixel_values"]
    assert 0 < float((asked - pixels).abs().max()) <= float(pixels.abs().max()) / 127
    assert (asked == asked.to(torch.bfloat16).double()).all()
    assert [p.name for p in fit(drawn, 1)] == ["random"]


def test_a_model_of_images_is_recorded(tmp_path):
    import transformers

    sizes = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20)
    config = transformers.ViTConfig(image_size=16, patch_size=4, **sizes)
    model = transformers.ViTForImageClassification(config)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    model.save_pretrained(tmp_path / "vit")
    record(tmp_path / "vit", tmp_path / "golden.safetensors")
    assert judged(against(tmp_path / "golden.safetensors", tmp_path / "vit")) == ("lossless", 0)
    name = "vit.embeddings.patch_embeddings.projection.weight"
    tiny.edit_tensor(tmp_path / "vit", name, lambda raw: raw.__setitem__((0, 0, 0, 0), raw[0, 0, 0, 0] + 1e-3))
    assert judged(against(tmp_path / "golden.safetensors", tmp_path / "vit")) == ("different", 1)


# Where the old coordinates are


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_reading_back_needs_no_source_and_agrees_with_replay(family, tied, tmp_path):
    to = "2x" if family == "bert" else {"hidden": 36}
    source = tiny.checkpoint(tmp_path / "source", family, tie_word_embeddings=tied)
    grown = grow.widen(source, to, out=tmp_path / "grown", verify=False).path
    found = read_record(grown)
    maps, facts = found.change.maps, family_of(family)
    with open_checkpoint(source) as a, open_checkpoint(grown) as b:
        replay = Replay(found, a, b)
        wanted = {final: replay.stream(final=final) for final in (True, False)}
        for final, (index, factor, shared) in wanted.items():
            got = readback.stream_readback(Architecture(facts, a.config), maps, final=final)
            assert (got[0] == index).all()
            assert (got[1] == factor).all()
            assert got[2] == shared
        assert all(
            (x == y).all()
            for x, y in zip(readback.output_readback(Architecture(facts, a.config), maps), replay.readback)
        )
    unchanged = {**maps, "hidden": identity(24)}
    assert readback.stream_readback(Architecture(facts, {}), unchanged, final=True) is None
    assert readback.output_readback(Architecture(facts, {}), unchanged) is None


def test_folding_says_what_is_wrong():
    y, index = random(4, 6), np.array([0, 1, 2, 0, 1, -1])
    folded, apart, problem = readback.fold(y, 3, index, np.full(6, 2.0))
    assert (folded == y[:, :3] / 2).all()
    assert apart == np.abs(y[:, 3:5] - y[:, :2]).max() / 2
    assert problem == ""
    folded, apart, _ = readback.fold(y, 3, index, np.full(6, 0.5), True)
    assert np.allclose(folded[:, 0], (y[:, 0] + y[:, 3]) / 2)
    assert apart == 0
    assert "width of 6, the model has 5" in readback.fold(y[:, :5], 3, index, np.ones(6))[2]
    assert "covers 3 of the 4" in readback.fold(y, 4, index, np.ones(6))[2]
    assert "0 or not finite" in readback.fold(y, 3, index, np.zeros(6))[2]
