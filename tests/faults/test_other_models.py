"""Another tokenizer, seed, family, dtype or number of layers is another model."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import models
import numpy as np
import pytest
import tiny
import torch
import transformers
from damaged_checkpoints import (
    BOTH,
    CERTIFICATE,
    CERTIFIED,
    CONFIGURED,
    DEEP_FAULTS,
    ROWS,
    SWAPPED,
    UNREACHED,
    WITH_HEAD,
    Raw,
    damaged,
    forget,
)

import grow
from grow.architectures import FAMILIES
from grow.errors import GrowError
from grow.notation.numbers import narrow, widen
from grow.verification.outputs import two_folders
from grow.verification.outputs.pair import Pair
from grow.verification.verdict import Verification
from grow.zoo import bundled_path

# The tokenizer


def tokenizer(change: Callable[[dict], object], folder: Path, file: str = "tokenizer.json") -> Verification:
    """What verifying a copy of `small` finds after a change to one of the tokenizer's files."""
    source = bundled_path("small")
    other = Path(shutil.copytree(source, folder / "other"))
    tiny.edit_json(other / file, change)
    return grow.verify(source, other, rungs=("tokenizer",))


def shift(t: dict) -> None:
    t["model"]["vocab"]["ils"] += 1


def swap(t: dict) -> None:
    vocab = t["model"]["vocab"]
    vocab["ice"], vocab["ie"] = vocab["ie"], vocab["ice"]


def without_merge(*pair: str) -> Callable[[dict], None]:
    return lambda t: t["model"]["merges"].remove(list(pair))


TOKENS = {
    "a shifted id": ("tokenizer.json", shift, "token 'ils' has id 2048, wanted 2047"),
    "two ids swapped": ("tokenizer.json", swap, "token 'ice' has id"),
    "another end": ("tokenizer_config.json", lambda c: c.update(eos_token="[PAD]"), "eos_token is '[PAD]', wanted"),
    "another padding": ("tokenizer_config.json", lambda c: c.update(pad_token="the"), "pad_token is 'the', wanted"),
    "a merge gone": ("tokenizer.json", without_merge("Ġ", "t"), "the held-out text reads differently from token 9"),
    "lower case": ("tokenizer.json", lambda t: t.update(normalizer={"type": "Lowercase"}), "the held-out text reads"),
}


@pytest.mark.parametrize("name", TOKENS)
def test_a_changed_tokenizer_is_found_and_the_token_named(name, tmp_path):
    file, change, reason = TOKENS[name]
    found = tokenizer(change, tmp_path, file)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert found.checks[0].reason.startswith(reason)
    assert reason in found.first["text"]


RULES = {
    "a merge that the text lacks": without_merge("r", "u"),
    "no decoder": lambda t: t.update(decoder=None),
    "another normal form": lambda t: t.update(normalizer={"type": "NFKC"}),
}
MODEL_RULES = {
    "bytes for unknown characters": lambda t: t["model"].update(byte_fallback=True),
    "merges left out at random": lambda t: t["model"].update(dropout=1e-4),
}


@pytest.mark.parametrize("name", [*RULES, *MODEL_RULES])
def test_a_tokenizer_that_differs_beyond_the_text_is_found(name, tmp_path):
    assert tokenizer({**RULES, **MODEL_RULES}[name], tmp_path).verdict == "different"


def test_a_score_of_a_unigram_that_the_text_does_not_need_is_compared(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    scores = {"<unk>": 0, "▁": -2, "a": -3, "b": -3, "e": -3, "t": -3, "ab": -4}
    for folder, score in (("one", -4.0), ("two", -4.5)):
        unigram = Tokenizer(models.Unigram([*({**scores, "ab": score}.items())], 0))
        unigram.pre_tokenizer = pre_tokenizers.Metaspace()
        shutil.copytree(bundled_path("small"), tmp_path / folder)
        unigram.save(str(tmp_path / folder / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
        tiny.write_json(tmp_path / folder / "tokenizer_config.json", settings)
    assert grow.verify(tmp_path / "one", tmp_path / "two", rungs=("tokenizer",)).verdict == "different"


def test_a_tokenizer_that_panics_is_a_fault_and_no_crash(tmp_path, capfd):
    """The library cuts off a prefix that is longer than the merge it reads."""
    try:
        found = tokenizer(lambda t: t["model"].update(continuing_subword_prefix="##"), tmp_path)
    except BaseException as error:
        pytest.fail(type(error).__name__)
    assert (found.verdict, found.exit_code) == ("different", 1)


def test_a_growth_that_lost_its_tokenizer_is_found(tmp_path):
    grown = grow.widen(bundled_path("small"), "2x", out=tmp_path / "grown", verify=False).path
    for path in grown.glob("tokenizer*"):
        path.unlink()
    found = grow.verify(bundled_path("small"), grown, rungs=("tokenizer",))
    assert (found.verdict, found.exit_code) == ("different", 1)


# Whole checkpoints


def stored_as(source: Path, folder: Path, dtype: str) -> Path:
    """The same numbers in another dtype, rounded where it is narrower."""
    code = next(code for code, name in tiny.DTYPES.items() if name == dtype)
    tensors = tiny.read_tensors(source)
    wide = {name: widen(t.raw, t.dtype, np.dtype(np.float64)) for name, t in tensors.items()}
    shutil.copytree(source, folder)
    tiny.write_tensors(folder, {name: tiny.Tensor(code, narrow(raw, code)) for name, raw in wide.items()})
    tiny.edit_json(folder / "config.json", lambda config: config.update(dtype=dtype))
    return folder


def pruned(raw: Raw) -> None:
    """The smallest 30 % of a matrix are zero."""
    if raw.ndim > 1:
        raw[np.abs(raw) < np.quantile(np.abs(raw), 0.3)] = 0


def quantised(raw: Raw) -> None:
    """Each row of a matrix on 255 levels, stored as floats."""
    if raw.ndim > 1:
        scale = np.abs(raw).max(1, keepdims=True) / 127
        raw[...] = np.round(raw / np.where(scale, scale, 1)) * scale


@pytest.mark.parametrize("family", FAMILIES)
def test_another_seed_is_another_model(family, made, tmp_path):
    variant = WITH_HEAD[family]
    models.make(variant, seed=2).to(torch.float64).save_pretrained(tmp_path / "other")
    found = grow.verify(made(variant), tmp_path / "other", rungs=BOTH)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert found.first["tensor"] in tiny.read_header(tmp_path / "other")[0]


@pytest.mark.parametrize(
    ("variant", "other"),
    [("llama", "mistral"), ("gpt2", "opt"), ("qwen2", "gpt_neox"), ("bert-mlm", "roberta-mlm"), ("gpt2", "bert-mlm")],
)
def test_another_family_with_the_same_vocabulary_is_another_model(variant, other, made):
    found = grow.verify(made(variant), made(other), rungs=BOTH)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert any(field["field"] == "model_type" for field in found.config)


@pytest.mark.parametrize("change", [pruned, quantised])
@pytest.mark.parametrize("to", ["", "2x"])
@pytest.mark.parametrize("variant", ["llama", "gpt2", "bert-mlm"])
def test_a_pruned_and_a_quantised_copy_are_different(variant, to, change, made, tmp_path):
    folder = Path(shutil.copytree(made(variant, "float32", to), tmp_path / "changed"))
    names = list(tiny.read_header(folder)[0])
    with damaged(folder, dict.fromkeys(names, change)):
        found = grow.verify(made(variant, "float32"), folder, rungs=BOTH)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert found.first["tensor"] in names


@pytest.mark.parametrize("variant", models.ONE_EACH)
def test_a_checkpoint_is_itself(variant, made):
    found = grow.verify(made(variant, "float32"), made(variant, "float32"), rungs=BOTH)
    assert (found.verdict, found.exit_code) == ("lossless", 0)
    assert {check.name: check.status for check in found.checks} == {"certificate": "pass", "true_float64": "pass"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_wider_dtype_is_lossless(dtype, made, tmp_path):
    source = made("llama", "bfloat16")
    found = grow.verify(source, stored_as(source, tmp_path / "wider", dtype), rungs=BOTH)
    assert (found.verdict, found.exit_code) == ("lossless", 0)


@pytest.mark.parametrize("variant", ["llama", "gpt2", "bert-mlm"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_narrower_dtype_is_unproved_because_rounding_explains_it(variant, dtype, made, tmp_path):
    """Neither lossless nor different: nobody says whether a rounding was meant."""
    source = made(variant, "float32")
    found = grow.verify(source, stored_as(source, tmp_path / "narrower", dtype), rungs=BOTH)
    assert (found.verdict, found.exit_code) == ("unproved", 1)
    assert "as far as rounding the stored weights explains" in found.notes[-1]


@pytest.mark.parametrize("way", ["quantization_config", "int8 tensors"])
def test_a_really_quantised_checkpoint_is_bad_input_or_different(way, made, tmp_path):
    folder = Path(shutil.copytree(made("llama", "float32"), tmp_path / "quantised"))
    if way == "quantization_config":
        tiny.edit_json(folder / "config.json", lambda c: c.update(quantization_config={"quant_method": "gptq"}))
        with pytest.raises(GrowError, match="weights are quantised") as error:
            grow.verify(made("llama", "float32"), folder, rungs=BOTH)
        assert error.value.exit_code == 2
        assert error.value.fix == "use the unquantised checkpoint, or dequantise first"
        return
    int8_tensor(folder, "model.layers.0.mlp.up_proj.weight")
    found = grow.verify(made("llama", "float32"), folder, rungs=BOTH)
    assert (found.verdict, found.first["module"]) == ("different", "model.layers.0.mlp.up_proj")


def int8_tensor(folder: Path, name: str) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / tiny.WEIGHTS)
    tensors[name] = np.round(20 * tensors[name]).astype(np.int8)
    save_file(tensors, folder / tiny.WEIGHTS, metadata={"format": "pt"})


def without_last_layer(folder: Path) -> None:
    tensors = tiny.read_tensors(folder)
    tiny.write_tensors(folder, {name: t for name, t in tensors.items() if ".1." not in name})


@pytest.mark.parametrize("to", ["", "2x"])
@pytest.mark.parametrize("told", [True, False])
def test_fewer_layers_are_different(told, to, made, tmp_path):
    folder = Path(shutil.copytree(made("llama", to=to), tmp_path / "shallow"))
    without_last_layer(folder)
    if told:
        tiny.edit_json(folder / "config.json", lambda config: config.update(num_hidden_layers=1))
    found = grow.verify(made("llama"), folder, rungs=BOTH)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert "model.layers.1." in " ".join(check.reason for check in found.checks) or told


def test_without_grow_json_the_number_of_layers_is_named(made, tmp_path):
    folder = Path(shutil.copytree(made("llama"), tmp_path / "shallow"))
    without_last_layer(folder)
    tiny.edit_json(folder / "config.json", lambda config: config.update(num_hidden_layers=1))
    assert grow.verify(made("llama"), folder, rungs=BOTH).first["field"] == "num_hidden_layers"


def test_without_grow_json_a_width_is_not_what_explains_a_growth_that_does_not_load(made, tmp_path):
    folder = forget(Path(shutil.copytree(made("opt", to="2x"), tmp_path / "grown")))
    tiny.edit_json(folder / "config.json", lambda config: config.update(pad_token_id=-1, tie_word_embeddings=False))
    assert grow.verify(made("opt"), folder, rungs=BOTH).first["field"] in ("pad_token_id", "tie_word_embeddings")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("tensor", ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"])
def test_a_weight_that_is_no_number_is_different_and_never_equal_to_itself(tensor, value, made, tmp_path):
    folder = Path(shutil.copytree(made("llama"), tmp_path / "broken"))
    tiny.edit_tensor(folder, tensor, lambda raw: raw.__setitem__((3,) * raw.ndim, value))
    found = grow.verify(made("llama"), folder, rungs=BOTH)
    assert (found.verdict, found.first["tensor"], found.first["index"][0]) == ("different", tensor, 3)
    assert grow.verify(folder, folder, rungs=BOTH).verdict == "different"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_stored_numbers_that_are_none_are_no_proof_of_equality(value, made, tmp_path):
    folder = Path(shutil.copytree(made("llama"), tmp_path / "broken"))
    tiny.edit_tensor(folder, "model.norm.weight", lambda raw: raw.__setitem__(3, value))
    assert grow.verify(folder, folder, rungs=CERTIFICATE).verdict != "lossless"


# How many


def test_at_least_300_faults_are_tried():
    assert all(len(set(faults)) == len(faults) for faults in (CERTIFIED, SWAPPED, CONFIGURED, ROWS, UNREACHED))
    without_grow_json = len(SWAPPED) + len(CONFIGURED) + 2 * len(ROWS) + len(UNREACHED) + len(DEEP_FAULTS)
    assert min(len(CERTIFIED), without_grow_json) >= 300


def test_a_pair_reads_each_config_and_header_once_and_anew_when_it_was_closed(made, monkeypatch):
    folders, read = [made("llama"), made("gpt2")], Counter()

    def counted(owner: object, name: str) -> None:
        before = getattr(owner, name)

        def count(*args, **kwargs):
            read[name] += 1
            return before(*args, **kwargs)

        monkeypatch.setattr(owner, name, count)

    counted(transformers.AutoConfig, "from_pretrained")
    counted(two_folders, "shapes")
    with Pair(*folders) as pair:
        for times in (1, 2):
            for _ in range(3):
                assert [pair.config(side).model_type for side in ("source", "grown")] == ["llama", "gpt2"]
                assert pair.elements("source") != pair.elements("grown")
            assert read == {"from_pretrained": 2 * times, "shapes": 2 * times}
            pair.close()
