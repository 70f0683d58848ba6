"""The options of a growth's files: where the result goes, and how source and result are treated."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, fields
from typing import Any

from grow.errors import BadInput
from grow.optimizer.dual_rule import POLICIES
from grow.spelling import check_choice, check_flags, check_path, check_text, check_whole, option

SHARD_SIZE = "5GB"


@dataclass(frozen=True)
class FileOptions:
    """Each is explained in `grow.widen`. BadInput names the first that is not valid."""

    out: str | os.PathLike | None = None
    state: str | None = None
    trust_checkpoint: bool = False
    max_shard_size: str | int = SHARD_SIZE
    overwrite: bool = False
    verify: bool = True
    world: int | None = None
    revision: str | None = None
    assume_harmless: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.out is not None:
            check_path("out", self.out, "the result is a folder")
        if self.state is not None:
            check_choice("state", self.state, POLICIES, "policy", "policies")
        check_flags(trust_checkpoint=self.trust_checkpoint, overwrite=self.overwrite, verify=self.verify)
        parse_size(self.max_shard_size)
        if self.world is not None:
            check_whole("world", self.world, "it is a number of processes", least=1)
        if self.revision is not None:
            check_text("revision", self.revision, "it is a branch, a tag or a commit of a hub id", "main")
        check_names("assume_harmless", self.assume_harmless)

    @classmethod
    def among(cls, given: Mapping[str, Any]) -> FileOptions:
        """Those that are among `given`, such as the parameters of a function that has them and others beside."""
        return cls(**{f.name: given[f.name] for f in fields(cls) if f.name in given})

    @property
    def shard(self) -> int:
        """Bytes of a file, at most."""
        return parse_size(self.max_shard_size)


def parse_size(size: Any) -> int:
    """Bytes of "5GB", "500MB", "1.5GiB" or a number."""
    units = {
        "": 1,
        "KB": 10**3,
        "MB": 10**6,
        "GB": 10**9,
        "TB": 10**12,
        "KIB": 2**10,
        "MIB": 2**20,
        "GIB": 2**30,
        "TIB": 2**40,
    }
    try:
        parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(size))
    except ValueError:  # a number of thousands of digits
        parts = None
    if not parts or parts[2].upper() not in units or not 1 <= float(parts[1]) * units[parts[2].upper()] < 1 << 63:
        raise BadInput(
            option(max_shard_size=size),
            what="is not a size",
            why="a size is a number with KB, MB, GB, KiB, MiB or GiB",
            fix=option(max_shard_size=SHARD_SIZE),
        )
    return int(float(parts[1]) * units[parts[2].upper()])


def check_names(name: str, value: Any) -> None:
    """BadInput unless the option is a list of texts: the letters of one text would count as such."""
    several = isinstance(value, (Sequence, Set)) and not isinstance(value, (str, bytes))
    if not several or not all(isinstance(item, str) for item in value):
        raise BadInput(
            option(**{name: value}),
            what="must be a list of texts",
            why="each of them is a name",
            fix=option(**{name: [value if isinstance(value, str) else "name"]}),
        )
