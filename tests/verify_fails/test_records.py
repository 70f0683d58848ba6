"""A `grow.json` that tells of another growth, and pairs that do not belong together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tiny
from damaged_pairs import ONLY, Pair, certificate, faults

import grow
from grow.errors import BadInput, GrowError

# grow.json


def edit_record(pair: Pair, change: Callable[[dict], object]) -> None:
    tiny.edit_json(pair.grown / "grow.json", change)


def test_a_changed_hash_is_found_though_every_weight_is_right(copied):
    edit_record(copied, lambda r: r["tensors"].update({"model.norm.weight": "0" * 64}))
    assert faults(copied) == ["model.norm.weight: sha256 is not grow.json's: differs in entries that no output reads"]


def test_a_hash_that_is_gone_is_found(copied):
    edit_record(copied, lambda r: r["tensors"].pop("model.norm.weight"))
    assert faults(copied)[0].startswith("model.norm.weight: sha256 ")


def move(space: str, run: int, part: int, value: float) -> Callable[[dict], object]:
    return lambda r: r["plan"]["maps"][space]["runs"][run].__setitem__(part, value)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (move("hidden", 1, 1, 1), "is not a record"),  # a run that points past the axis
        (move("hidden", 0, 2, 2.0), "the law fails on hidden by"),
        (move("hidden", 0, 3, 0.25), "the law fails on hidden by"),
        (move("hidden", 0, 4, 0.5), "the law fails on hidden by"),
        (lambda r: r["plan"]["maps"]["hidden"].update(runs=[[48, -2, 1.0, 0.0, 1.0]]), "the law fails on hidden by 1"),
        (lambda r: r["plan"]["maps"].pop("hidden"), "the map of hidden does not reach the size"),
        (lambda r: r["plan"]["maps"]["ffn"]["runs"].reverse(), "gate_proj.weight"),
        (lambda r: r["plan"]["config_changes"].update(rms_norm_eps=1.0), "rms_norm_eps: no growth changes it"),
        (lambda r: r["plan"]["new_sizes"].update(vocab=31), "config.json: vocab is 29, grow.json says 31"),
    ],
)
def test_a_record_that_tells_of_another_growth_is_found(copied, change, fault):
    edit_record(copied, change)
    if fault == "is not a record":
        with pytest.raises(BadInput, match=fault):
            certificate(copied)
    else:
        assert fault in " ".join(faults(copied))


def test_head_count_changed_in_record_and_config_alike_is_found(copied):
    # every shape fits: only the sizes that grow.json gives tell
    edit_record(copied, lambda r: r["plan"]["config_changes"].update(num_attention_heads=16, head_dim=3))
    tiny.edit_json(copied.grown / "config.json", lambda c: c.update(num_attention_heads=16, head_dim=3))
    assert faults(copied) == [
        "grow.json: config_changes: head_dim: no growth changes it",
        "grow.json: config_changes: num_attention_heads: found 16, wanted 8",
        "config.json: head_dim: found 3, wanted 6",
        "config.json: num_attention_heads: found 16, wanted 8",
        "config.json: head_dim is 3, grow.json says 6",
        "config.json: heads is 16, grow.json says 8",
    ]


MALFORMED = {
    "schema": lambda r: r.update(schema=2),
    "no schema": lambda r: r.pop("schema"),
    "no plan": lambda r: r.pop("plan"),
    "maps a list": lambda r: r["plan"].update(maps=[]),
    "map without runs": lambda r: r["plan"]["maps"]["hidden"].pop("runs"),
    "an unknown space": lambda r: r["plan"]["maps"].update(banana=r["plan"]["maps"]["hidden"]),
    "another n": lambda r: r["plan"]["maps"]["hidden"].update(n=23),
    "runs too short": lambda r: r["plan"]["maps"]["hidden"]["runs"].pop(),
    "a run of length 0": lambda r: r["plan"]["maps"]["hidden"]["runs"].append([0, 0, 1, 1, 1]),
    "a run of length -1": move("hidden", 0, 0, -1),
    "a run of 10^12": move("hidden", 0, 0, 10**12),
    "an axis of 10^12": lambda r: (
        move("hidden", 0, 0, 10**12 - 24)(r), r["plan"]["new_sizes"].update(hidden=10**12)
    ),
    "a source of 10^30": move("hidden", 0, 1, 10**30),
    "an unknown kind": move("hidden", 0, 1, -7),
    "a text for a number": move("hidden", 0, 2, "1"),
    "a run of two": lambda r: r["plan"]["maps"]["hidden"]["runs"].__setitem__(0, [24, 0]),
    "new_sizes without ffn": lambda r: r["plan"]["new_sizes"].pop("ffn"),
    "sizes empty": lambda r: r["plan"].update(sizes={}, new_sizes={}),
    "a negative seed": lambda r: r["plan"].update(seed=-1),
    "an unknown split": lambda r: r["plan"].update(split="banana"),
    "tensors a list": lambda r: r.update(tensors=[]),
    "config_changes a number": lambda r: r["plan"].update(config_changes=3),
    "an unknown family": lambda r: r["source"].update(model_type="banana"),
    "another family": lambda r: r["source"].update(model_type="gpt2"),
    "other sizes": lambda r: r["plan"]["sizes"].update(vocab=30),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_record_is_bad_input(copied, name):
    edit_record(copied, MALFORMED[name])
    with pytest.raises(GrowError) as error:
        certificate(copied)
    assert error.value.exit_code == 2
    assert error.value.why
    assert error.value.fix


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '{"schema": NaN}', '{"a": 1, "a": 2}', "[" * 5000, "\xff"]
)
def test_a_record_that_is_no_json_object_is_bad_input(copied, text):
    (copied.grown / "grow.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match=r"grow\.json"):
        certificate(copied)


# The wrong pair


def test_a_source_of_other_sizes_is_bad_input(copied, tmp_path):
    other = tiny.checkpoint(tmp_path / "other", "llama", vocab_size=31)
    with pytest.raises(BadInput, match="is not the checkpoint that") as error:
        grow.verify(other, copied.grown, rungs=ONLY)
    assert error.value.exit_code == 2


def test_a_source_of_the_same_sizes_and_other_weights_is_different(copied, tmp_path):
    other = tiny.checkpoint(tmp_path / "other", "llama", seed=1)
    found = grow.verify(other, copied.grown, rungs=ONLY)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert found.checks[0].measured["faulty"] == len(copied.plan.tensors)


def test_swapped_arguments_are_told_so(copied):
    with pytest.raises(BadInput) as error:
        grow.verify(copied.grown, copied.source, rungs=ONLY)
    assert error.value.fix == "give the source first, then what grew from it"
    assert error.value.exit_code == 2


def test_a_grown_source_of_another_growth_is_not_taken_for_swapped(copied, tmp_path):
    again = grow.widen(copied.grown, "2x", out=tmp_path / "again", verify=False).path
    (again / "grow.json").unlink()
    assert grow.verify(copied.grown, again, rungs=ONLY).verdict == "unproved"


def test_a_checkpoint_is_not_proved_by_a_certificate_that_could_not_run(copied):
    (copied.grown / "grow.json").unlink()
    found = certificate(copied)
    assert (found.verdict, found.exit_code) == ("unproved", 1)
    assert found.notes == ("no grow.json in the grown checkpoint: no certificate, the outputs decide",)


def test_a_pipe_as_grow_json_does_not_hang(copied):
    import os

    (copied.grown / "grow.json").unlink()
    os.mkfifo(copied.grown / "grow.json")
    with pytest.raises(BadInput, match="no regular file"):
        certificate(copied)
