"""What users see beside the function: how text is written, cut, padded and told apart. A difference is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import models
import pytest
import tiny
import transformers

import grow
from grow.zoo import bundled_path

CHAT = "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}"


@pytest.fixture(scope="module")
def chatty(tmp_path_factory) -> Path:
    """`small` with everything that a chat model's folder holds."""
    folder = Path(shutil.copytree(bundled_path("small"), tmp_path_factory.mktemp("chatty") / "source"))
    tiny.write_json(
        folder / "generation_config.json",
        {"bos_token_id": 5, "eos_token_id": [5, 7], "pad_token_id": 0, "repetition_penalty": 1.1, "do_sample": True},
    )
    (folder / "chat_template.jinja").write_text(CHAT)
    tiny.edit_json(folder / "tokenizer_config.json", lambda c: c.update(padding_side="left"))
    return folder


def verify(source: Path, grown: Path, check: str):
    return grow.verify(source, grown, rungs=(check,))


GENERATION = {
    "repetition_penalty": 1.3,
    "temperature": 0.6,
    "eos_token_id": 7,
    "suppress_tokens": [9],
    "no_repeat_ngram_size": 3,
    "do_sample": False,
    "max_new_tokens": 30,
    "bad_words_ids": [[4]],
}


@pytest.mark.parametrize("field", GENERATION)
def test_a_setting_of_generate_is_compared_and_named(field, chatty, tmp_path):
    other = Path(shutil.copytree(chatty, tmp_path / "other"))
    tiny.edit_json(other / "generation_config.json", lambda c: c.update({field: GENERATION[field]}))
    found = verify(chatty, other, "generation_config")
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert found.check("generation_config").measured["unequal"] == [field]
    assert field in found.first["text"]


@pytest.mark.parametrize("to", ["", "2x"])
def test_a_generation_config_that_is_gone_or_broken_is_found(to, chatty, tmp_path):
    other = tmp_path / "other"
    if to:
        grow.widen(chatty, to, out=other, verify=False)
    else:
        shutil.copytree(chatty, other)
    assert verify(chatty, other, "generation_config").checks[0].status == "pass"
    (other / "generation_config.json").write_text("{")
    assert verify(chatty, other, "generation_config").verdict == "different"
    (other / "generation_config.json").unlink()
    found = verify(chatty, other, "generation_config")
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert "there is no generation_config.json" in found.first["text"]
    assert "repetition_penalty" in found.first["text"]


def test_the_same_settings_from_another_file_are_no_difference(tmp_path):
    """config.json says what a missing generation_config.json would; a default may be spelled out; stamps are none."""
    source, other = Path(shutil.copytree(bundled_path("small"), tmp_path / "source")), tmp_path / "other"
    tokens = {"bos_token_id": 5, "eos_token_id": 7, "pad_token_id": 0}
    tiny.edit_json(source / "config.json", lambda c: c.update(tokens))
    tiny.write_json(source / "generation_config.json", tokens)
    shutil.copytree(source, other)
    (other / "generation_config.json").unlink()
    assert verify(source, other, "generation_config").checks[0].status == "pass"
    more = {"transformers_version": "4.40.0", "_from_model_config": True, "temperature": 1.0, "num_beams": 1}
    tiny.write_json(other / "generation_config.json", tokens | more)
    assert verify(source, other, "generation_config").checks[0].status == "pass"


def test_the_token_that_a_decoder_starts_with_is_compared(tmp_path):
    config = transformers.T5Config(
        vocab_size=37, d_model=12, d_kv=4, d_ff=20, num_layers=2, num_heads=3, decoder_start_token_id=0
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "source")
    (tmp_path / "source" / "generation_config.json").unlink()
    other = Path(shutil.copytree(tmp_path / "source", tmp_path / "other"))
    tiny.edit_json(other / "config.json", lambda c: c.update(decoder_start_token_id=3))
    found = verify(tmp_path / "source", other, "generation_config")
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert "decoder_start_token_id is" in found.first["text"]


def test_a_class_that_does_not_generate_has_no_settings(tmp_path):
    source = models.save("bert-mlm", tmp_path / "source")
    tiny.write_json(source / "generation_config.json", {"temperature": 3.0})
    other = Path(shutil.copytree(source, tmp_path / "other"))
    tiny.write_json(other / "generation_config.json", {"temperature": 4.0})
    assert verify(source, other, "generation_config").checks[0].status == "skip"


TOKENIZER = {
    "padding_side": "right",
    "truncation_side": "left",
    "model_max_length": 77,
    "clean_up_tokenization_spaces": True,
    "model_input_names": ["input_ids"],
    "unk_token": "the",
}


@pytest.mark.parametrize("field", TOKENIZER)
def test_a_setting_of_the_tokenizer_is_compared_and_named(field, chatty, tmp_path):
    other = Path(shutil.copytree(chatty, tmp_path / "other"))
    tiny.edit_json(other / "tokenizer_config.json", lambda c: c.update({field: TOKENIZER[field]}))
    found = verify(chatty, other, "tokenizer")
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert f"{field} is" in found.first["text"]


def other_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(CHAT.replace("content", "contents"))


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def in_the_config(folder: Path) -> None:
    no_template(folder)
    tiny.edit_json(folder / "tokenizer_config.json", lambda c: c.update(chat_template=CHAT + "!"))


def one_more(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")


@pytest.mark.parametrize("change", [other_template, no_template, in_the_config, one_more])
def test_a_chat_template_is_compared_in_every_form(change, chatty, tmp_path):
    other = Path(shutil.copytree(chatty, tmp_path / "other"))
    change(other)
    found = verify(chatty, other, "tokenizer")
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert "chat_template" in found.first["text"]


def test_one_template_in_either_form_is_no_difference(chatty, tmp_path):
    other = Path(shutil.copytree(chatty, tmp_path / "other"))
    no_template(other)
    tiny.edit_json(other / "tokenizer_config.json", lambda c: c.update(chat_template=CHAT))
    check = verify(chatty, other, "tokenizer").check("tokenizer")
    assert (check.status, check.measured["identical"]) == ("pass", False)


@pytest.mark.parametrize("named", [True, False])
def test_a_tokenizer_that_is_gone_is_found(named, chatty, tmp_path):
    grown = grow.widen(chatty, "2x", out=tmp_path / "grown", verify=False).path
    if not named:
        (grown / "grow.json").unlink()
    for path in (*grown.glob("tokenizer*"), *grown.glob("chat_template*")):
        path.unlink()
    found = verify(chatty, grown, "tokenizer")
    assert (found.verdict, found.exit_code) == ("different", 1)


@pytest.mark.parametrize("named", [True, False])
def test_a_length_that_follows_the_positions_is_no_difference(named, chatty, tmp_path):
    source = Path(shutil.copytree(chatty, tmp_path / "source"))
    positions = tiny.read_json(source / "config.json")["max_position_embeddings"]
    tiny.edit_json(source / "tokenizer_config.json", lambda c: c.update(model_max_length=positions))
    grown = grow.widen(source, {"positions": positions + 24}, out=tmp_path / "grown", verify=False).path
    if not named:
        (grown / "grow.json").unlink()
    assert tiny.read_json(grown / "tokenizer_config.json")["model_max_length"] == positions + 24
    assert verify(source, grown, "tokenizer").checks[0].status == "pass"
    tiny.edit_json(grown / "tokenizer_config.json", lambda c: c.update(model_max_length=positions + 25))
    assert verify(source, grown, "tokenizer").verdict == "different"


def test_the_files_of_a_tokenizer_that_does_not_load_are_compared(chatty, tmp_path):
    source = Path(shutil.copytree(chatty, tmp_path / "source"))
    (source / "tokenizer.json").write_text('{"version": "none"}')
    other = Path(shutil.copytree(source, tmp_path / "other"))
    tiny.edit_json(other / "tokenizer_config.json", lambda c: c.update(padding_side="right"))
    found = verify(source, other, "tokenizer")
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert "padding_side is 'right', wanted 'left'" in found.first["text"]
