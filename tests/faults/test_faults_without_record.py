"""Without `grow.json` the outputs decide: no damaged tensor goes unseen, but those in `INVISIBLE`, with the reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from damaged_checkpoints import BOTH, ROWS, STORED_IN, copy, damaged, forget, reversed_

import grow
from grow.checkpoint.reader import open_checkpoint
from grow.verification.weights.inferred_growth import _followed, most_likely_growth

# Without grow.json: the outputs decide


SOFTMAX = "adds one number to all scores of a query, which softmax does not see"
INVISIBLE = {
    ("opt", "model.decoder.layers.1.self_attn.k_proj.bias"): SOFTMAX,
    ("bert-mlm", "bert.encoder.layer.1.attention.self.key.bias"): SOFTMAX,
    ("roberta-mlm", "roberta.encoder.layer.1.attention.self.key.bias"): SOFTMAX,
    ("distilbert-mlm", "distilbert.transformer.layer.1.attention.k_lin.bias"): SOFTMAX,
}
"""With RoPE the score q·R(b) depends on the distance, so a key bias of those families is visible."""

# Modules that show a tensor's damage in its place: stock code names or calls them otherwise.
ELSEWHERE = {
    "embed_out.weight": "lm_head",
    "cls.predictions.bias": "cls.predictions.decoder",
    "lm_head.bias": "lm_head.decoder",
}
# A norm of heads gives an output per head, and there are more heads: the damage shows where they are read.
READERS = {"self_attn.q_norm.weight": "self_attn.o_proj", "self_attn.k_norm.weight": "self_attn.o_proj"}


def home(tensor: str) -> str:
    """The module that computes with a tensor."""
    return ELSEWHERE.get(tensor, tensor.rpartition(".")[0])


def readers(tensor: str) -> str:
    return next((module for end, module in READERS.items() if tensor.endswith(end)), home(tensor))


@pytest.fixture(scope="module")
def spare(made, tmp_path_factory) -> Callable[..., Path]:
    """A copy of a checkpoint, to be damaged and repaired; of a grown one without its grow.json."""
    found: dict[tuple, Path] = {}

    def get(variant: str, to: str = "") -> Path:
        if (variant, to) not in found:
            folder = tmp_path_factory.mktemp("spare") / variant
            found[variant, to] = Path(shutil.copytree(made(variant, STORED_IN[variant], to), folder))
            if to:
                forget(found[variant, to])
        return found[variant, to]

    return get


@pytest.mark.parametrize(("variant", "tensor"), ROWS)
def test_in_a_copy_of_the_source_every_row_is_seen_and_named_or_has_a_reason(variant, tensor, made, spare):
    source, folder = made(variant, STORED_IN[variant]), spare(variant)
    with damaged(folder, {tensor: reversed_}):
        found = grow.verify(source, folder, rungs=BOTH)
    if (variant, tensor) in INVISIBLE:
        assert (found.verdict, found.exit_code) == ("lossless", 0)
        assert any(note.startswith(f"{tensor}[0] and") and INVISIBLE[variant, tensor] in note for note in found.notes)
        return
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert {check.name: check.status for check in found.checks} == {"certificate": "skip", "true_float64": "fail"}
    assert found.first["tensor"] == tensor
    assert found.first["module"].endswith(home(tensor))


@pytest.mark.parametrize(("variant", "tensor"), ROWS)
def test_in_a_growth_without_grow_json_every_row_is_seen_and_named(variant, tensor, made, spare):
    source, folder = made(variant, STORED_IN[variant]), spare(variant, "2x")
    with damaged(folder, {tensor: reversed_}):
        found = grow.verify(source, folder, rungs=BOTH)
    if (variant, tensor) in INVISIBLE:
        assert (found.verdict, found.exit_code) == ("lossless", 0)
        return
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert found.first["tensor"] == tensor  # all the others say what its numbers should be
    assert found.first["module"].endswith((home(tensor), readers(tensor)))
    assert "as in most other tensors" in found.first["rule"]


def test_a_growth_that_cannot_explain_as_much_as_another_is_left(made, spare):
    """It counts for nothing; one that explains just as much counts in full, whatever the other explains."""
    source, folder = made("llama-biases", STORED_IN["llama-biases"]), spare("llama-biases", "2x")
    with damaged(folder, {"model.norm.weight": reversed_}), open_checkpoint(source) as a, open_checkpoint(folder) as b:
        found = most_likely_growth(a, b)
        share = (len(found.tensors) - 1) / len(found.tensors)
        assert [_followed(found, least) for least in (0, share, share + 1e-9)] == [share, share, 0]


@pytest.mark.parametrize("tensor", ["cls.seq_relationship.weight", "bert.pooler.dense.bias"])
def test_a_tensor_that_the_class_leaves_out_is_told_of_and_no_difference(tensor, made, tmp_path):
    source = Path(shutil.copytree(made("bert-pretraining"), tmp_path / "source"))
    tiny.edit_json(source / "config.json", lambda config: config.update(architectures=["BertForMaskedLM"]))
    folder = copy(source, "damaged")
    tiny.edit_tensor(folder, tensor, reversed_)
    found = grow.verify(source, folder, rungs=BOTH)
    assert found.verdict in ("lossless", "unproved")
    assert any(note.startswith(f"{tensor}[") for note in found.notes)


def test_every_invisible_row_is_among_the_rows_that_are_tried():
    assert set(INVISIBLE) <= set(ROWS)


def test_the_key_part_of_a_fused_bias_is_told(made, tmp_path):
    source = made("gpt2")
    folder = Path(shutil.copytree(source, tmp_path / "damaged"))
    tiny.edit_tensor(folder, "transformer.h.1.attn.c_attn.bias", lambda raw: reversed_(raw[12:24]))
    found = grow.verify(source, folder, rungs=BOTH)
    assert any(note.startswith("transformer.h.1.attn.c_attn.bias[12] and 11 more") for note in found.notes)


def test_a_unit_that_no_probe_switches_on_proves_nothing(made, tmp_path):
    folder = Path(shutil.copytree(made("opt"), tmp_path / "source"))
    tiny.edit_tensor(folder, "model.decoder.layers.1.fc1.bias", lambda raw: raw.__setitem__(3, -300))
    other = copy(folder, "damaged")
    tiny.edit_tensor(other, "model.decoder.layers.1.fc1.weight", lambda raw: reversed_(raw[3]))
    found = grow.verify(folder, other, rungs=BOTH)
    assert found.verdict == "unproved"
    assert any(note.startswith("model.decoder.layers.1.fc1.weight[3, 0]") for note in found.notes)


@pytest.mark.parametrize(
    ("variant", "to", "tensor"),
    [
        ("llama", "2x", "model.layers.1.mlp.down_proj.weight"),
        ("llama", "hidden=24", "lm_head.weight"),
        ("gpt2", "hidden=20,heads=5", "transformer.h.1.attn.c_attn.weight"),
        ("gpt_neox", "2x", "embed_out.weight"),
        ("opt-post", "2x", "model.decoder.embed_tokens.weight"),
        ("bert-mlm", "2x", "bert.encoder.layer.1.output.dense.weight"),
        ("distilbert-mlm", "2x", "distilbert.transformer.layer.1.ffn.lin2.bias"),
    ],
)
def test_with_grow_json_the_models_part_at_the_damaged_module(variant, to, tensor, made, tmp_path):
    folder = Path(shutil.copytree(made(variant, to=to), tmp_path / "damaged"))
    tiny.edit_tensor(folder, tensor, reversed_)
    found = grow.verify(made(variant), folder, rungs=BOTH)
    assert (found.verdict, found.first["tensor"]) == ("different", tensor)
    assert found.first["module"].endswith(home(tensor))
