"""Vocabulary and positions grow: old rows and old logits stay, new tokens are never chosen, new positions run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import pytest
import tiny
import torch
from drawn_targets import grows, sizes_of
from models import LM, LONG, MLM, VARIANTS, difference, outputs
from safetensors.torch import load_file

import grow
from grow.architectures.architecture import Architecture
from grow.errors import BadInput, Refused
from grow.zoo import bundled_path

EXACT = 1e-12  # measured 0 to 4e-15: rows are appended, nothing else changes
FLOAT32 = 1e-5

LANGUAGE = [v for v, (_, auto, *_) in VARIANTS.items() if auto in (LM, MLM)]


def has_bias(variant: str) -> bool:
    """Whether the head over the vocabulary has a bias."""
    kind, auto, fields, _ = VARIANTS[variant]
    if kind.startswith("modernbert"):
        return fields.get("decoder_bias", True)
    if auto == LM:
        return kind in ("phi", "gptj") or bool(fields.get("lm_head_bias"))
    return kind != "eurobert" or "mlp_bias" in fields


BIASED = [v for v in LANGUAGE if has_bias(v)]
UNBIASED = [v for v in LANGUAGE if v not in BIASED]


def has_positions(variant: str) -> bool:
    """Whether a table has a row for each position."""
    kind, _, fields, _ = VARIANTS[variant]
    rows = Architecture(grow.families[kind], fields).rows
    return any(dim.has("positions") for row in rows for dim in row.signature.dims)


LEARNED = [v for v in LANGUAGE if has_positions(v) and grows(v, "positions")]
MORE, LATER = 60, 97  # 41 tokens and 64 positions in the source
OLD, FIRST = 41, 64


@pytest.fixture(scope="session")
def expected(tiny) -> Callable[..., dict[str, torch.Tensor]]:
    """The outputs of a source, computed once per worker."""
    known: dict[tuple, dict[str, torch.Tensor]] = {}

    def get(variant: str, dtype: str = "float32") -> dict[str, torch.Tensor]:
        if (variant, dtype) not in known:
            known[variant, dtype] = outputs(tiny(variant, dtype), VARIANTS[variant].lengths)
        return known[variant, dtype]

    return get


def widen(source: Path, to: Any, out: Path, **options: Any) -> grow.Growth:
    return grow.widen(source, to, out=out, verify=False, seed=3, **options)


def counts_from_padding(variant: str) -> bool:
    """Whether the first position is the one behind the padding id, which is 1."""
    return bool(grow.families[VARIANTS[variant].model_type].positions_from)


def asked(folder: Path, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """The main output of a model for these inputs, in true float64."""
    with models.Float64(), torch.no_grad():
        return models.load(folder)(**given)[0]


def logits(folder: Path, source: Path, lengths=(17,)) -> dict[str, torch.Tensor]:
    """The grown model's logits on the inputs that the source got (which are drawn from its vocabulary)."""
    config = models.transformers.AutoConfig.from_pretrained(source)
    return {f"logits of {length}": asked(folder, models.inputs(config, length)) for length in lengths}


# New tokens


@pytest.mark.parametrize("variant", LANGUAGE)
def test_old_logits_stay_and_new_ones_lie_between_them(variant, tiny, expected, tmp_path):
    plan = widen(tiny(variant), {"vocab": MORE}, tmp_path / "grown").plan
    assert plan.storage == "bit-exact"
    lengths = VARIANTS[variant].lengths
    found, old = logits(tmp_path / "grown", tiny(variant), lengths), expected(variant)
    old = {k: old[k] for k in found}
    assert difference(old, {k: x[..., :OLD] for k, x in found.items()}) <= EXACT
    for name, x in found.items():
        new, low, high = x[..., OLD:], old[name].amin(-1, keepdim=True), old[name].amax(-1, keepdim=True)
        assert x.shape[-1] == MORE
        assert bool(((low < new) & (new < high)).all())
        assert int(x.argmax(-1).max()) < OLD
        assert float(new.flatten(0, 1).std(0).min()) > 0  # each depends on the text
        assert len({tuple(row) for row in new.flatten(0, 1).T.tolist()}) == MORE - OLD  # and none is another


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
@pytest.mark.parametrize("variant", ["llama", "llama-tied", "gpt2", "bert-mlm"])
def test_in_other_dtypes_too(variant, dtype, tiny, expected, tmp_path):
    plan = widen(tiny(variant, dtype), {"vocab": 10 * OLD}, tmp_path / "grown").plan
    assert plan.storage == "bit-exact"
    found, old = (x["logits of 17"] for x in (logits(tmp_path / "grown", tiny(variant)), expected(variant, dtype)))
    assert difference({"": old}, {"": found[..., :OLD]}) <= EXACT
    assert bool((found[..., OLD:].amax(-1) < old.amax(-1)).all())
    assert bool((found[..., OLD:].amin(-1) > old.amin(-1)).all())


@pytest.mark.parametrize("variant", ["llama", "llama-tied", "gpt2-untied", "opt-projected", "bert-mlm"])
def test_zero_rows_have_logit_zero(variant, tiny, expected, tmp_path):
    widen(tiny(variant), {"vocab": MORE}, tmp_path / "grown", new_tokens="zero")
    found = logits(tmp_path / "grown", tiny(variant))["logits of 17"]
    assert difference({"": expected(variant)["logits of 17"]}, {"": found[..., :OLD]}) <= EXACT
    assert not found[..., OLD:].any()


@pytest.mark.parametrize("variant", BIASED)
def test_low_rows_are_far_below_by_the_heads_bias(variant, tiny, expected, tmp_path):
    source = tiny(variant)
    widen(source, {"vocab": MORE}, tmp_path / "grown", new_tokens="low")
    found = logits(tmp_path / "grown", source)["logits of 17"]
    old = expected(variant)["logits of 17"]
    assert difference({"": old}, {"": found[..., :OLD]}) <= EXACT
    assert float(found[..., OLD:].max()) < -9000
    # so far that even the probabilities of the old tokens stay
    assert float((found.softmax(-1)[..., :OLD] - old.softmax(-1)).abs().max()) <= 1e-15
    found = grow.verify(source, tmp_path / "grown", rungs=["certificate", "true_float64", "loss"])
    assert (found.verdict, found.exit_code) == ("lossless", 0)


@pytest.mark.parametrize("variant", UNBIASED)
def test_low_needs_a_bias(variant, tiny, tmp_path):
    with pytest.raises(Refused, match="has no bias") as caught:
        widen(tiny(variant), {"vocab": MORE}, tmp_path / "grown", new_tokens="low")
    error = caught.value
    assert all((error.where, error.what, error.why, error.fix))
    assert (error.exit_code, (tmp_path / "grown").exists()) == (2, False)
    said = re.search(r'new_tokens="(\w+)"', error.fix)
    grow.plan(tiny(variant), {"vocab": MORE}, new_tokens=said[1])  # what the fix says
    field = next(axis for axis in ("ffn", "inner") if grows(variant, axis))
    assert grow.plan(tiny(variant), {field: 99}, new_tokens="low").new_sizes[field] == 99  # no new token, no question


def test_a_choice_that_is_none_is_bad_input(tiny):
    with pytest.raises(BadInput, match="no such choice"):
        grow.plan(tiny("llama"), {"vocab": MORE}, new_tokens="mean")


@pytest.mark.parametrize("variant", ["bert-sequence", "gpt2-qa", "opt-base", "llama-token", "roberta-base"])
def test_without_a_head_over_the_vocabulary_the_table_grows_alone(variant, tiny, expected, tmp_path):
    widen(tiny(variant), {"vocab": MORE}, tmp_path / "grown")
    config = models.transformers.AutoConfig.from_pretrained(tiny(variant))
    found = asked(tmp_path / "grown", models.inputs(config, 17))
    assert difference({"": next(iter(expected(variant).values()))}, {"": found}) <= EXACT


@pytest.mark.parametrize("variant", ["llama-tied", "llama", "gpt2", "opt-projected", "bert-mlm", "bert-mlm-untied"])
def test_new_tokens_can_be_read_and_a_tie_stays_a_tie(variant, tiny, tmp_path):
    plan = widen(tiny(variant), {"vocab": MORE}, tmp_path / "grown").plan
    stored = load_file(tmp_path / "grown" / "model.safetensors")
    tables = [t for t in plan.tensors if "vocab" in t.signature.axes]
    assert all(t.new_shape[0] == MORE for t in tables)
    assert len(tables) == len([t for t in plan.tensors if MORE in t.new_shape])
    for t in tables:
        old = load_file(tiny(variant) / "model.safetensors")[t.source]
        assert torch.equal(stored[t.name][:OLD], old)
    config = models.transformers.AutoConfig.from_pretrained(tmp_path / "grown")
    assert config.vocab_size == MORE
    given = {"input_ids": torch.arange(OLD, MORE)[None]}
    assert bool(torch.isfinite(asked(tmp_path / "grown", given)).all())


def test_a_vocabulary_of_one_block_and_of_many_blends_alike(tmp_path, monkeypatch):
    """Rows are read in blocks; what they are blended to may not depend on where a block ends."""
    source = tiny.checkpoint(tmp_path / "source", "llama", vocab_size=101)
    widen(source, {"vocab": 130}, tmp_path / "one")
    monkeypatch.setattr("grow.applying.tensor_rows.BLOCK", 24 * 7)
    widen(source, {"vocab": 130}, tmp_path / "many")
    name = "model.embed_tokens.weight"
    one, many = (load_file(tmp_path / folder / tiny.WEIGHTS)[name] for folder in ("one", "many"))
    assert torch.equal(one[:101], many[:101])
    torch.testing.assert_close(one, many, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("vocab", [1, 2, 5])
def test_tiny_vocabularies(vocab, tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "llama", vocab_size=vocab)
    assert widen(source, {"vocab": vocab + 3}, tmp_path / "grown").plan.new_sizes["vocab"] == vocab + 3
    assert grow.verify(source, tmp_path / "grown", rungs=["certificate"]).verdict == "certified"


# New positions


@pytest.mark.parametrize("variant", LEARNED)
def test_old_positions_stay_and_new_ones_repeat_real_ones(variant, tiny, expected, tmp_path):
    plan = widen(tiny(variant), {"positions": LATER}, tmp_path / "grown").plan
    assert plan.storage == "bit-exact"
    assert difference(expected(variant), outputs(tmp_path / "grown", VARIANTS[variant].lengths)) <= EXACT
    t = next(t for t in plan.tensors if "positions" in t.signature.axes)
    old, new = (load_file(f / "model.safetensors")[t.name] for f in (tiny(variant), tmp_path / "grown"))
    offset = 2 if variant.startswith("opt") or counts_from_padding(variant) else 0
    assert (len(old), len(new)) == ((66, 99) if variant.startswith("opt") else (FIRST, LATER))
    assert torch.equal(new[: len(old)], old)
    real = old[offset:]
    repeated = torch.arange(len(new) - len(old)) % len(real)
    assert torch.equal(new[len(old) :], real[repeated])


@pytest.mark.parametrize("positions", [FIRST + 1, 2 * FIRST, 5 * FIRST])
@pytest.mark.parametrize("variant", ["gpt2", "opt", "roberta-mlm", "bert-mlm"])
def test_a_text_may_be_as_long_as_the_new_table(variant, positions, tiny, tmp_path):
    source = tiny(variant)
    widen(source, {"positions": positions}, tmp_path / "grown")
    config = models.transformers.AutoConfig.from_pretrained(tmp_path / "grown")
    assert config.max_position_embeddings == positions
    longest = positions - 2 * counts_from_padding(variant)
    given = models.inputs(config, longest)
    given.pop("attention_mask", None)
    assert bool(torch.isfinite(asked(tmp_path / "grown", given)).all())
    with pytest.raises((IndexError, RuntimeError)):
        asked(source, given)


@pytest.mark.parametrize("pad", [0, 1, 5])
def test_the_rows_before_robertas_positions_are_no_positions(pad, tmp_path):
    source = models.save("roberta-mlm", tmp_path / "roberta", pad_token_id=pad)
    t = widen(source, {"positions": 70}, tmp_path / "grown").plan.maps["positions"]
    assert t.source[64:].tolist() == [pad + 1 + k for k in range(6)]


@pytest.mark.parametrize("variant", [v for v in LANGUAGE if "positions" in sizes_of(v) and not has_positions(v)])
def test_with_rope_only_the_config_says_how_long_a_text_may_be(variant, tiny, expected, tmp_path):
    rope = VARIANTS[variant].fields.get("rope_parameters", {})
    if rope.get("rope_type") in ("dynamic", "longrope") and "alpha" not in rope:
        with pytest.raises(Refused, match="is not exact") as caught:
            widen(tiny(variant), {"positions": LATER}, tmp_path / "grown")
        assert all((caught.value.where, caught.value.what, caught.value.why, caught.value.fix))
        assert not (tmp_path / "grown").exists()
        return
    plan = widen(tiny(variant), {"positions": LATER}, tmp_path / "grown").plan
    assert all(t.unchanged for t in plan.tensors)
    field = grow.families[VARIANTS[variant].model_type].axes["positions"]
    assert plan.config_changes == {field: (64, LATER)}
    same = (f / "model.safetensors" for f in (tiny(variant), tmp_path / "grown"))
    assert len({tuple((k, v.numpy().tobytes()) for k, v in sorted(load_file(f).items())) for f in same}) == 1
    lengths = (*VARIANTS[variant].lengths, FIRST)
    assert difference(outputs(tiny(variant), lengths), outputs(tmp_path / "grown", lengths)) <= EXACT


def test_why_dynamic_positions_are_refused(tiny, expected, tmp_path):
    """The control: the field alone changes what is computed."""
    folder = Path(shutil.copytree(tiny("llama-dynamic"), tmp_path / "longer"))
    from tiny import edit_json

    edit_json(folder / "config.json", lambda config: config.update(max_position_embeddings=65))
    lengths = VARIANTS["llama-dynamic"].lengths
    assert difference(outputs(tiny("llama-dynamic"), lengths), outputs(folder, lengths)) > 1e-3


# What verification compares


@pytest.mark.parametrize("variant", [v for v in (*LONG, "llama-tied", "opt-projected") if v in LANGUAGE])
def test_verify_compares_the_old_tokens(variant, tiny, tmp_path):
    source = tiny(variant, "float64")
    later = {"positions": LATER} if "positions" in sizes_of(variant) else {}
    widen(source, {"vocab": MORE, **later}, tmp_path / "grown")
    found = grow.verify(source, tmp_path / "grown")
    assert (found.verdict, found.exit_code) == ("lossless", 0), [c for c in found.checks if c.status == "fail"]
    for name in ("loss", "generation", "sampling"):
        check = found.check(name)
        assert check.status == "pass" or "does not generate" in check.reason
        assert check.status == "skip" or "among the old tokens" in check.limit
    assert (found.check("trainability").measured["dead"], found.check("trainability").status) == (0, "pass")


@pytest.mark.parametrize("variant", ["llama", "gpt2", "bert-mlm"])
def test_without_grow_json_too(variant, tiny, tmp_path):
    source = tiny(variant, "float64")
    widen(source, {"vocab": MORE, "positions": LATER}, tmp_path / "grown")
    (tmp_path / "grown" / "grow.json").unlink()
    found = grow.verify(source, tmp_path / "grown")
    assert (found.verdict, found.exit_code) == ("lossless", 0), (found.checks, found.notes)


def test_the_tokenizer_comes_along_unchanged(tmp_path):
    source = bundled_path("small")
    grown = widen(source, {"vocab": 2100}, tmp_path / "grown").path
    for file in source.glob("tokenizer*"):
        assert (grown / file.name).read_bytes() == file.read_bytes()
    found = grow.verify(source, grown, rungs=["certificate", "tokenizer"])
    assert {c.name: c.status for c in found.checks} == {"certificate": "pass", "tokenizer": "pass"}


def test_the_page_of_a_report_shows_the_new_rows(tiny, tmp_path):
    widen(tiny("bert-mlm"), {"vocab": MORE, "positions": LATER, "layers": 3}, tmp_path / "grown")
    page = tmp_path / "page.html"
    grow.verify(tiny("bert-mlm"), tmp_path / "grown", rungs=["certificate", "true_float64"], report=page)
    text = page.read_text(encoding="utf-8")
    assert "vocab: 41 to 60" in text
    assert "positions: 64 to 97" in text


def test_a_golden_file_asks_for_the_old_tokens(tiny, tmp_path):
    source = tiny("llama", "float64")
    grow.record(source, tmp_path / "golden.safetensors")
    widen(source, {"vocab": MORE}, tmp_path / "grown")
    found = grow.verify_against(tmp_path / "golden.safetensors", tmp_path / "grown")
    assert (found.verdict, found.exit_code) == ("lossless", 0), [c for c in found.checks if c.status == "fail"]
