"""What the certificate alone says: each field of config.json that stock code has and that the growth need not change
is named, whatever grow.json claims of it; and no verdict says more than was run.
"""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest
import tiny as files

import grow
from grow.architectures.common_fields import TRAINS
from grow.architectures.stock_source import stock_of
from grow.errors import BadInput
from grow.verification.weights.config_fields import BOOKKEEPING

CERTIFICATE = ("certificate",)
FAMILIES = tuple(files.CONFIGS)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Family -> (source, a growth of it twice as wide)."""
    made = {}

    def get(family: str) -> tuple[Path, Path]:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            source = files.checkpoint(folder / "source", family)
            made[family] = source, grow.widen(source, "2x", out=folder / "grown", verify=False).path
        return made[family]

    return get


def faults(source: Path, grown: Path) -> list[str]:
    check = grow.verify(source, grown, rungs=CERTIFICATE).checks[0]
    return check.measured["faults"] if check.status == "fail" else []


def another(value: object) -> object:
    """Some other value of the same kind."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, list):
        return [*value, "other"]
    return f"{value}x" if isinstance(value, str) else {"other": 1}


def edited(family: str) -> dict[str, object]:
    """Field -> another value than it has, for all that stock code has and that may change what is computed."""
    config, found = {"model_type": family, **files.CONFIGS[family]}, {}
    for name, field in stock_of(family).fields.items():
        if name in BOOKKEEPING or TRAINS.fullmatch(name) or name in ("model_type", "dtype"):
            continue
        try:
            default = ast.literal_eval(field.default) if field.default is not None else None
        except ValueError:
            default = None
        found[name] = another(config.get(name, default))
    for name in ("label2id", *(["sliding_window"] if family == "qwen3" else [])):
        del found[name]  # stock loading throws this value away
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("recorded", [False, True], ids=["config alone", "grow.json too"])
def test_every_field_of_the_config_class_is_held_to_what_the_growth_makes_of_it(family, recorded, pairs, tmp_path):
    source, grown = pairs(family)
    fields, silent = edited(family), []
    assert len(fields) > 15
    for name, value in fields.items():
        folder = Path(shutil.copytree(grown, tmp_path / name))
        files.edit_json(folder / "config.json", lambda c, name=name, value=value: c.update({name: value}))
        if recorded:
            change = {name: value}
            files.edit_json(folder / "grow.json", lambda r, change=change: r["plan"]["config_changes"].update(change))
        if not any(name in fault for fault in faults(source, folder)):
            silent.append(name)
        shutil.rmtree(folder)
    assert not silent
    assert not faults(source, grown)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_field_that_no_class_declares_counts_where_code_reads_it(family, pairs, tmp_path):
    source, grown = pairs(family)
    for value in (False, True):
        folder = Path(shutil.copytree(grown, tmp_path / str(value)))
        files.edit_json(folder / "config.json", lambda c, value=value: c.update(is_causal=value, my_own_note="x"))
        fields = ["config.json: is_causal", "config.json: my_own_note"]
        assert [fault.partition(": found")[0] for fault in faults(source, folder)] == fields


def test_the_same_without_a_record_where_all_numbers_are_equal(pairs, tmp_path):
    source = pairs("llama")[0]
    folder = Path(shutil.copytree(source, tmp_path / "same"))
    assert grow.verify(source, folder, rungs=CERTIFICATE).verdict == "lossless"
    files.edit_json(folder / "config.json", lambda c: c.update(my_own_note="x"))
    assert grow.verify(source, folder, rungs=CERTIFICATE).verdict == "lossless"  # nobody reads it
    files.edit_json(folder / "config.json", lambda c: c.update(is_causal=False))
    found = grow.verify(source, folder, rungs=CERTIFICATE)
    assert (found.verdict, found.exit_code) == ("unproved", 1)
    assert "config.json: is_causal" in found.checks[0].reason


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_that_stock_code_has_written_since_is_no_difference(family, pairs, tmp_path):
    import transformers

    source, grown = pairs(family)
    for side in ("source", "grown"):
        folders = {"source": source, "grown": grown}
        folder = Path(shutil.copytree(folders[side], tmp_path / side))
        transformers.AutoConfig.from_pretrained(folder).save_pretrained(folder)
        folders[side] = folder
        assert not faults(folders["source"], folders["grown"])


def test_a_source_that_was_edited_since_is_named(pairs, tmp_path):
    source, grown = pairs("llama")
    other = Path(shutil.copytree(source, tmp_path / "source"))
    files.edit_json(other / "config.json", lambda c: c.update(rms_norm_eps=0.02))
    found = faults(other, grown)
    assert any("rms_norm_eps" in fault for fault in found)
    same = Path(shutil.copytree(grown, tmp_path / "grown"))  # the same edit on both sides agrees, and was not recorded
    files.edit_json(same / "config.json", lambda c: c.update(rms_norm_eps=0.02))
    assert [f"{other}: was edited since it grew" in fault for fault in faults(other, same)] == [True]


def test_a_field_that_changes_nothing_is_no_fault(pairs, tmp_path):
    source, grown = pairs("llama")
    folder = Path(shutil.copytree(grown, tmp_path / "grown"))
    files.edit_json(folder / "config.json", lambda c: c.update(attention_dropout=0.25, transformers_version="4.0"))
    assert not faults(source, folder)


def test_a_record_without_newer_fields_still_reads(pairs, tmp_path):
    source, grown = pairs("gpt2")
    folder = Path(shutil.copytree(grown, tmp_path / "grown"))

    def older(record: dict) -> None:
        for name in ("earlier", "files", "method"):
            record.pop(name, None)
            record["plan"].pop(name, None)

    files.edit_json(folder / "grow.json", older)
    assert grow.verify(source, folder, rungs=CERTIFICATE).verdict == "certified"
    json.loads((folder / "grow.json").read_text())


@pytest.mark.parametrize("field", ["decoder_start_token_id", "eos_token_id", "pad_token_id"])
def test_a_token_that_a_seq2seq_model_begins_or_ends_with_is_named(field, tmp_path):
    import torch
    import transformers

    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "d_model": 16, "d_kv": 4, "d_ff": 20, "num_layers": 2, "num_heads": 4}
    config = transformers.T5Config(**sizes, decoder_start_token_id=0, eos_token_id=1, pad_token_id=0)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "source")
    other = Path(shutil.copytree(tmp_path / "source", tmp_path / "other"))
    files.edit_json(other / "config.json", lambda c: c.update({field: 5}))
    found = grow.verify(tmp_path / "source", other, rungs=CERTIFICATE)
    assert (found.verdict, found.exit_code) == ("unproved", 1)
    assert field in found.checks[0].reason
    found = grow.verify(tmp_path / "source", other, rungs=("certificate", "true_float64"))
    assert found.verdict in ("unproved", "different")
    assert any(field in text for text in (*found.notes, str(found.first)))


@pytest.mark.parametrize("value", [{}, {"0": "x"}, 3, "LlamaForCausalLM", [3], []], ids=str)
def test_architectures_that_are_no_list_of_names_are_one_clear_fault(value, pairs, tmp_path):
    source, grown = pairs("llama")
    folder = Path(shutil.copytree(grown, tmp_path / "grown"))
    files.edit_json(folder / "config.json", lambda c: c.update(architectures=value))
    if value == []:  # no class is named, as by an absent field
        assert any("architectures" in fault for fault in faults(source, folder))
    else:
        with pytest.raises(BadInput, match="architectures"):
            faults(source, folder)
