"""Folders of sentence-transformers: embeddings behind every module stay, or what cannot come along is named."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoModel

import grow
from grow.errors import BadInput, GrowError, Refused
from grow.notation.numbers import narrow

W, MODULE = 24, "sentence_transformers.models."
TWICE, THRICE = {"hidden_size": 48, "num_attention_heads": 6}, {"hidden_size": 72, "num_attention_heads": 9}
MEAN = ("Pooling", {"word_embedding_dimension": W, "pooling_mode_mean_tokens": True}, {})
UNIT = ("Normalize", {}, {})


def dense(reads: int, writes: int, seed: int = 0, **config) -> tuple[str, dict, dict]:
    draw = np.random.default_rng(seed)
    tensors = {"linear.weight": draw.normal(0, reads**-0.5, (writes, reads)), "linear.bias": draw.normal(0, 1, writes)}
    if config.get("use_residual") and reads != writes:
        tensors["residual.weight"] = draw.normal(0, reads**-0.5, (writes, reads))
    whole = {"in_features": reads, "out_features": writes, "bias": True, **config}
    whole.setdefault("activation_function", "torch.nn.modules.activation.Tanh")
    return "Dense", whole, tensors


def layer_norm(width: int) -> tuple[str, dict, dict]:
    draw = np.random.default_rng(7)
    weights = {"norm.weight": 1 + draw.normal(0, 0.3, width), "norm.bias": draw.normal(0, 0.3, width)}
    return "LayerNorm", {"dimension": width}, weights


def pooling(*modes: str, width: int = W) -> tuple[str, dict, dict]:
    """As version 6 writes it."""
    return "Pooling", {"embedding_dimension": width, "pooling_mode": list(modes), "include_prompt": True}, {}


def folder_of(
    folder: Path, *modules: tuple[str, dict, dict], family: str = "bert", dtype: str = "F32", **fields
) -> Path:
    """A checkpoint with modules behind it, laid out as the library lays it out."""
    tiny.checkpoint(folder, family, **fields)
    entries = [{"idx": 0, "name": "0", "path": "", "type": f"{MODULE}Transformer"}]
    for k, (kind, config, tensors) in enumerate(modules, 1):
        entries.append({"idx": k, "name": str(k), "path": f"{k}_{kind.rpartition('.')[2]}", "type": f"{MODULE}{kind}"})
        if "." in kind:
            entries[-1]["type"] = kind
        place = folder / entries[-1]["path"]
        place.mkdir()
        if config:
            tiny.write_json(place / "config.json", config)
        if tensors:
            tiny.write_tensors(place, {n: tiny.Tensor(dtype, narrow(v, dtype)) for n, v in tensors.items()})
    tiny.write_json(folder / "modules.json", entries)
    tiny.write_json(folder / "sentence_bert_config.json", {"max_seq_length": 40, "do_lower_case": False})
    tiny.write_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "ask: "}})
    return folder


def embed(folder: Path) -> np.ndarray:
    """Read by this test alone, in float64: (5 texts, width)."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    ids = torch.from_numpy(np.random.default_rng(3).integers(0, 29, (5, 9)))
    mask = (torch.arange(9) < torch.tensor([9, 4, 7, 2, 5])[:, None]).long()
    with torch.no_grad():
        x = model(input_ids=ids, attention_mask=mask).last_hidden_state.double()
    for entry in tiny.read_json(folder / "modules.json")[1:]:
        place, kind = folder / entry["path"], entry["type"].rpartition(".")[2]
        config = tiny.read_json(place / "config.json") if (place / "config.json").exists() else {}
        raw = tiny.read_tensors(place) if (place / tiny.WEIGHTS).exists() else {}
        w = {name: torch.from_numpy(np.ascontiguousarray(t.raw)).double() for name, t in raw.items()}
        if kind == "Pooling":
            of = {
                "cls": x[:, 0],
                "max": x.masked_fill(mask[..., None] == 0, -math.inf).amax(1),
                "mean": (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True),
            }
            x = torch.cat([of[mode] for mode in config.get("pooling_mode", ["mean"])], dim=1)
        elif kind == "Normalize":
            x = x / x.norm(dim=-1, keepdim=True)
        elif kind == "LayerNorm":
            x = torch.nn.functional.layer_norm(x, x.shape[-1:], w["norm.weight"], w["norm.bias"])
        elif kind == "Dense":
            act = getattr(torch.nn, config["activation_function"].rpartition(".")[2])()
            y = act(x @ w["linear.weight"].T + w["linear.bias"])
            if config.get("use_residual"):
                y = y + (x @ w["residual.weight"].T if "residual.weight" in w else x)
            x = y
    return x.numpy()


def cosines(x: np.ndarray) -> np.ndarray:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit @ unit.T


CHAINS = {
    "one dense": [MEAN, dense(W, 13)],
    "three poolings": [pooling("cls", "mean", "max"), dense(3 * W, 13, activation_function="torch.nn.GELU"), UNIT],
    "two dense": [pooling("mean"), dense(W, 11), dense(11, 7, seed=1)],
    "unit before dense": [MEAN, UNIT, dense(W, 13, activation_function="torch.nn.modules.linear.Identity")],
    "layer norm": [MEAN, layer_norm(W), dense(W, 13)],
    "residual": [MEAN, dense(W, W, use_residual=True)],
    "projected residual": [MEAN, dense(W, 11, use_residual=True)],
    "dense over tokens": [dense(W, 10, module_input_name="token_embeddings"), pooling("mean", width=10)],
}
# stock passes cast to float32 in a norm; a root beside the weights is rounded to float32 once
CLOSE = 2e-6


@pytest.mark.parametrize("to", [TWICE, THRICE], ids=["2x", "3x"])
@pytest.mark.parametrize("chain", CHAINS)
def test_embeddings_behind_a_dense_are_the_old_ones(chain, to, tmp_path):
    source = folder_of(tmp_path / "source", *CHAINS[chain])
    found = grow.widen(source, to, out=tmp_path / "grown")
    assert found.verification.verdict == "lossless"
    check = found.verification.check("embeddings")
    assert (check.status, "grow" in check.measured["run_by"]) == ("pass", True)
    before, after = embed(source), embed(found.path)
    assert before.std() > 0.05
    np.testing.assert_allclose(after, before, rtol=0, atol=CLOSE * np.abs(before).max())


def test_every_file_of_a_module_comes_along_and_reads_the_new_width(tmp_path):
    source = folder_of(
        tmp_path / "source", pooling("cls", "mean"), dense(2 * W, 13), UNIT, ("Dropout", {"dropout": 0.1}, {})
    )
    grown = grow.widen(source, TWICE, out=tmp_path / "grown").path
    assert tiny.read_json(grown / "1_Pooling/config.json")["embedding_dimension"] == 48
    assert tiny.read_json(grown / "2_Dense/config.json")["in_features"] == 96
    weights = tiny.read_tensors(grown / "2_Dense")
    old = tiny.read_tensors(source / "2_Dense")["linear.weight"].raw
    assert weights["linear.weight"].raw.shape == (13, 96)
    # columns of one old number sum to its own bit for bit: [cls, cls, mean, mean]
    new = weights["linear.weight"].raw.astype(np.float64).reshape(13, 2, 2, W).sum(2).reshape(13, 2 * W)
    assert np.array_equal(new, old.astype(np.float64))
    assert (grown / "3_Normalize").is_dir()
    for name in (
        "modules.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "4_Dropout/config.json",
    ):
        assert (grown / name).read_bytes() == (source / name).read_bytes()


def test_a_deeper_model_takes_its_modules_along_byte_for_byte(tmp_path):
    source = folder_of(
        tmp_path / "source", MEAN, dense(W, 13), ("LSTM", {"word_embedding_dimension": W}, {"x": np.ones(3)})
    )
    (source / "2_Dense" / "pytorch_model.bin").write_bytes(b"never opened")
    grown = grow.deepen(source, 3, out=tmp_path / "grown", verify=False).path
    for path in sorted(source.glob("*_*/*")):
        assert (grown / path.relative_to(source)).read_bytes() == path.read_bytes()


def test_pooling_alone_keeps_every_cosine_and_says_how_wide_it_is(tmp_path):
    source = folder_of(tmp_path / "source", MEAN, UNIT)
    found = grow.widen(source, THRICE, out=tmp_path / "grown")
    assert found.verification.verdict == "lossless"
    np.testing.assert_allclose(cosines(embed(found.path)), cosines(embed(source)), rtol=0, atol=1e-6)
    assert any("72 numbers instead of 24" in note for note in found.notes)


def test_a_scalar_product_that_changes_is_said(tmp_path):
    source = folder_of(tmp_path / "source", MEAN)
    tiny.write_json(source / "config_sentence_transformers.json", {"similarity_fn_name": "dot"})
    notes = grow.plan(source, TWICE).notes
    assert any("scalar products are 2 times" in note for note in notes)


@pytest.mark.parametrize("chain", [[pooling("lasttoken"), dense(W, 9)], [pooling("mean"), UNIT]], ids=["dense", "unit"])
def test_silent_coordinates_leave_embeddings_as_they_were(chain, tmp_path):
    source = folder_of(tmp_path / "source", *chain, family="qwen3")
    found = grow.widen(source, {"hidden_size": 40}, out=tmp_path / "grown")
    assert found.verification.verdict == "lossless"
    assert found.verification.check("embeddings").status == "pass"


def test_shares_of_a_tied_norm_are_read_whole_by_dense(tmp_path):
    source = folder_of(tmp_path / "source", pooling("mean"), dense(W, 9), family="llama")
    found = grow.widen(source, {"hidden_size": 48}, out=tmp_path / "grown")
    assert found.verification.verdict == "lossless"
    assert found.verification.check("embeddings").largest < 1e-12


def test_shares_of_a_tied_norm_are_no_embedding_unless_they_are_even(tmp_path):
    source = folder_of(tmp_path / "source", pooling("mean"), UNIT, family="llama")
    with pytest.raises(Refused, match="cosine similarities") as found:
        grow.plan(source, {"hidden_size": 48})
    assert 'split="even"' in found.value.fix
    even = grow.widen(source, {"hidden_size": 48}, out=tmp_path / "grown", split="even")
    assert even.verification.check("embeddings").status == "pass"
    np.testing.assert_allclose(cosines(embed(even.path)), cosines(embed(source)), rtol=0, atol=1e-6)


def router(folder: Path) -> None:
    """query: Dense and Normalize; document: Dense."""
    place = folder / "2_Router"
    place.mkdir()
    types = {"query_0_Dense": "Dense", "query_1_Normalize": "Normalize", "document_0_Dense": "Dense"}
    for k, name in enumerate(types):
        _, config, tensors = dense(W, 9, seed=k)
        (place / name).mkdir()
        if name.endswith("Dense"):
            tiny.write_json(place / name / "config.json", config)
            tiny.write_tensors(place / name, {n: tiny.Tensor("F32", narrow(v, "F32")) for n, v in tensors.items()})
    structure = {"query": ["query_0_Dense", "query_1_Normalize"], "document": ["document_0_Dense"]}
    kinds = {name: f"{MODULE}{kind}" for name, kind in types.items()}
    tiny.write_json(place / "router_config.json", {"types": kinds, "structure": structure, "parameters": {}})
    entry = {"idx": 2, "name": "2", "path": "2_Router", "type": f"{MODULE}Router"}
    tiny.edit_json(folder / "modules.json", lambda entries: entries.append(entry))


def test_every_route_of_a_router_grows(tmp_path):
    source = folder_of(tmp_path / "source", MEAN)
    router(source)
    found = grow.widen(source, TWICE, out=tmp_path / "grown")
    assert found.verification.check("embeddings").status == "pass"
    for route in ("query_0_Dense", "document_0_Dense"):
        assert tiny.read_json(found.path / "2_Router" / route / "config.json")["in_features"] == 48
    weights = found.path / "2_Router" / "document_0_Dense"
    tiny.edit_tensor(weights, "linear.weight", lambda w: w.__imul__(1.01))
    after = grow.verify(source, found.path, rungs=["embeddings"])
    assert after.check("embeddings").status == "fail"


# What cannot come along

REFUSED = {
    "LSTM": [("LSTM", {"word_embedding_dimension": W}, {}), MEAN],
    "CNN": [("CNN", {"in_word_embedding_dimension": W}, {}), MEAN],
    "WeightedLayerPooling": [("WeightedLayerPooling", {"layer_start": 1}, {}), MEAN],
    "NewThing": [MEAN, ("NewThing", {"width": W}, {})],
    "my_code.Projection": [MEAN, ("my_code.Projection", {"width": W}, {})],
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_module_that_cannot_come_along_is_named(name, tmp_path):
    source = folder_of(tmp_path / "source", *REFUSED[name])
    for attempt in (grow.plan, lambda *a: grow.widen(*a, out=tmp_path / "grown")):
        with pytest.raises(Refused) as found:
            attempt(source, TWICE)
        assert name.rpartition(".")[2] in str(found.value)
    assert not (tmp_path / "grown").exists()


def test_layers_are_what_weighted_layer_pooling_reads(tmp_path):
    source = folder_of(tmp_path / "source", *REFUSED["WeightedLayerPooling"])
    with pytest.raises(Refused, match="layers"):
        grow.plan(source, {"layers": 3})
    assert grow.plan(source, {"intermediate_size": 40}).notes is not None


@pytest.mark.parametrize("to", [{"layers": 3}, {"vocab_size": 40}, {"intermediate_size": 40}], ids=str)
def test_modules_that_read_the_width_alone_come_along_where_it_stays(to, tmp_path):
    source = folder_of(tmp_path / "source", *REFUSED["LSTM"])
    found = grow.widen(source, to, out=tmp_path / "grown")
    assert found.verification.verdict == "lossless"  # its files are the same ones, and so is what they read


FAULTY = {
    "wrong width": lambda f: tiny.edit_json(f / "2_Dense/config.json", lambda c: c.update(in_features=23)),
    "another shape": lambda f: tiny.write_tensors(
        f / "2_Dense", {"linear.weight": tiny.Tensor("F32", np.ones((13, 23), "<f4"))}
    ),
    "no list": lambda f: (f / "modules.json").write_text('{"a": 1}'),
    "no JSON": lambda f: (f / "modules.json").write_text("[{"),
    "a path that leaves": lambda f: tiny.edit_json(f / "modules.json", lambda m: m[1].update(path="../1_Pooling")),
    "no type": lambda f: tiny.edit_json(f / "modules.json", lambda m: m[1].pop("type")),
    "a config that is a list": lambda f: (f / "1_Pooling/config.json").write_text("[]"),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_modules_that_contradict_themselves_are_bad_input(fault, tmp_path):
    source = folder_of(tmp_path / "source", MEAN, dense(W, 13))
    FAULTY[fault](source)
    with pytest.raises(BadInput) as found:
        grow.widen(source, TWICE, out=tmp_path / "grown")
    assert found.value.fix
    assert not (tmp_path / "grown").exists()


def test_pickled_weights_that_would_grow_are_refused_with_the_way_out(tmp_path):
    source = folder_of(tmp_path / "source", MEAN, dense(W, 13))
    (source / "2_Dense/model.safetensors").rename(source / "2_Dense/pytorch_model.bin")
    with pytest.raises(Refused, match=r"has no model\.safetensors") as found:
        grow.plan(source, TWICE)
    assert "save(DST)" in found.value.fix


@pytest.mark.parametrize("both", [True, False])
def test_a_transformer_in_a_folder_of_its_own_is_refused_by_name(both, tmp_path):
    source = folder_of(tmp_path / "source", MEAN)
    tiny.edit_json(source / "modules.json", lambda m: m[0].update(path="0_Transformer"))
    (source / "0_Transformer").mkdir()
    for name in ("config.json", tiny.WEIGHTS):
        (shutil.copyfile if both else shutil.move)(source / name, source / "0_Transformer" / name)
    with pytest.raises(Refused, match="0_Transformer") as found:
        grow.plan(source, TWICE)
    assert "save(DST)" in found.value.fix


def test_embeddings_that_are_cut_short_must_begin_with_the_old_ones(tmp_path):
    source = folder_of(tmp_path / "source", MEAN)
    tiny.write_json(source / "config_sentence_transformers.json", {"truncate_dim": 16})
    assert grow.plan(source, TWICE)  # copies stand behind the old ones
    tiny.write_json(source / "config_sentence_transformers.json", {"truncate_dim": 30})
    with pytest.raises(Refused, match="cuts embeddings"):
        grow.plan(source, TWICE)


# What verification sees

CHANGES = {
    "a column of dense": lambda f: tiny.edit_tensor(f / "2_Dense", "linear.weight", lambda w: w[:, 3].__imul__(1.001)),
    "the bias of dense": lambda f: tiny.edit_tensor(f / "2_Dense", "linear.bias", lambda b: b.__iadd__(1e-4)),
    "another activation": lambda f: tiny.edit_json(
        f / "2_Dense/config.json", lambda c: c.update(activation_function="torch.nn.modules.activation.ReLU")
    ),
    "another pooling": lambda f: tiny.edit_json(
        f / "1_Pooling/config.json", lambda c: c.update(pooling_mode_mean_tokens=False, pooling_mode_cls_token=True)
    ),
    "a module less": lambda f: tiny.edit_json(f / "modules.json", lambda m: m.pop()),
    "no modules": lambda f: (f / "modules.json").unlink(),
    "no weights": lambda f: (f / "2_Dense/model.safetensors").unlink(),
    "another prompt": lambda f: tiny.write_json(
        f / "config_sentence_transformers.json", {"prompts": {"query": "tell: "}}
    ),
    "shorter texts": lambda f: tiny.edit_json(f / "sentence_bert_config.json", lambda c: c.update(max_seq_length=8)),
}


@pytest.mark.parametrize("recorded", [True, False], ids=["grow.json", "no grow.json"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_the_embeddings_is_seen(change, recorded, tmp_path):
    source = folder_of(tmp_path / "source", MEAN, dense(W, 13), UNIT)
    grown = grow.widen(source, TWICE, out=tmp_path / "grown", verify=False).path
    if not recorded:
        (grown / "grow.json").unlink()
    assert grow.verify(source, grown, rungs=["embeddings"]).check("embeddings").status == "pass"
    CHANGES[change](grown)
    found = grow.verify(source, grown, rungs=["embeddings"])
    assert found.check("embeddings").status == "fail"
    assert found.exit_code == 1


def test_cosines_are_compared_where_nothing_says_how_the_width_grew(tmp_path):
    source = folder_of(tmp_path / "source", MEAN)
    grown = grow.widen(source, TWICE, out=tmp_path / "grown", verify=False).path
    (grown / "grow.json").unlink()
    assert grow.verify(source, grown, rungs=["embeddings"]).check("embeddings").status == "pass"
    tiny.edit_json(grown / "1_Pooling/config.json", lambda c: c.update(pooling_mode="max"))
    assert grow.verify(source, grown, rungs=["embeddings"]).check("embeddings").status == "fail"


def test_modules_that_nothing_here_can_run_leave_the_verdict_open(tmp_path):
    source = folder_of(tmp_path / "source", MEAN, ("NewThing", {"scale": 1}, {}))
    grown = grow.widen(source, {"intermediate_size": 40}, out=tmp_path / "grown", verify=False, seed=1)
    assert grown.verification is None
    tiny.write_json(tmp_path / "grown/2_NewThing/config.json", {"scale": 2})
    found = grow.verify(source, tmp_path / "grown", rungs=["true_float64", "embeddings"])
    assert (found.check("embeddings").status, found.verdict) == ("skip", "unproved")
    assert "modules were not run" in found.check("embeddings").reason


def test_a_folder_without_modules_has_no_such_check(tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "bert")
    found = grow.widen(source, TWICE, out=tmp_path / "grown").verification
    assert found.check("embeddings") is None


def test_hostile_modules_never_end_in_a_fault_of_grow(tmp_path):
    source = folder_of(tmp_path / "source", MEAN, dense(W, 13))
    deep = "[" * 5000 + "]" * 5000
    for name, text in {
        "modules.json": deep,
        "1_Pooling/config.json": deep,
        "2_Dense/config.json": json.dumps({"in_features": "24", "out_features": 13}),
    }.items():
        kept = (source / name).read_bytes()
        (source / name).write_text(text)
        with pytest.raises(GrowError) as found:
            grow.plan(source, TWICE)
        assert found.value.exit_code == 2
        (source / name).write_bytes(kept)
