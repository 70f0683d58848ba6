"""How messages write an option: as `--split`, as `split=` or as a key of a recipe.

>>> option(split="foo"), option("out"), command("upcycle", experts=8)
('split="foo"', 'out=…', 'grow.upcycle(…, experts=8)')
>>> with spelled(COMMAND_LINE):
...     option(split="foo"), option("out"), command("upcycle", experts=8)
('--split foo', '--out', 'grow upcycle --experts 8')

A check knows the name of an option, in Python's words, and its value. Through which door the caller came, the door
alone knows: it says so once, and whatever is raised or noted behind it asks here. Without a door it is Python.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from grow.errors import BadInput, no_such

SHOWING = ("json",)
"""Options that say how a command shows what it found: a function returns it."""
LARGEST = (1 << 63) - 1
"""The largest whole number that an option may have, unless it says otherwise."""
LONGEST = 80  # characters of a value that is neither a text nor made of such


@dataclass(frozen=True)
class Either:
    """A value of which there are several: --to 3x or 4x."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Pair:
    """A tuple in Python, A:B as a text: (1.25, 250) or 1.25:250. None is off."""

    values: Any

    @property
    def text(self) -> str:
        return "off" if self.values is None else ":".join(map(_words, self.values))


class Spelling(Protocol):
    """How one kind of caller writes."""

    def name(self, name: str) -> str:
        """An option without a value: another `--out`."""

    def options(self, given: Mapping[str, Any]) -> str:
        """Options with their values, as they stand beside each other."""

    def command(self, name: str, given: Mapping[str, Any]) -> str:
        """A command with the options that matter."""


class Python:
    """split="exact", operators={"ffn": "copies"}"""

    def name(self, name: str) -> str:
        return f"{name}=…"

    def options(self, given: Mapping[str, Any]) -> str:
        return ", ".join(f"{name}={_literal(value)}" for name, value in given.items() if name not in SHOWING)

    def command(self, name: str, given: Mapping[str, Any]) -> str:
        return f"grow.{name.replace(' ', '.')}({', '.join(filter(None, ('…', self.options(given))))})"


class CommandLine:
    """--split exact --operator ffn=copies"""

    NAMES: Mapping[str, str] = {"src": "from", "operators": "operator", "rungs": "rung"}
    COMMANDS: Mapping[str, str] = {
        "record": "verify SRC --record FILE",
        "verify_against": "verify GROWN --against FILE",
        "price": "run --dry-run",
        "derive": "families --derive MODEL_TYPE --out FILE",
    }
    """What is called otherwise than in Python."""
    ARGUMENTS: Mapping[str, str] = {"runs": "RUN", "recipe": "RECIPE", "sources": "INPUT"}
    """What stands on the line without the name of an option."""
    REPEATED = ("data",)
    """Options that are given once for each of several values."""

    def name(self, name: str) -> str:
        return self.ARGUMENTS.get(name) or "--" + self.NAMES.get(name, name).replace("_", "-")

    def options(self, given: Mapping[str, Any]) -> str:
        return " ".join(self._one(name, value) for name, value in given.items())

    def command(self, name: str, given: Mapping[str, Any]) -> str:
        return " ".join(filter(None, (f"grow {self.COMMANDS.get(name, name)}", self.options(given))))

    def _one(self, name: str, value: Any) -> str:
        if isinstance(value, bool):
            return self.name(name if value else f"no_{name}")
        if name in self.REPEATED and isinstance(value, (list, tuple)):
            return " ".join(self._one(name, one) for one in value)
        if isinstance(value, Mapping):
            value = ",".join(f"{key}={_words(inner)}" for key, inner in value.items())
        elif isinstance(value, (list, tuple)):
            value = ",".join(map(_words, value))
        return f"{self.name(name)} {_words(value) or repr('')}"


class RecipeKeys:
    """split = "exact", operators = {ffn = "copies"}: the keys of a stage. An option that is not one of them was given
    by whoever runs the recipe, and so was a command that is not one of the `kinds` of stages."""

    NAMES: Mapping[str, str] = {"src": "from", "continue_schedule": "continues"}
    """What is called otherwise than in Python."""

    def __init__(self, keys: Collection[str], kinds: Collection[str], caller: Spelling) -> None:
        self.keys, self.kinds, self.caller = keys, kinds, caller

    def name(self, name: str) -> str:
        key = self.NAMES.get(name, name)
        return f"{key} = …" if key in self.keys else self.caller.name(name)

    def options(self, given: Mapping[str, Any]) -> str:
        named = [(self.NAMES.get(name, name), name, value) for name, value in given.items()]
        return ", ".join(
            f"{key} = {_literal(value, toml=True)}" if key in self.keys else self.caller.options({name: value})
            for key, name, value in named
        )

    def command(self, name: str, given: Mapping[str, Any]) -> str:
        if name not in self.kinds:
            return self.caller.command(name, given)
        stage = {"kind": name, **given}
        return ", ".join(f"{key} = {_literal(value, toml=True)}" for key, value in stage.items())


class OneSize:
    """A command whose target is one size has an option for it: --layers 8 instead of --to num_hidden_layers=8."""

    def __init__(self, option: str, sizes: Collection[str], caller: Spelling) -> None:
        self.option, self.sizes, self.caller = option, sizes, caller

    def name(self, name: str) -> str:
        return self.caller.name(name)

    def options(self, given: Mapping[str, Any]) -> str:
        target = given.get("to")
        if isinstance(target, Mapping) and len(target) == 1 and not set(target) - set(self.sizes):
            given = {self.option if name == "to" else name: value for name, value in given.items()}
            given[self.option] = next(iter(target.values()))
        return self.caller.options(given)

    def command(self, name: str, given: Mapping[str, Any]) -> str:
        return self.caller.command(name, given)


PYTHON, COMMAND_LINE = Python(), CommandLine()
_caller: ContextVar[Spelling] = ContextVar("caller", default=PYTHON)


@contextmanager
def spelled(spelling: Spelling) -> Iterator[None]:
    """Options are spelled so in here."""
    before = _caller.set(spelling)
    try:
        yield
    finally:
        _caller.reset(before)


def caller() -> Spelling:
    """How the options of now were written."""
    return _caller.get()


def here(function: Callable) -> Callable:
    """`function`, which other threads call for the caller of now: a thread alone would know of none."""
    context = copy_context()
    return lambda *args: context.copy().run(function, *args)


def option(name: str = "", /, **given: Any) -> str:
    """An option by its name in Python, or options with their values, as the caller writes them."""
    return caller().name(name) if name else caller().options(given)


def command(name: str, /, **given: Any) -> str:
    """A command of grow with some of its options, as the caller writes it."""
    return caller().command(name, given)


def left_out(*names: str) -> str:
    """`leave rewarm=… and rates=… out`: the fix where options have no place."""
    *first, last = map(option, names)
    return f"leave {' and '.join(filter(None, (', '.join(first), last)))} out"


def check_choice(name: str, value: Any, known: Iterable[str], one: str, many: str = "") -> None:
    """BadInput unless the option is one of `known`, the first of which is the one to begin with."""
    known = tuple(known)
    if not isinstance(value, str) or value not in known:
        raise BadInput(
            option(**{name: value}),
            what=no_such(one, value, known) if isinstance(value, str) else f"no such {one}",
            why=f"{many or one + 's'}: " + ", ".join(known),
            fix=option(**{name: known[0]}),
        )


def check_flags(**given: Any) -> None:
    """BadInput unless each is True or False: a text such as "no" counts as True."""
    for name, value in given.items():
        if not isinstance(value, bool):
            fix = option(**{name: Either((True, False))})
            raise _of_another_type(name, value, "True or False", "any other value would count as one of them", fix)


def check_path(name: str, value: Any, why: str) -> None:
    """BadInput unless it is a text or a path."""
    if not isinstance(value, str) and not (isinstance(value, os.PathLike) and isinstance(os.fspath(value), str)):
        raise _of_another_type(name, value, "a path", why, option(**{name: "PATH"}))


def check_text(name: str, value: Any, why: str, example: str) -> None:
    """BadInput unless it is a text."""
    if not isinstance(value, str):
        raise _of_another_type(name, value, "a text", why, option(**{name: example}))


def check_whole(
    name: str, value: Any, why: str, *, least: int, most: int = LARGEST, example: int | None = None
) -> None:
    """BadInput unless it is a whole number from `least` to `most`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        raise BadInput(
            option(**{name: value}),
            what=f"must be a whole number, {least} or more"
            + (f" and {most} at most" if whole and value > most else ""),
            why=why,
            fix=option(**{name: least if example is None else example}),
        )


def check_functions(**given: Any) -> None:
    """BadInput unless each can be called."""
    for name, value in given.items():
        if not callable(value):
            raise _of_another_type(name, value, "a function", "it is called with what is going on", left_out(name))


def _of_another_type(name: str, value: Any, wanted: str, why: str, fix: str) -> BadInput:
    return BadInput(option(**{name: value}), what=f"must be {wanted}, got {type(value).__name__}", why=why, fix=fix)


def _words(value: Any) -> str:
    """A value on the command line; another than a text is shown as far as it can be."""
    if value is ...:
        return "…"
    if isinstance(value, Either):
        return " or ".join(map(_words, value.values))
    if isinstance(value, Pair):
        return value.text
    if isinstance(value, (str, os.PathLike)):
        return str(value)
    try:
        text = str(value)
    except Exception:  # a number of 5000 digits, or an object that somebody has written
        return f"<{type(value).__name__}>"
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}...{text[-LONGEST // 2 :]}"


def _literal(value: Any, *, toml: bool = False) -> str:
    """A value as a literal of Python, or of TOML."""
    inner = partial(_literal, toml=toml)
    if isinstance(value, Either):
        return " or ".join(map(inner, value.values))
    if isinstance(value, Pair):
        if toml:
            return json.dumps(value.text)
        return "None" if value.values is None else f"({', '.join(map(_words, value.values))})"
    if isinstance(value, (str, os.PathLike)):
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, Mapping):
        pairs = [f"{k} = {inner(v)}" if toml else f"{inner(k)}: {inner(v)}" for k, v in value.items()]
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(inner, value))}]"
    return str(value).lower() if toml and isinstance(value, bool) else _words(value)
