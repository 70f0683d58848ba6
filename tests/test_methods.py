"""Growth methods of the literature: what each makes of a request, that the exact ones are exact, and that no lossy one
is ever called lossless.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny as small
import torch
from models import VARIANTS, difference, outputs
from pairwise import pairwise
from safetensors.torch import load_file, save_file

import grow
from grow.architectures.architecture import Architecture
from grow.notation.maps import MEAN, SILENT
from grow.notation.operators import commutes
from grow.planning.methods import METHODS

EXACT = 1e-12  # as in test_lossless
FAMILIES = ("llama", "llama-tied", "gpt2", "bert-mlm", "qwen3", "opt")
WIDTH = [name for name, m in METHODS.items() if "width" in m.axes and m.kind != "lossy" and "experts" not in m.axes]
DEPTH = ["default", "net2net", "lemon", "gesmundo-maile", "staged", "llama-pro"]
LOSSY = ["gstack", "solar", "interpose", "bert2bert-fpi", "bert2bert-aki"]
ZEROS = ("gpt2", "bert-mlm", "opt")  # LayerNorm: silent coordinates would move its mean


def sizes_of(variant: str) -> dict[str, int]:
    kind, _, fields, _ = VARIANTS[variant]
    return Architecture(grow.families[kind], fields).sizes


def multiple(variant: str, c: int) -> dict[str, int]:
    old, axes = sizes_of(variant), grow.families[VARIANTS[variant].model_type].axes
    return {a: c * old[a] for a in ("hidden", "heads", "kv_heads", "ffn") if a in axes}


def uneven(variant: str) -> dict[str, int]:
    """Sizes that are not a whole multiples; hidden between two and three times the old one."""
    old = sizes_of(variant)
    if VARIANTS[variant].model_type in ("llama", "qwen3"):
        return {"hidden": old["hidden"] * 8 // 3, "ffn": old["ffn"] + 5}
    return {"hidden": 7 * old["head_dim"], "heads": 7, "ffn": old["ffn"] + 5}


def widen(source: Path, to, out: Path, **options) -> grow.Growth:
    return grow.widen(source, to, out=out, verify=False, seed=3, **options)


@pytest.fixture(scope="session")
def expected(tiny):
    known = {}

    def get(variant: str):
        if variant not in known:
            known[variant] = outputs(tiny(variant))
        return known[variant]

    return get


# Exact


def applies(name: str, variant: str) -> bool:
    return name != "gesmundo-maile" or variant not in ZEROS


CASES = pairwise((v, m, c) for v in FAMILIES for m in WIDTH for c in (2, 3) if applies(m, v))


@pytest.mark.parametrize(("variant", "method", "c"), CASES)
def test_whole_multiples_are_exact_in_float64(variant, method, c, tiny, expected, tmp_path):
    grown = widen(tiny(variant), multiple(variant, c), tmp_path / "grown", method=method, dtype="float64")
    assert grown.plan.lossy == ""
    assert difference(expected(variant), outputs(tmp_path / "grown")) <= EXACT
    assert grow.verify(tiny(variant), tmp_path / "grown", rungs=["certificate"]).verdict == "certified"
    record = small.read_json(tmp_path / "grown" / "grow.json")["plan"]
    assert (record["method"], record["exact"]) == (method, True)


ANY = [("llama", m) for m in ("default", "net2net", "lemon", "gesmundo-maile")]
ANY += [("llama-tied", "lemon"), ("qwen3", "lemon"), ("qwen3", "net2net"), ("gpt2", "lemon"), ("opt", "lemon")]


@pytest.mark.parametrize(("variant", "method"), ANY)
def test_other_sizes_are_exact_where_the_method_reaches_them(variant, method, tiny, expected, tmp_path):
    widen(tiny(variant), uneven(variant), tmp_path / "grown", method=method, dtype="float64")
    assert difference(expected(variant), outputs(tmp_path / "grown")) <= EXACT
    assert grow.verify(tiny(variant), tmp_path / "grown", rungs=["certificate"]).verdict == "certified"


@pytest.mark.parametrize("method", DEPTH)
@pytest.mark.parametrize("variant", FAMILIES)
def test_layers_are_exact(variant, method, tiny, expected, tmp_path):
    if (variant, method) == ("bert-mlm", "staged"):
        pytest.skip("refused, see below")
    grown = grow.deepen(tiny(variant), 4, out=tmp_path / "grown", method=method, dtype="float64", verify=False)
    assert difference(expected(variant), outputs(tmp_path / "grown")) <= EXACT
    assert grow.verify(tiny(variant), tmp_path / "grown", rungs=["certificate"]).verdict == "certified"
    assert sum(grown.plan.change.depth.inserted) == 2


@pytest.mark.parametrize("method", WIDTH)
@pytest.mark.parametrize("n", [6, 8])
@pytest.mark.parametrize("context", ["rms", "layernorm", "plain", "elementwise"])
def test_every_map_obeys_the_law_and_commutes(method, n, context):
    """The operators themselves, on every size that they allow."""
    if method == "default":
        return  # test_operators
    request = type("R", (), {"seed": 1})
    chosen = METHODS[method].operators(request)
    operator = chosen["ffn" if context == "elementwise" else "hidden"]
    for m in range(n + 1, 4 * n + 1):
        if operator.allows(n, m, context):
            found = operator(n, m, context)
            assert (found.m, found.n) == (m, n)
            assert np.allclose(found.law(), 1, rtol=0, atol=1e-12)
            exact = method != "bert2bert-fpi" or m % n == 0 or context == "elementwise"
            assert (commutes(found, context) == "") == exact, m


def test_lemon_pads_what_is_no_whole_copy():
    operator = METHODS["lemon"].operators(None)["hidden"]
    for context, kind in (("rms", SILENT), ("layernorm", MEAN)):
        found = operator(6, 15, context)
        assert found.source.tolist() == [*range(6), *range(6), kind, kind, kind]
        assert np.allclose(found.write, (15 / 12) ** 0.5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("method", ["hypercloning-noisy", "lemon"])
def test_uneven_shares_cancel_bit_for_bit_in_narrow_dtypes(method, dtype, tiny, tmp_path):
    grown = widen(tiny("llama", dtype), multiple("llama", 3), tmp_path / "grown", method=method)
    assert grown.plan.storage == "bit-exact"
    assert difference(outputs(tiny("llama", dtype)), outputs(tmp_path / "grown")) <= EXACT


# What each writes


def test_hypercloning_writes_the_matrices_of_its_paper(tiny, tmp_path):
    """W -> [W W; W W] / 2, [W 0; 0 W], and shares that differ but sum to W."""
    old = load_file(tiny("llama") / "model.safetensors")
    name, n = "model.layers.0.mlp.gate_proj.weight", sizes_of("llama")
    f, h = n["ffn"], n["hidden"]
    found = {}
    for kind in ("symmetric", "diagonal", "noisy"):
        widen(tiny("llama"), multiple("llama", 2), tmp_path / kind, method=f"hypercloning-{kind}")
        found[kind] = load_file(tmp_path / kind / "model.safetensors")
        block = found[kind]["lm_head.weight"]
        assert torch.equal(block[:, :h] + block[:, h:], old["lm_head.weight"])
    w, zero = old[name], torch.zeros(f, h)
    assert torch.equal(found["symmetric"][name], torch.cat([torch.cat([w, w], 1)] * 2) / 2)
    assert torch.equal(found["diagonal"][name], torch.cat([torch.cat([w, zero], 1), torch.cat([zero, w], 1)]))
    left, right = found["noisy"][name][:f, :h], found["noisy"][name][:f, h:]
    assert torch.equal(left + right, w)
    assert not torch.equal(left, right)
    noise = ((left - w / 2).pow(2).mean() / (w / 2).pow(2).mean()).item()
    assert noise == pytest.approx(0.1, rel=0.2)  # 10 dB below the even share


def test_diagonal_in_transposed_storage(tiny, tmp_path):
    old = load_file(tiny("gpt2") / "model.safetensors")
    widen(tiny("gpt2"), multiple("gpt2", 3), tmp_path / "grown", method="hypercloning-diagonal")
    new, name = load_file(tmp_path / "grown" / "model.safetensors"), "transformer.h.1.mlp.c_fc.weight"
    assert torch.equal(new[name], torch.block_diag(*[old[name]] * 3))


def test_llama_pro_inserts_a_copy_with_zero_outputs_behind_every_group(tmp_path):
    source = small.checkpoint(tmp_path / "source", "llama", num_hidden_layers=6)
    for m, at in ((8, [3, 7]), (9, [2, 5, 8]), (12, [1, 3, 5, 7, 9, 11])):
        depth = grow.plan(source, {"layers": m}, method="llama-pro").change.depth
        assert [j for j, new in enumerate(depth.inserted) if new] == at
        assert all(depth.source[j] == depth.source[j - 1] for j in at)
    with pytest.raises(grow.Refused, match=r"num_hidden_layers=8 or num_hidden_layers=9"):
        grow.plan(source, {"layers": 10}, method="llama-pro")


def test_staged_layers_have_silent_norms_and_the_audit_sees_what_that_costs(tiny, tmp_path):
    """In GPT-2 all of it learns; in a gated FFN gate and up are both 0, so that it never does."""
    for variant, dead in (("gpt2", False), ("llama", True)):
        out = tmp_path / variant
        grow.deepen(tiny(variant), 4, out=out, method="staged", verify=False)
        new = load_file(out / "model.safetensors")
        names = [k for k in new if ".1." in k and new[k].ndim == 1]
        assert names
        assert all(not new[name].any() for name in names)
        assert all(new[k].any() for k in new if ".1." in k and new[k].ndim == 2)
        check = grow.verify(tiny(variant), out, rungs=["trainability"]).checks[0]
        assert (check.measured["dead"] > 0) == dead, variant


@pytest.mark.parametrize(("method", "locked"), [("hypercloning-symmetric", True), ("net2net", True), ("default", False),
                                                ("lemon", False), ("hypercloning-noisy", False)])  # fmt: skip
def test_equal_copies_stay_equal_and_the_audit_says_so(method, locked, tiny, tmp_path):
    widen(tiny("llama"), multiple("llama", 2), tmp_path / "grown", method=method)
    check = grow.verify(tiny("llama"), tmp_path / "grown", rungs=["trainability"]).checks[0]
    assert (check.measured["twins"] > 0) == locked
    assert check.status == ("fail" if locked else "pass")


# Lossy


def lossy_target(method: str, variant: str = "llama") -> dict[str, int]:
    if method == "bert2bert-aki":
        return multiple(variant, 2)
    return {"hidden": sizes_of(variant)["hidden"] * 4 // 3} if method == "bert2bert-fpi" else {"layers": 4}


@pytest.mark.parametrize("method", LOSSY)
def test_a_lossy_growth_is_refused_unless_allowed(method, tiny, tmp_path):
    with pytest.raises(grow.Refused, match="allow_lossy=True") as error:
        widen(tiny("llama"), lossy_target(method), tmp_path / "grown", method=method)
    assert 'method="default", which is exact here' in error.value.fix
    assert METHODS[method].arxiv in error.value.what
    assert error.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", LOSSY)
def test_a_lossy_growth_is_kept_measured_and_never_lossless(method, tiny, tmp_path):
    out = tmp_path / "grown"
    grown = grow.widen(tiny("llama"), lossy_target(method), out=out, method=method, allow_lossy=True)
    assert grown.status == "lossy"
    assert not grown.verified
    assert grown.damage["max_abs_std"] > 0.01
    assert {"kl", "top1", "loss"} <= grown.damage.keys()
    record = small.read_json(out / "grow.json")
    assert (record["plan"]["method"], record["plan"]["exact"]) == (method, False)
    assert record["verification"]["verdict"] == "different"
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"**Lossy: {method}.**" in card
    assert "lossy, measured max" in card
    assert "function-preserving" not in card
    found = grow.verify(tiny("llama"), out, rungs=["certificate", "true_float64"])
    assert (found.verdict, found.exit_code, found.first) == ("different", 1, None)
    assert found.check("certificate").status == "skip"
    assert any(method in note and "not exact" in note for note in found.notes)
    alone = grow.verify(tiny("llama"), out, rungs=["certificate"])
    assert (alone.verdict, alone.exit_code) == ("unproved", 1)


def test_an_edited_record_does_not_make_it_lossless(tiny, tmp_path):
    """Without `exact: false` the certificate says what is wrong: a map that no norm commutes with."""
    out = tmp_path / "grown"
    widen(tiny("llama"), lossy_target("bert2bert-fpi"), out, method="bert2bert-fpi", allow_lossy=True)
    small.edit_json(out / "grow.json", lambda d: d["plan"].update(exact=True))
    found = grow.verify(tiny("llama"), out, rungs=["certificate"])
    assert found.verdict == "different"
    assert "does not commute" in found.check("certificate").reason


def test_a_lossy_checkpoint_that_was_damaged_later_fails_its_sha256(tiny, tmp_path):
    out = widen(tiny("llama"), {"layers": 4}, tmp_path / "grown", method="gstack", allow_lossy=True).path
    data = bytearray((out / "model.safetensors").read_bytes())
    data[-3] ^= 1
    (out / "model.safetensors").write_bytes(data)
    check = grow.verify(tiny("llama"), out, rungs=["certificate"]).check("certificate")
    assert (check.status, "sha256" in check.reason) == ("fail", True)


STACKS = {
    "gstack": {8: [0, 1, 2, 3, 0, 1, 2, 3], 12: [0, 1, 2, 3] * 3},
    "solar": {6: [0, 1, 2, 1, 2, 3], 8: [0, 1, 2, 3, 0, 1, 2, 3]},
    "interpose": {8: [0, 0, 1, 1, 2, 2, 3, 3], 12: [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]},
}


@pytest.mark.parametrize("family", ["llama", "bert"])
@pytest.mark.parametrize("method", STACKS)
def test_stacks_repeat_the_old_layers_bit_for_bit(method, family, tmp_path):
    field = "num_hidden_layers"
    source = small.checkpoint(tmp_path / "source", family, **{field: 4})
    old = load_file(source / "model.safetensors")
    for m, order in STACKS[method].items():
        out = widen(source, {"layers": m}, tmp_path / str(m), method=method, allow_lossy=True).path
        new = load_file(out / "model.safetensors")
        for j, i in enumerate(order):
            of = {k.replace(f".{i}.", f".{j}."): v for k, v in old.items() if f".{i}." in k}
            assert of
            assert all(torch.equal(new[k], v) for k, v in of.items()), (m, j)
    with pytest.raises(grow.Refused, match=f"{field}="):
        grow.plan(source, {"layers": 5}, method=method, allow_lossy=True)


@pytest.mark.parametrize(("variant", "name", "rows"), [
    ("llama", "model.layers.{}.mlp.up_proj.weight", True),
    ("llama", "model.layers.{}.self_attn.o_proj.weight", True),
    ("gpt2", "transformer.h.{}.mlp.c_proj.weight", False),
])  # fmt: skip
def test_aki_takes_further_copies_from_the_layer_above(variant, name, rows, tiny, tmp_path):
    old = load_file(tiny(variant) / "model.safetensors")
    plan = widen(tiny(variant), multiple(variant, 2), tmp_path / "grown", method="bert2bert-aki", allow_lossy=True).plan
    new = load_file(tmp_path / "grown" / "model.safetensors")
    t = next(t for t in plan.tensors if t.name == name.format(0))
    out_map, in_map = t.maps if rows else t.maps[::-1]
    shares = 1 / torch.from_numpy(in_map.counts[in_map.source])
    first = {int(j) for j in out_map.layers[0][1]}
    for j, i in enumerate(out_map.source.tolist()):
        for layer, above in ((0, 1), (1, 1)):  # nothing is above the last
            origin = old[name.format(layer if j in first else above)]
            wanted = (origin if rows else origin.T)[i][in_map.source].double() * shares
            found = new[name.format(layer)]
            assert torch.allclose((found if rows else found.T)[j].double(), wanted, rtol=1e-6, atol=0)


def test_the_layer_above_may_be_stored_in_another_dtype(tiny, tmp_path):
    """Of its 16 bits read as others nothing would be left."""
    shutil.copytree(tiny("llama", "bfloat16"), tmp_path / "mixed")
    old = load_file(tmp_path / "mixed" / "model.safetensors")
    old = {name: raw.float() * 1.001 if ".1." in name else raw for name, raw in old.items()}  # more bits than 8
    save_file(old, tmp_path / "mixed" / "model.safetensors", {"format": "pt"})
    ffn, name = sizes_of("llama")["ffn"], "model.layers.{}.mlp.up_proj.weight"
    widen(tmp_path / "mixed", {"ffn": 2 * ffn}, tmp_path / "grown", method="bert2bert-aki", allow_lossy=True)
    new = load_file(tmp_path / "grown" / "model.safetensors")[name.format(0)]
    assert torch.equal(new[:ffn].bfloat16(), old[name.format(0)])
    above = {tuple(row) for row in old[name.format(1)].to(new.dtype).tolist()}
    assert {tuple(row) for row in new[ffn:].tolist()} <= above


def test_lossy_models_in_memory(tiny):
    from models import make

    model = make("llama").double()
    grown = grow.widen(model, {"layers": 4}, method="gstack", allow_lossy=True)
    assert (grown.status, grown.model.config.num_hidden_layers) == ("lossy", 4)
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(grow.BadInput, match="not exact"):
        grow.widen(model, {"layers": 4}, method="gstack", allow_lossy=True, optimizer=optimizer)


# Refusals


REFUSED = {
    "an axis that it does not grow": ("llama", "2x", "llama-pro", 'method="llama-pro": hidden'),
    "layers by a method for widths": ("llama", "layers=4", "hypercloning-noisy", "it grows width only"),
    "a width that is not a whole multiple": ("llama", "hidden_size=36", "hypercloning-diagonal", "size=48 or method="),
    "silent coordinates under LayerNorm": ("gpt2", "2x", "gesmundo-maile", 'or method=|method="default"'),
    "silent norms where they write the stream": ("bert", "layers=4", "staged", "norms in front of each branch"),
    "a name that nobody has": ("llama", "2x", "lemn", "did you mean 'lemon'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_method_cannot_do_is_refused_with_a_way_out(case, tmp_path):
    family, to, method, said = REFUSED[case]
    source = small.checkpoint(tmp_path / "source", family)
    with pytest.raises(grow.GrowError, match=said) as error:
        grow.plan(source, to, method=method)
    assert error.value.exit_code == 2
    assert error.value.fix


@pytest.mark.parametrize("options", [{"split": "even"}, {"operators": {"ffn": "copies"}}, {"place": "top"}])
def test_what_a_method_chooses_cannot_be_chosen_too(options, tmp_path):
    source = small.checkpoint(tmp_path / "source", "llama")
    with pytest.raises(grow.BadInput, match="both choose the same"):
        grow.plan(source, {"layers": 4}, method="llama-pro", **options)


def test_the_command_line_says_lossy(monkeypatch, capsys, tiny, tmp_path):
    line = ["deepen", "--from", tiny("llama"), "--layers", 4, "--method", "gstack", "--out", tmp_path / "grown"]
    code, out, err = small.command(monkeypatch, capsys, *line)
    assert (code, out) == (2, "")
    assert "--allow-lossy" in err
    code, out, _ = small.command(monkeypatch, capsys, *line, "--allow-lossy", "--json")
    document = json.loads(out)
    assert (code, document["status"], document["plan"]["exact"]) == (0, "lossy", False)
    code, out, _ = small.command(monkeypatch, capsys, *line, "--allow-lossy", "--overwrite")
    assert code == 0
    assert "\nlossy: gstack, measured max |Δ| " in out
    assert "lossless" not in out
    code, out, _ = small.command(
        monkeypatch, capsys, "verify", tiny("llama"), tmp_path / "grown", "--rung", "true_float64"
    )
    assert (code, "different: " in out, "not exact; gstack" in out) == (1, True, True)
