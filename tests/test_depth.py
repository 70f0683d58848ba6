"""Layers are inserted and no output changes: every family, any place, copies and drawn weights, post-norm included.

As in `test_lossless`, each case goes through the files and is compared in a float64 that shares no code with
`grow.verify`. Sources have three layers, so that there is a first, a last and one between.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import ONE_EACH, VARIANTS, difference, load, make, outputs, seeded
from safetensors.torch import load_file, save_file

import grow
from grow.errors import BadInput, GrowError, Refused
from grow.notation.maps import is_power_of_two
from grow.planning.layers import Depth, chain_scales, insert, place, spread

# measured 0 to 2e-14; a chain of LayerNorms makes the stream small and large again, which cancels no digits
EXACT = 1e-12
# one rounding to float32 per weight: measured up to 8e-7
FLOAT32 = 1e-5

N = 3
FIELD = {"gpt2": "n_layer", "distilbert": "n_layers"}
LANGUAGE = [v for v, (_, auto, *_) in VARIANTS.items() if auto in (models.LM, models.MLM)]
OTHERS = [v for v in VARIANTS if v not in LANGUAGE]
ENCODERS = ("bert", "roberta", "distilbert")
POST = [v for v, (kind, *_) in VARIANTS.items() if kind in ENCODERS or v.startswith("opt-post")]
ROUNDED = [*POST, "gpt2-inverse"]
PLACES = ("spread", "top", "after", "list")
DEPTHS = (N + 1, 2 * N, 2 * N + 1, 4 * N)  # + 1, + 3 = × 2, + 4, + 3 N
FILLS = ("copy", "fresh")


@pytest.fixture(scope="session")
def deep(tmp_path_factory) -> Callable[..., Path]:
    """`deep("llama", "bfloat16")`: a random checkpoint of a variant with `N` layers, made once per worker."""
    made: dict[tuple, Path] = {}

    def get(variant: str, dtype: str = "float32") -> Path:
        if (variant, dtype) not in made:
            field = FIELD.get(VARIANTS[variant].model_type, "num_hidden_layers")
            made[variant, dtype] = models.save(variant, tmp_path_factory.mktemp("deep") / variant, dtype, **{field: N})
        return made[variant, dtype]

    return get


@pytest.fixture(scope="session")
def expected(deep) -> Callable[..., dict[str, torch.Tensor]]:
    """The outputs of a source, computed once per worker."""
    known: dict[tuple, dict[str, torch.Tensor]] = {}

    def get(variant: str, dtype: str = "float32") -> dict[str, torch.Tensor]:
        if (variant, dtype) not in known:
            known[variant, dtype] = outputs(deep(variant, dtype), VARIANTS[variant].lengths)
        return known[variant, dtype]

    return get


def deepen(source: Path, layers: int, out: Path, **options: Any) -> grow.Growth:
    return grow.deepen(source, layers, out=out, verify=False, seed=3, **options)


def somewhere(variant: str, where: str, layers: int) -> str | list[int]:
    """A place of this kind, drawn from the names."""
    r = seeded(variant, where, layers)
    if where == "after":
        return f"after:{r.randrange(N)}"
    return sorted(r.randrange(N) for _ in range(layers - N)) if where == "list" else where


# Every output


def worst(variant: str, where: str, depths, source: Path, before, folder: Path, **options: Any) -> dict[tuple, float]:
    found = {}
    for k, layers in enumerate(depths):
        fill = FILLS[(k + PLACES.index(where)) % 2]
        at = somewhere(variant, where, layers)
        grown = deepen(source, layers, folder / str(layers), place=at, fill=fill, **options)
        assert grown.plan.new_sizes["layers"] == layers
        assert grown.plan.storage == ("rounded" if variant in ROUNDED else "bit-exact"), grown.plan.rounded
        after = outputs(folder / str(layers), VARIANTS[variant].lengths)
        found[layers, str(at), fill] = difference(before, after)
    return found


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("variant", LANGUAGE)
def test_every_output_stays_in_float64(variant, where, deep, expected, tmp_path):
    found = worst(variant, where, DEPTHS, deep(variant), expected(variant), tmp_path, dtype="float64")
    assert {case: x for case, x in found.items() if not x <= EXACT} == {}


@pytest.mark.parametrize("variant", OTHERS)
def test_every_output_of_the_other_heads_stays_too(variant, deep, expected, tmp_path):
    where = seeded(variant).choice(PLACES)
    found = worst(variant, where, (N + 1, 2 * N), deep(variant), expected(variant), tmp_path, dtype="float64")
    assert {case: x for case, x in found.items() if not x <= EXACT} == {}


@pytest.mark.parametrize("variant", [v for v in ROUNDED if v in LANGUAGE])
def test_a_rounded_plan_stays_within_float32(variant, deep, expected, tmp_path):
    found = worst(variant, "spread", (N + 1, 4 * N), deep(variant), expected(variant), tmp_path)
    found |= worst(variant, "top", (2 * N,), deep(variant), expected(variant), tmp_path)
    assert all(x <= FLOAT32 for x in found.values()), found
    assert max(found.values()) > EXACT  # else nothing was rounded


@pytest.mark.parametrize("variant", ["bert-mlm", "distilbert-mlm", "gpt2-inverse", "opt-post"])
def test_a_rounded_plan_of_a_narrow_source_is_written_in_float32(variant, deep, expected, tmp_path):
    grown = deepen(deep(variant, "bfloat16"), N + 1, tmp_path / "grown", place="after:0")
    assert {t.dtype for t in load_file(tmp_path / "grown" / tiny.WEIGHTS).values()} == {torch.float32}
    assert any("float32" in note for note in grown.plan.notes)
    assert EXACT < difference(expected(variant, "bfloat16"), outputs(tmp_path / "grown")) <= FLOAT32


@pytest.mark.parametrize("variant", [v for v in LANGUAGE if v not in ROUNDED])
def test_a_bit_exact_plan_moves_the_old_layers_bit_for_bit(variant, deep, expected, tmp_path):
    source = deep(variant, "bfloat16")
    found = worst(variant, "list", (2 * N + 1,), source, expected(variant, "bfloat16"), tmp_path)
    assert list(found.values()) <= [EXACT]
    plan = grow.plan(source, {"layers": 2 * N + 1}, place=somewhere(variant, "list", 2 * N + 1))
    old, new = tiny.read_tensors(source), tiny.read_tensors(tmp_path / str(2 * N + 1))
    assert {t.dtype for t in new.values()} == {"BF16"}
    assert new.keys() == {t.name for t in plan.tensors}
    kept = [t for t in plan.tensors if not t.inserted]
    assert len(kept) == len(old)
    assert all(new[t.name].raw.tobytes() == old[t.source].raw.tobytes() for t in kept)


@pytest.mark.parametrize("variant", ["llama-tied", "qwen3", "gpt2", "gpt_neox", "bert-mlm", "opt-post", "gpt2-inverse"])
def test_a_model_in_memory_deepens_to_a_model_with_the_same_outputs(variant, tmp_path):
    model = make(variant).double()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    grown = grow.deepen(model, 5, place="top", verify=False).model
    assert type(grown) is type(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not {p.data_ptr() for p in grown.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert difference(outputs(model), outputs(grown)) <= FLOAT32
    model.save_pretrained(tmp_path / "source")
    grown.save_pretrained(tmp_path / "grown")
    assert difference(outputs(tmp_path / "source"), outputs(tmp_path / "grown")) <= EXACT


@pytest.mark.parametrize("variant", ["llama-base", "gpt2-base", "bert-base", "opt-post-base"])
def test_the_stream_between_old_layers_is_the_old_one(variant, deep, tmp_path):
    grown = deepen(deep(variant), 2 * N, tmp_path / "grown", place=[0, 0, 1], dtype="float64")
    with models.Float64(), torch.no_grad():
        a, b = (load(folder) for folder in (deep(variant), tmp_path / "grown"))
        given = models.inputs(a.config, 17)
        old, new = (m(**given, output_hidden_states=True).hidden_states for m in (a, b))
    kept = grown.plan.change.depth.kept
    assert kept == (0, 3, 5)
    places = [*kept, 2 * N]  # what each old layer reads, and the last output
    assert max(float((x - new[k]).abs().max() / x.std()) for x, k in zip(old, places)) <= EXACT


# Which layers there are


@given(st.integers(1, 40), st.data())
def test_whatever_is_inserted_the_old_layers_are_there_once_in_their_order(n, data):
    m = data.draw(st.integers(n, 5 * n + 7))
    after = data.draw(st.lists(st.integers(0, n - 1), min_size=m - n, max_size=m - n))
    where = data.draw(st.sampled_from(["spread", "top", f"after:{n - 1}", after, ",".join(map(str, after))]))
    if m == n and where == "":
        where = "top"
    depth = place(n, m, where, data.draw(st.sampled_from(FILLS)))
    assert (depth.n, depth.m, len(depth.inserted)) == (n, m, m)
    assert depth.lawful
    assert depth.is_identity == (m == n)
    assert [depth.source[j] for j in depth.kept] == list(range(n))
    assert not depth.inserted[0]
    assert all(0 <= i < n for i in depth.source)
    behind = [sum(1 for j in depth.kept if j < k) - 1 for k in range(m) if depth.inserted[k]]
    if where == "top":
        assert behind == [n - 1] * (m - n)
    elif isinstance(where, list):
        assert behind == sorted(after)
    for j in range(1, m):  # layers side by side do not start equal
        if depth.inserted[j - 1] and depth.inserted[j] and n > 1:
            assert depth.source[j - 1] != depth.source[j]
    for j in range(m):
        length, at = depth.chain(j)
        assert depth.inserted[j] == (at > 0)
        assert not depth.inserted[j - at]
        assert list(depth.inserted[j - at + 1 : j - at + 1 + length]) == [True] * length
        assert j - at + length + 1 == m or not depth.inserted[j - at + length + 1]


@given(st.integers(3, 60), st.integers(1, 200))
def test_spread_is_even_and_leaves_the_first_and_the_last_layer_alone(n, more):
    depth = place(n, n + more)
    assert depth.m == n + more
    assert (depth.source[:2], depth.inserted[:2]) == ((0, 1), (False, False))
    assert (depth.source[-1], depth.inserted[-1]) == (n - 1, False)
    counts = np.bincount(spread(n, n + more), minlength=n)[1 : n - 1]
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(("n", "m", "source"), [(1, 3, (0, 0, 0)), (2, 4, (0, 0, 1, 1)), (3, 4, (0, 1, 1, 2))])
def test_spread_of_few_layers(n, m, source):
    depth = place(n, m)
    assert depth.source == source
    assert not depth.inserted[0]
    assert depth.inserted[-1] == (n == 1)


def test_neighbours_lend_their_weights_nearest_first():
    assert insert(5, [2, 2, 2, 2]).source == (0, 1, 2, 2, 3, 1, 4, 3, 4)
    assert place(4, 7, "top").source == (0, 1, 2, 3, 3, 2, 1)
    assert place(3, 6, "2,0,2").source == place(3, 6, [0, 2, 2]).source == (0, 0, 1, 2, 2, 1)


def test_lost_doubled_or_moved_layers_break_the_law():
    for source, inserted in [((0, 1), (False, True)), ((0, 1, 1), (False,) * 3), ((1, 0), (False,) * 2)]:
        assert not Depth(2, source, inserted).lawful
    assert not Depth(3, (0, 1), (False, False)).lawful
    assert Depth(2, (0, 1, 1), (False, True, False)).lawful


BAD_PLACES = {
    "a word": ("bottom", "is no place"),
    "after nothing": ("after:", "is no place"),
    "after a word": ("after:last", "is no place"),
    "after a fraction": ("after:0.5", "is no place"),
    "after a layer that is not there": ("after:3", "there is no layer 3"),
    "after a negative one": ("after:-1", "there is no layer -1"),
    "a list with a layer that is not there": ("0,7", "there is no layer 7"),
    "too few": ("1", "names 1 places for 2 new layers"),
    "too many": ("0,1,2", "names 3 places for 2 new layers"),
    "empty": ("", "names 0 places for 2 new layers"),
    "a list of fractions": ([0, 1.5], "is no place"),
    "a list of words": (["0", "1"], "is no place"),
    "a number": (1, "is no place"),
    "nothing": (None, "is no place"),
    "5000 digits": ("1" * 5000, "is no place"),
}


@pytest.mark.parametrize(("where", "what"), BAD_PLACES.values(), ids=BAD_PLACES)
def test_a_place_that_is_none_is_bad_input(where, what):
    with pytest.raises(BadInput) as caught:
        place(3, 5, where)
    assert what in caught.value.what
    assert caught.value.where.startswith("place=")
    assert len(str(caught.value)) < 500
    fixes = re.findall(r"place=(\"[^\"]*\"|\[[^]]*\])", caught.value.fix)
    assert fixes
    for fix in map(ast.literal_eval, fixes):
        if fix not in ("after:5", [3, 7, 11]):  # shown as a form, for more layers than these
            place(3, 5, fix)


# What an inserted layer holds

ZEROS = {
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
    "mistral": ("self_attn.o_proj", "mlp.down_proj"),
    "qwen2": ("self_attn.o_proj", "mlp.down_proj"),
    "qwen3": ("self_attn.o_proj", "mlp.down_proj"),
    "llama-biases": ("self_attn.o_proj", "mlp.down_proj"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h"),
    "opt": ("self_attn.out_proj", "fc2"),
    "opt-post": ("self_attn.out_proj", "fc2"),
    "bert-mlm": ("attention.output.dense", ".output.dense"),
    "roberta-mlm": ("attention.output.dense", ".output.dense"),
    "distilbert-mlm": ("attention.out_lin", "ffn.lin2"),
}
CHAINED = {
    "bert-mlm": ("LayerNorm", "intermediate.dense.bias"),
    "roberta-mlm": ("LayerNorm", "intermediate.dense.bias"),
    "distilbert-mlm": ("layer_norm", "lin1.bias"),
    "opt-post": ("layer_norm", "fc1.bias"),
}
"""What the chain sets, beside the zeros."""


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("variant", ZEROS)
def test_exactly_one_factor_of_each_branch_is_zero_and_the_rest_is_its_sources_or_drawn(variant, fill, deep, tmp_path):
    grown = deepen(deep(variant), 2 * N, tmp_path / "grown", fill=fill, place="top")
    old, new = (load_file(folder / tiny.WEIGHTS) for folder in (deep(variant), tmp_path / "grown"))
    inserted = [t for t in grown.plan.tensors if t.inserted]
    zero = {t.name for t in inserted if not new[t.name].any()}
    matrices = {name for name in zero if new[name].ndim == 2}
    assert all(name.removesuffix(".weight").endswith(ZEROS[variant]) for name in matrices)
    assert len(matrices) == 2 * N  # of each of the two branches in each of the N new layers
    if fill == "copy":
        assert all(name.rpartition(".")[0].endswith(ZEROS[variant]) for name in zero if "orm" not in name)
    for t in inserted:
        if t.name in zero or any(part in t.name for part in CHAINED.get(variant, ())):
            continue
        same = torch.equal(new[t.name], old[t.source])
        assert same == (fill == "copy" or "norm" in t.name.lower() or "ln_" in t.name), t.name
        if not same:
            scale = float(new[t.name].square().mean() / old[t.source].square().mean())
            assert 0.5 < scale < 2, t.name
    for a, b in zip(inserted, inserted[len(inserted) // N :]):
        if new[a.name].ndim == 2 and a.name not in zero:
            assert not torch.equal(new[a.name], new[b.name])  # the next new layer starts elsewhere


@pytest.mark.parametrize("fill", FILLS)
def test_a_seed_gives_the_same_bytes_and_another_one_other_draws_only(fill, deep, tmp_path):
    for folder, seed in (("one", 5), ("two", 5), ("other", 6)):
        grow.deepen(deep("llama"), 5, out=tmp_path / folder, fill=fill, seed=seed, verify=False)
    one, two, other = ((tmp_path / folder / tiny.WEIGHTS).read_bytes() for folder in ("one", "two", "other"))
    assert one == two
    assert (one == other) == (fill == "copy")


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("variant", [*ONE_EACH, "opt-post", "gpt2-inverse", "llama-biases"])
def test_all_that_is_new_learns(variant, fill, deep, tmp_path):
    grown = deepen(deep(variant), 2 * N, tmp_path / "grown", fill=fill, place="0,1,1")
    found = grow.verify(deep(variant), tmp_path / "grown", rungs=["certificate", "trainability"])
    check = found.check("trainability")
    assert (check.status, check.measured["dead"], check.measured["twins"]) == ("pass", 0, 0), check.reason
    old, new = grown.plan.parameters
    assert check.measured["new"] == new - old
    assert (found.verdict, found.trainable, found.exit_code) == ("certified", True, 0)


def test_a_second_zero_factor_in_a_new_layer_is_dead(deep, tmp_path):
    deepen(deep("llama"), N + 1, tmp_path / "grown", place="top")
    tiny.edit_tensor(tmp_path / "grown", f"model.layers.{N}.mlp.up_proj.weight", lambda raw: raw.fill(0))
    check = grow.verify(deep("llama"), tmp_path / "grown", rungs=["trainability"]).check("trainability")
    sizes = make("llama").config
    assert check.status == "fail"
    assert check.measured["dead"] == 3 * sizes.hidden_size * sizes.intermediate_size + sizes.hidden_size  # and the norm


@pytest.mark.parametrize("variant", [*ONE_EACH, "opt-post", "qwen2-window", "gpt2-inverse", "bert-sequence"])
def test_verify_calls_it_lossless_on_every_rung(variant, deep, tmp_path):
    out = tmp_path / "grown"
    grown = grow.deepen(deep(variant, "float64"), 2 * N, out=out, place=somewhere(variant, "list", 2 * N))
    assert grown.verification.verdict == "lossless"
    found = grow.verify(deep(variant, "float64"), out)
    assert (found.verdict, found.exit_code) == ("lossless", 0), [c for c in found.checks if c.status == "fail"]
    states = found.check("hidden_states")
    assert states.status == "pass"
    assert len(states.measured["layers"]) == N + 1


# The chain of LayerNorms

EPS = (0.05, 1e-5, 1e-12)


def bert(folder: Path, eps: float) -> Path:
    return models.save("bert-mlm", folder / f"bert-{eps}", num_hidden_layers=N, layer_norm_eps=eps)


@pytest.mark.parametrize("eps", EPS)
def test_the_chain_is_exact_at_any_eps(eps, tmp_path):
    source = bert(tmp_path, eps)
    before, found = outputs(source), {}
    for layers, where in ((N + 1, "top"), (N + 1, "after:0"), (4 * N, "spread"), (4 * N, "top")):
        deepen(source, layers, tmp_path / f"{layers}{where}", place=where, dtype="float64")
        found[layers, where] = difference(before, outputs(tmp_path / f"{layers}{where}"))
    assert max(found.values()) <= EXACT, found


@pytest.mark.parametrize("eps", EPS)
def test_the_numbers_of_the_chain(eps, tmp_path):
    source = bert(tmp_path, eps)
    deepen(source, N + 2, tmp_path / "grown", place="after:1", dtype="float64")
    old, new = (load_file(folder / tiny.WEIGHTS) for folder in (source, tmp_path / "grown"))
    layer = "bert.encoder.layer.{}.{}".format
    scales, gains, shifts = chain_scales(2, eps), [], []
    scale = scales.scale
    for k in (1, 2, 3):
        for norm in ("attention.output.LayerNorm", "output.LayerNorm"):
            gains.append(new[layer(k, f"{norm}.weight")])
            shifts.append(new[layer(k, f"{norm}.bias")])
    close = dict(rtol=1e-15, atol=0)
    for name, factor in {
        "attention.output.LayerNorm.weight": scale, "attention.output.LayerNorm.bias": scale,
        "intermediate.dense.weight": 1 / scale, "intermediate.dense.bias": 1.0,
        "output.dense.weight": scale, "output.dense.bias": scale,
    }.items():  # fmt: skip
        torch.testing.assert_close(new[layer(1, name)], old[layer(1, name)].double() * factor, **close)
    assert all(torch.all(gain == scales.gain) for gain in gains[1:-1])
    assert not any(shift.any() for shift in shifts[1:-1])
    torch.testing.assert_close(gains[-1], old[layer(1, "output.LayerNorm.weight")].double() * scales.last, **close)
    torch.testing.assert_close(shifts[-1], old[layer(1, "output.LayerNorm.bias")].double(), **close)


@pytest.mark.parametrize("eps", [*EPS, 1e-3, 0.5, 3.0])
@pytest.mark.parametrize("length", [1, 2, 5, 40])
def test_the_chain_divides_as_one_layer_norm_does(eps, length):
    """1 / variance, followed through the LayerNorms one by one in exact fractions of a few variances."""
    from fractions import Fraction as F

    scales = chain_scales(length, eps)
    e, gain, scale = F(eps), F(scales.gain), F(scales.scale)
    assert scale.numerator == 1  # a power of two
    assert (scale.denominator & (scale.denominator - 1)) == 0
    for variance in (F(1, 1000), F(1), F(10**6)):
        inverse = 1 / (scale**2 * variance)
        squared = scale**2 * variance  # of the factor from the old input to what stands in the chain, × variance
        for _ in range(2 * length):
            squared *= gain**2 / (1 / inverse + e)
            inverse = (1 + e * inverse) / gain**2
        squared *= F(scales.last) ** 2 / (1 / inverse + e)
        wanted = variance / (variance + e)
        # gain and last are rounded once each, and a gain stands 2K times in a row
        assert abs(squared / wanted - 1) < 1e-15 * (2 + 4 * length)


def test_the_sizes_in_the_chain_are_alike_and_larger_than_the_root_of_eps():
    """The smaller the stream, the less an optimizer's step may be."""
    for eps in (1e-12, 1e-5):
        for length in (1, 2, 3):
            scales = chain_scales(length, eps)
            assert 0.5 < scales.gain / scales.scale < 2
            assert scales.gain > 2 * eps**0.5


@pytest.mark.parametrize("eps", EPS[:2])
def test_without_the_chain_a_post_norm_layer_is_off_by_its_eps(eps, tmp_path):
    """Gain 1 and bias 0 in front, the old gain behind: what everybody would try first."""
    source = bert(tmp_path, eps)
    grown = deepen(source, N + 1, tmp_path / "grown", place="after:1", dtype="float64").path
    old, new = (load_file(folder / tiny.WEIGHTS) for folder in (source, grown))
    for name in [name for name in new if ".layer.1." in name]:
        new[name] = old[name].double()
    for name in [name for name in new if "LayerNorm" in name and (".layer.2." in name or ".layer.1.output.L" in name)]:
        new[name].fill_(float(name.endswith("weight")))
    for kind in ("weight", "bias"):
        last = f"output.LayerNorm.{kind}"
        new[f"bert.encoder.layer.2.{last}"] = old[f"bert.encoder.layer.1.{last}"].double()
    save_file(new, grown / tiny.WEIGHTS, metadata={"format": "pt"})
    assert eps / 10 < difference(outputs(source), outputs(grown)) < 10 * eps


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_an_eps_that_config_json_leaves_out_is_the_stock_one(kind, tmp_path):
    source = models.save(f"{kind}-mlm", tmp_path / "source", num_hidden_layers=N, layer_norm_eps=1e-12)
    tiny.edit_json(source / "config.json", lambda config: config.pop("layer_norm_eps"))
    deepen(source, N + 2, tmp_path / "grown", dtype="float64")
    assert difference(outputs(source), outputs(tmp_path / "grown")) <= EXACT


@pytest.mark.parametrize("eps", [0, 0.0, -1e-5, "tiny", [1e-5], {}])
def test_an_eps_that_is_none_is_bad_input_where_it_is_needed(eps, tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "bert", layer_norm_eps=eps)
    with pytest.raises(BadInput) as caught:
        deepen(source, 3, tmp_path / "grown")
    assert caught.value.where.startswith("config.json")
    assert not (tmp_path / "grown").exists()


# Per-layer fields


def kinds(folder: Path) -> list[str]:
    """What stock transformers makes of a config."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder).layer_types


@pytest.mark.parametrize("listed", [True, False], ids=["layer_types", "max_window_layers"])
@pytest.mark.parametrize("where", ["spread", "top", "after:0", "0,0,1,2"])
def test_every_old_layer_keeps_its_window(where, listed, deep, expected, tmp_path):
    source = Path(shutil.copytree(deep("qwen2-window"), tmp_path / "source"))
    if not listed:
        tiny.edit_json(source / "config.json", lambda config: config.pop("layer_types"))
    assert kinds(source) == ["full_attention", "sliding_attention", "sliding_attention"]
    depth = deepen(source, N + 4, tmp_path / "grown", place=where).plan.change.depth
    assert kinds(tmp_path / "grown") == [kinds(source)[i] for i in depth.source]
    assert difference(expected("qwen2-window"), outputs(tmp_path / "grown")) <= EXACT


@pytest.mark.parametrize("where", ["after:0", "0,0,1,2"])
def test_without_the_rewritten_list_the_windows_would_move(where, tmp_path):
    """The control: `max_window_layers` counts from the bottom, so an inserted layer shifts who has a window."""
    source = models.save("qwen2-window", tmp_path / "source", num_hidden_layers=N, max_window_layers=2)
    grown = deepen(source, N + 4, tmp_path / "grown", place=where).path
    assert difference(outputs(source), outputs(grown)) <= EXACT

    def forget(config: dict[str, Any]) -> None:
        config.pop("layer_types")
        config["max_window_layers"] = 2

    tiny.edit_json(grown / "config.json", forget)
    assert difference(outputs(source), outputs(grown)) > 1e-3


def test_max_window_layers_says_what_the_list_says_where_it_can(deep, tmp_path):
    source = Path(shutil.copytree(deep("qwen2-window"), tmp_path / "source"))
    tiny.edit_json(source / "config.json", lambda config: config.pop("layer_types"))
    # the last two are no longer sorted, and no number says what the list does: as many as came from below the boundary
    for where, full, first in (("after:0", 2, 2), ("spread", 2, 2), ("top", 2, 2)):
        config = grow.plan(source, {"layers": 2 * N}, place=where).new_config
        assert (config["layer_types"].count("full_attention"), config["max_window_layers"]) == (full, first), where


@pytest.mark.parametrize("variant", ["qwen3", "qwen2"])
def test_the_list_of_layer_types_has_the_new_length(variant, deep, tmp_path):
    grown = deepen(deep(variant), 5, tmp_path / "grown").path
    assert kinds(grown) == ["full_attention"] * 5


def test_scores_that_are_divided_by_the_layers_number_are_multiplied_back(deep, expected, tmp_path):
    grown = deepen(deep("gpt2-inverse"), N + 1, tmp_path / "grown", place="after:0", dtype="float64")
    old, new = (load_file(folder / tiny.WEIGHTS) for folder in (deep("gpt2-inverse"), grown.path))
    width = old["transformer.h.1.ln_1.weight"].shape[0]
    for kind in ("weight", "bias"):
        before, after = old[f"transformer.h.1.attn.c_attn.{kind}"], new[f"transformer.h.2.attn.c_attn.{kind}"]
        torch.testing.assert_close(after[..., :width], before[..., :width].double() * 3 / 2, rtol=1e-15, atol=0)
        assert torch.equal(after[..., width:], before[..., width:].double())
        new[f"transformer.h.2.attn.c_attn.{kind}"] = before.double()
    save_file(new, grown.path / tiny.WEIGHTS, metadata={"format": "pt"})
    assert difference(expected("gpt2-inverse"), outputs(grown.path)) > 1e-3  # the control


def test_layers_that_move_by_powers_of_two_round_nothing(deep):
    plan = grow.plan(deep("gpt2-inverse"), {"layers": N + 1}, place="top")
    assert plan.storage == "rounded"  # the new layer N holds layer N - 1: times (N + 1) / N
    assert not is_power_of_two((N + 1) / N)
    moved = [t for t in plan.tensors if not t.inserted and t.name != t.source]
    assert moved == []


# Refusals, and what is written


@pytest.mark.parametrize("layers", [0, -1, 1, N - 1, 999_999_999, 10_001])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_depths_that_cannot_be(family, layers, tmp_path):
    source = tiny.checkpoint(tmp_path / "source", family, num_hidden_layers=N)
    before = tiny.snapshot(tmp_path)
    with pytest.raises(GrowError) as caught:
        grow.deepen(source, layers, out=tmp_path / "grown")
    assert type(caught.value) is (Refused if 0 < layers < N else BadInput)
    assert all((caught.value.where, caught.value.what, caught.value.why, caught.value.fix))
    assert tiny.snapshot(tmp_path) == before


def test_a_post_norm_without_gains_is_refused_and_one_in_front_is_not(tmp_path):
    bare = {"layer_norm_elementwise_affine": False}
    post = tiny.checkpoint(tmp_path / "post", "opt", do_layer_norm_before=False, **bare)
    with pytest.raises(Refused, match="LN\\(x\\) is x for no x"):
        deepen(post, 3, tmp_path / "grown")
    assert not (tmp_path / "grown").exists()
    assert grow.plan(post, {"layers": 2, "ffn": 30}).new_sizes["ffn"] == 30
    assert grow.plan(tiny.checkpoint(tmp_path / "pre", "opt", **bare), {"layers": 3}).storage == "bit-exact"


def test_the_depth_it_has_changes_nothing(deep):
    plan = grow.plan(deep("bert-mlm"), {"layers": N})
    assert plan.storage == "bit-exact"
    assert all(t.unchanged for t in plan.tensors)
    assert plan.config_changes == {}


def test_the_command_writes_verifies_and_says_so(deep, tmp_path, monkeypatch, capsys):
    line = ["deepen", "--from", deep("llama"), "--layers", 5, "--place", "0,2", "--fill", "fresh"]
    code, out, err = tiny.command(monkeypatch, capsys, *line, "--out", tmp_path / "grown", "--max-shard-size", "20KB")
    assert (code, err) == (0, "")
    assert "2 inserted (drawn, output 0) at 1, 4" in out
    assert "lossless: " in out
    assert len(list((tmp_path / "grown").glob("*.safetensors"))) > 2
    config = json.loads((tmp_path / "grown" / "config.json").read_text())
    assert config["num_hidden_layers"] == 5
    record = tiny.read_json(tmp_path / "grown" / "grow.json")["plan"]
    assert record["depth"] == {"source": [0, 0, 1, 2, 2], "inserted": [1, 4], "fill": "fresh"}
    monkeypatch.chdir(tmp_path)
    assert tiny.command(monkeypatch, capsys, *line, "--no-verify")[0] == 0
    assert (tmp_path / "llama-layers=5").is_dir()


@pytest.mark.parametrize("variant", ["llama", "bert-mlm"])
def test_a_golden_file_of_the_source_accepts_it_and_no_damaged_one(variant, deep, tmp_path):
    grown = deepen(deep(variant, "float64"), 5, tmp_path / "grown").path
    grow.record(deep(variant, "float64"), tmp_path / "golden.safetensors")
    found = grow.verify_against(tmp_path / "golden.safetensors", grown)
    assert (found.verdict, found.exit_code) == ("lossless", 0), [c for c in found.checks if c.status == "fail"]
    name = next(t for t in tiny.read_tensors(grown) if "layers.2.mlp.down" in t or "layer.2.output.dense.weight" in t)
    tiny.edit_tensor(grown, name, lambda raw: raw.__setitem__((3, 3), 0.5))
    assert grow.verify_against(tmp_path / "golden.safetensors", grown).verdict == "different"
