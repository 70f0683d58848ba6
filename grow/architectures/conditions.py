"""Conditions in a family's table: words that must all hold, parsed with the table.

always · never · optional     optional says of a row that some checkpoints store it, and nothing of the config
sparse · dense                the layer has experts, or has none
first                         the layer is the first of its stack
apart                         the file has the head and the table that it may be one with, both
attention_bias                this config field is true
a==b · a!=b                   two config fields are equal, or are not
rope:longrope                 the rotation of some layers is of this type
a=='gelu' · a!=1 · a==none    a config field has this value, or has another one; of a list with one entry per layer
                              it is asked what the layer's entry is
ForCausalLM|ForMaskedLM       the name of the model class ends in one of these
not WORD                      the word does not hold
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from grow.errors import did_you_mean
from grow.notation.rope_parameters import REQUIRED

CONSTANTS = {"always": True, "optional": True, "never": False}
NONE = "none"
SPARSE, DENSE, FIRST, APART = "sparse", "dense", "first", "apart"
ROPE = "rope:"
HEADS = (
    *("ForCausalLM", "ForMaskedLM", "ForPreTraining", "LMHeadModel", "ForSequenceClassification"),
    *("ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice"),
    *("ForImageClassification", "ForImageClassificationWithTeacher", "ForMaskedImageModeling"),
    *("ForAudioClassification", "ForVideoClassification", "ModelWithProjection"),
    *("ForConditionalGeneration", "EncoderModel"),
)
"""What the names of stock model classes with a head end in."""

_COMPARED = re.compile(r"(?P<a>[\w.]+)(?P<sign>[=!]=)(?:(?P<b>[a-z_]\w*)|'(?P<text>[^']*)'|(?P<number>-?[\d.]+))")


class Facts(Protocol):
    """What a condition asks of a model."""

    @property
    def class_name(self) -> str: ...

    def get(self, name: str) -> Any: ...

    @property
    def apart(self) -> bool: ...

    def sparse(self, layer: int) -> bool: ...

    @property
    def rope_types(self) -> Collection[str]: ...

    @property
    def layer_entries(self) -> Mapping[str, Sequence[Any]]: ...


@dataclass(frozen=True)
class Constant:
    value: bool

    def holds(self, facts: Facts, layer: int | None) -> bool:
        return self.value


@dataclass(frozen=True)
class IsTrue:
    field: str

    def holds(self, facts: Facts, layer: int | None) -> bool:
        return bool(facts.get(self.field))


@dataclass(frozen=True)
class Compared:
    a: str
    b: str
    equal: bool

    def holds(self, facts: Facts, layer: int | None) -> bool:
        return bool(facts.get(self.a) == facts.get(self.b)) == self.equal


@dataclass(frozen=True)
class HasValue:
    field: str
    value: str | float | None
    equal: bool

    def holds(self, facts: Facts, layer: int | None) -> bool:
        return bool(facts.get(self.field) == self.value) == self.equal


@dataclass(frozen=True)
class HasEntry:
    """Whether a layer's entry in a list has this value; without a layer nothing is decided."""

    field: str
    value: str | float | None
    equal: bool

    def holds(self, facts: Facts, layer: int | None) -> bool | None:
        return None if layer is None else (facts.layer_entries[self.field][layer] == self.value) == self.equal


@dataclass(frozen=True)
class OfClass:
    endings: tuple[str, ...]

    def holds(self, facts: Facts, layer: int | None) -> bool:
        return facts.class_name.endswith(self.endings)


@dataclass(frozen=True)
class HasExperts:
    """Whether a layer has experts; without a layer nothing is decided, as some layers may have them and others not."""

    def holds(self, facts: Facts, layer: int | None) -> bool | None:
        return None if layer is None else facts.sparse(layer)


@dataclass(frozen=True)
class Turns:
    kind: str

    def holds(self, facts: Facts, layer: int | None) -> bool:
        return self.kind in facts.rope_types


@dataclass(frozen=True)
class IsFirst:
    """Whether a layer is the first of its stack; without a layer it may be."""

    def holds(self, facts: Facts, layer: int | None) -> bool | None:
        return None if layer is None else layer == 0


@dataclass(frozen=True)
class IsApart:
    def holds(self, facts: Facts, layer: int | None) -> bool:
        return facts.apart


Word = Turns | Constant | IsTrue | Compared | HasValue | HasEntry | OfClass | HasExperts | IsFirst | IsApart
ASKED: dict[str, Word] = {SPARSE: HasExperts(), FIRST: IsFirst(), APART: IsApart()}


@dataclass(frozen=True)
class Condition:
    """Words, and for each whether it must hold (True) or must not (False)."""

    words: tuple[tuple[Word, bool], ...]

    def holds(self, facts: Facts, layer: int | None = None) -> bool:
        """Whether all words are as wanted; without a layer it may be any layer."""
        return all(word.holds(facts, layer) in (wanted, None) for word, wanted in self.words)

    @property
    def lacks_first(self) -> bool:
        """Whether it holds for no first layer, and may for the rest."""
        return any(isinstance(word, IsFirst) and not wanted for word, wanted in self.words)

    @property
    def classes(self) -> tuple[str, ...]:
        """The endings of class names that it tells apart."""
        return tuple(ending for word, _ in self.words if isinstance(word, OfClass) for ending in word.endings)


def parse_condition(text: str, fields: Collection[str], lists: Collection[str] = ()) -> Condition:
    """The condition that a table's text says; ValueError, quoting it, for a word that means nothing.

    fields  the config fields that the family knows
    lists   those with one entry per layer
    """
    return Condition(tuple(_parsed(text, fields, lists)))


def _parsed(text: str, fields: Collection[str], lists: Collection[str]) -> Iterator[tuple[Word, bool]]:
    words = iter(text.split())
    for word in words:
        wanted = word != "not"
        if not wanted and (word := next(words, "")) in ("", "not"):
            raise ValueError(f"condition {text!r}: 'not' must stand in front of a word")
        if word == DENSE:
            yield HasExperts(), not wanted
        else:
            yield _word(word, text, fields, lists), wanted


def _word(word: str, text: str, fields: Collection[str], lists: Collection[str]) -> Word:
    if word in CONSTANTS:
        return Constant(CONSTANTS[word])
    if word in ASKED:
        return ASKED[word]
    if compared := _COMPARED.fullmatch(word):
        a, b, equal = compared["a"], compared["b"], compared["sign"] == "=="
        for name in (a, *((b,) if b and b != NONE else ())):
            _check(name, text, fields, "a config field that the family knows")
        if b and b != NONE:
            return Compared(a, b, equal)
        value = compared["text"] if compared["number"] is None else float(compared["number"])
        return HasEntry(a, value, equal) if a in lists else HasValue(a, value, equal)
    if word[0].isupper():
        endings = tuple(word.split("|"))
        for ending in endings:
            _check(ending, text, HEADS, "what the name of a model class ends in")
        return OfClass(endings)
    if word.startswith(ROPE):
        _check(word.removeprefix(ROPE), text, REQUIRED, "a type of rotation")
        return Turns(word.removeprefix(ROPE))
    _check(word, text, fields, "a config field that the family knows")
    return IsTrue(word)


def _check(name: str, text: str, known: Collection[str], kind: str) -> None:
    if name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(f"condition {text!r}: {name!r} is not {kind}" + (f"; {hint}" if hint else ""))
