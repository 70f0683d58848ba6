"""A family derived from its stock class alone grows checkpoints of it, and every wrong fact in a family is seen."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

import grow
from grow.architectures import FAMILIES
from grow.architectures.family import Family
from grow.deriving.derivation import Derived, derivation
from grow.deriving.search import PROVED, search
from grow.deriving.tiny_models import TinyModel, stock_classes
from grow.errors import BadInput, GrowError, Refused

KIND = "granite_swa"
"""A type with what the nearest family has and more: sinks, a θ for every layer, scores divided by a field."""


@pytest.fixture(scope="module")
def derived(tmp_path_factory) -> Derived:
    return grow.derive(KIND, tmp_path_factory.mktemp("derived") / "family.py")


@pytest.fixture
def unknown(monkeypatch):
    """The type as one that grow does not know, whether it does or not."""
    monkeypatch.delitem(FAMILIES, KIND, raising=False)


@pytest.fixture(scope="module")
def checkpoint(derived, tmp_path_factory):
    """A checkpoint of the type, drawn by another seed than those that the derivation grew."""
    from grow.deriving.first_family import first_family

    main = first_family(KIND).tinies["ForCausalLM"]
    drawn = TinyModel(KIND, main.cls, main.fields, seed=11)
    folder = tmp_path_factory.mktemp("source") / "source"
    drawn.model().save_pretrained(folder)
    return folder


def test_every_axis_is_proved_and_its_evidence_names_what_other_values_gave(derived):
    assert derived.whole
    assert {axis.axis: axis.status for axis in derived.axes} == dict.fromkeys(
        ("hidden", "head_dim", "heads", "kv_heads", "ffn", "layers", "vocab", "positions"), PROVED
    )
    assert all(axis.off_when_exact < 1e-12 for axis in derived.axes)
    values = {(v.fact, v.value): v for axis in derived.axes for v in axis.values}
    assert all(value.fails or value.idle for value in values.values())
    assert values["kind of the norms", "layernorm"].fails
    assert values["rotation", "pairs"].fails
    assert values["what gains are stored as", "w for 1 + w"].fails
    assert derived.family.attention.rope == "half"
    assert derived.family.attention.scaled == "never"


def test_an_axis_that_grows_by_multiples_alone_is_limited_to_them(derived):
    limits = {refusal.axis: refusal for refusal in derived.family.refusals}
    assert set(limits) == {"head_dim"}  # each layer has a θ of its own, in a list that no growth rewrites
    assert limits["head_dim"].multiples


def test_the_file_holds_the_family(derived):
    space: dict = {}
    exec(derived.text, space)
    assert [value for value in space.values() if isinstance(value, Family)] == [derived.family]
    assert "kind of the norms: layernorm gives" in derived.text
    assert "attention_multiplier: with" in derived.text


def test_a_checkpoint_grows_with_the_file_and_is_certified_with_it(derived, checkpoint, unknown, tmp_path):
    family = tmp_path / "family.py"
    family.write_text(derived.text)
    to = {"hidden_size": 60, "num_attention_heads": 12, "num_key_value_heads": 4, "intermediate_size": 33}
    with pytest.raises(Refused, match="is not a family that grow knows"):
        grow.plan(checkpoint, to)
    grown = grow.widen(checkpoint, {**to, "num_hidden_layers": 4}, out=tmp_path / "grown", family=family)
    assert grown.verification.verdict == "lossless"
    assert KIND not in FAMILIES
    found = grow.verify(checkpoint, tmp_path / "grown", rungs=["certificate"], family=family)
    assert found.verdict == "lossless" or found.verdict == "certified"
    assert grow.plan(checkpoint, to, family=derived.family).new_sizes["hidden"] == 60


def test_without_its_table_a_result_says_that_it_needs_it(derived, checkpoint, unknown, tmp_path):
    family = tmp_path / "mine.py"
    family.write_text(derived.text)
    grow.widen(checkpoint, {"intermediate_size": 33}, out=tmp_path / "grown", family=family, verify=False)
    with pytest.raises(GrowError) as caught:
        grow.verify(checkpoint, tmp_path / "grown", rungs=["certificate"])
    assert "mine.py" in str(caught.value)
    assert "family=" in caught.value.fix


WRONG = {
    "rows": ("vocab -> hidden", "vocab <- hidden"),
    "behind": ("input_layernorm.weight           hidden *", "input_layernorm.weight           hidden *>"),
    "offset": ("hidden *", "hidden 1*"),
    "scaled": ('scaled="never"', 'scaled="always"'),
    "rope": ('rope="half"', 'rope="pairs"'),
    "norm": ('kind="rms"', 'kind="layernorm"'),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_file_with_one_wrong_fact_grows_nothing_that_is_kept(derived, checkpoint, unknown, tmp_path, fault):
    right, wrong = WRONG[fault]
    assert right in derived.text
    file = tmp_path / "wrong.py"
    file.write_text(derived.text.replace(right, wrong))
    to = {"hidden_size": 60, "head_dim": 32}
    with pytest.raises(GrowError):
        grow.widen(checkpoint, to, out=tmp_path / "grown", family=file)
    assert not (tmp_path / "grown").exists()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("NAME = 1", "holds no Family"),
        ("import nothing_of_that_name", "ModuleNotFoundError, line 1"),
        ("x = 1\ny = (", "SyntaxError, line 2"),
        ("raise SystemExit(3)", "SystemExit, line 1"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_holds_no_family_is_one_error(checkpoint, tmp_path, text, what):
    file = tmp_path / "family.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(BadInput) as caught:
        grow.plan(checkpoint, "2x", family=file)
    assert what in caught.value.what
    assert caught.value.where.startswith("family=")


def test_a_fact_that_is_wrong_is_searched_for_until_it_is_right(derived):
    """Two facts of one axis wrong at once."""
    from grow.deriving.first_family import first_family

    tiny = first_family(KIND).tinies["ForCausalLM"]
    right = derived.family
    wrong = dataclasses.replace(right, attention=dataclasses.replace(right.attention, scaled="always", rope="pairs"))
    found, trials = search(wrong, tiny, "head_dim")
    assert trials[-1].exact
    assert found.attention == right.attention


@pytest.mark.parametrize(("kind", "error"), [("nonesuch", BadInput), ("clip", Refused)])
def test_a_type_that_resists_is_one_error(kind, error):
    with pytest.raises(error) as caught:
        grow.derive(kind)
    assert all((caught.value.where, caught.value.what, caught.value.why, caught.value.fix))


def test_what_somebody_wrote_is_not_replaced(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("important = 1\n")
    with pytest.raises(BadInput, match="is not a derived family"):
        grow.derive(KIND, file)
    assert file.read_text() == "important = 1\n"


def test_importing_grow_imports_no_torch_for_it():
    code = "import grow, sys; grow.derive; assert not {'torch', 'transformers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_head_of_its_own_decides_which_class_is_looked_at():
    assert next(iter(stock_classes("bert"))) == "LMHeadModel"
    assert derivation("nonesuch").family is None
