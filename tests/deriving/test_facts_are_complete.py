"""Every fact of every family is needed: with another value of it some growth of a tiny random model is not exact.

Without that a fact could be wrong, or a table could say too little, and no growth that the suite tries would show it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import transformers
from models import LM, LONG, MLM, ONE_EACH, VARIANTS

from grow.architectures import FAMILIES
from grow.architectures.family import Family
from grow.deriving.other_values import others
from grow.deriving.search import Judge, axes_of, exact_trials
from grow.deriving.tiny_models import TinyModel

SHORT = ("llama", "gemma3_text", "olmo2", "gpt_neox", "bert-mlm")
"""One of each construction that facts tell apart, for every day; `make large` judges all families."""

NOT_JUDGED = {
    "helium": "head_dim is hidden / heads, whatever its field says",
    "gpt_bigcode": "the number of kv heads follows from a switch",
    "falcon": "the number of kv heads follows from a switch",
    "codegen": "its config class knows no padding token",
    "lfm2": "norms over each head undo any scale of q, so a division by the layer's number shows nowhere",
    "xlm-roberta-mlm": "the head of the stock class comes first, and is taken for the table that it shares",
    "camembert-mlm": "the head of the stock class comes first, and is taken for the table that it shares",
    "apertus": "numbers of a whole layer have no other values",
}
"""Families of which `grow.deriving` grows no tiny model, or of which a fact is never seen, and why."""


def tiny_of(variant: str) -> TinyModel:
    kind, auto, fields, _ = VARIANTS[variant]
    config = transformers.AutoConfig.for_model(kind, **fields)
    return TinyModel(kind, getattr(transformers, auto)._model_mapping[type(config)], fields)


def is_judged(variant: str) -> bool:
    """Whether it is a language model: of others no tiny model is made here yet."""
    return VARIANTS[variant].auto in (LM, MLM) and variant not in NOT_JUDGED


def incomplete(family: Family, tiny: TinyModel) -> Iterator[str]:
    """What is wrong: an axis that is neither exact nor refused, a fact of which another value fits too."""
    refused = {refusal.axis for refusal in family.refusals}
    proved = []
    for axis in axes_of(family, tiny):
        found = exact_trials(family, tiny, axis)
        if found and found[-1].exact:
            proved.append(axis)
        elif found and axis not in refused:
            yield f"{axis}: {found[-1].words}"
    judge = Judge(family, [tiny], proved)
    for axis in proved:
        for value in judge.values(axis):
            if not value.fails and not value.idle:
                yield f"{axis}: {value.fact}: {value.value} fits too"


@pytest.mark.parametrize("variant", SHORT)
def test_no_other_value_of_a_fact_fits(variant):
    assert list(incomplete(FAMILIES[VARIANTS[variant].model_type], tiny_of(variant))) == []


@pytest.mark.large
@pytest.mark.parametrize("variant", [variant for variant in dict.fromkeys((*LONG, *ONE_EACH)) if is_judged(variant)])
def test_no_other_value_of_a_fact_of_any_family_fits(variant):
    assert list(incomplete(FAMILIES[VARIANTS[variant].model_type], tiny_of(variant))) == []


@pytest.fixture(scope="module")
def llama() -> TinyModel:
    return tiny_of("llama")


RIGHT = FAMILIES["llama"]
AXES = ("hidden", "head_dim", "heads", "layers")
WRONG = {other.fact: other for axis in AXES for other in others(RIGHT, axis)}
KINDS = (
    "kind of the norms", "what gains are stored as", "place of model.norm.weight", "what mlp.up_proj.weight reads",
    "scores", "rotation", "which projection is v", "outer axis of q, k, v",
)  # fmt: skip


@pytest.mark.parametrize("fact", KINDS)
def test_a_family_with_one_wrong_fact_is_caught(llama, fact):
    assert next(incomplete(WRONG[fact].family, llama), None) is not None


WHOLE_TABLE: dict[str, Callable[[Family], Family]] = {
    "a row that writes ffn and reads hidden, the other way round": lambda f: _line(f, "mlp.up_proj", "hidden <- ffn"),
    "kv heads called heads": lambda f: _line(f, "self_attn.k_proj", "(heads head_dim.k) <- hidden"),
    "another field for ffn": lambda f: replace(f, axes={**f.axes, "ffn": "hidden_size"}),
}


def _line(family: Family, name: str, signature: str) -> Family:
    lines = [
        f"{line.split()[0]}  {signature}" if f"{name}.weight" in line else line for line in family.table.splitlines()
    ]
    return replace(family, table="\n".join(lines))


@pytest.mark.parametrize("fault", WHOLE_TABLE)
def test_a_wrong_row_grows_nothing(llama, fault):
    assert next(incomplete(WHOLE_TABLE[fault](RIGHT), llama), None) is not None
