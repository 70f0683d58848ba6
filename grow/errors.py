"""User errors: every mistake ends in one `GrowError` that says where, what, why and how to mend it.

>>> print(GrowError("config.json: hidden_size", what="-64", why="a width is a positive integer", fix="hidden_size=64"))
config.json: hidden_size: -64
  why        a width is a positive integer
  fix        hidden_size=64
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")
"""What a terminal obeys or does not show: controls, marks of direction, line separators; not a newline."""


def plain(text: str) -> str:
    r"""`text` with all that a terminal would obey instead of showing it escaped; newlines stay.

    >>> print(plain("a\x1b[31mb"))
    a\x1b[31mb
    """
    return OBEYED.sub(lambda hit: ascii(hit[0])[1:-1], text)


def one_line(text: str) -> str:
    """`plain` of what stands in a line: a newline in it is escaped too."""
    return plain(text).replace("\n", "\\n")


class GrowError(Exception):
    """The input cannot be used or the request is refused; nothing has been written. Exit code 2.

    where    file, tensor, config field or option that is at fault
    what     what was found, next to what was wanted
    why      the rule or equation behind the refusal
    fix      a command or `field=value` that helps
    details  further `(label, text)` lines, shown between `what` and `why`
    """

    exit_code = 2

    def __init__(
        self,
        where: str,
        *,
        what: str,
        why: str = "",
        fix: str = "",
        details: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.where, self.what, self.why, self.fix = where, what, why, fix
        self.details = tuple(details)
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [one_line(f"{self.where}: {self.what}")]
        for label, text in (*self.details, ("why", self.why), ("fix", self.fix)):
            if text:
                first, *rest = plain(text).rstrip("\n").split("\n")
                lines.append(f"  {one_line(label):<10} {first}")
                lines.extend(f"  {'':<10} {line}" for line in rest)
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        args = dict(what=self.what, why=self.why, fix=self.fix, details=self.details)
        return _rebuild, (type(self), self.where, args)


def _rebuild(cls: type[GrowError], where: str, args: dict[str, Any]) -> GrowError:
    return cls(where, **args)


class BadInput(GrowError):
    """A checkpoint, config, option or folder that is malformed."""


class Refused(GrowError):
    """A well-formed request that cannot be carried out exactly."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` when one of `known` resembles `name`, else the empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else ""


def no_such(kind: str, name: str, known: Iterable[str]) -> str:
    """`no such method`, and `; did you mean 'x'?` when one of `known` resembles `name`."""
    hint = did_you_mean(name, known)
    return f"no such {kind}; {hint}" if hint else f"no such {kind}"


def near_miss(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` when `name` is one of `known` but for a letter or two, else the empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.9)
    return f"did you mean {close[0]!r}?" if close and close[0] != name else ""


def listing(names: Iterable[str], limit: int = 8) -> str:
    """`a, b, c and 4 more`: names for a message, cut so that it stays readable."""
    names = list(names)
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
