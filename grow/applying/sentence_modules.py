"""The modules of a sentence-transformers folder, read.

    modules.json       [{"path": "", "type": "….Transformer"}, {"path": "1_Pooling", "type": "….Pooling"}, …]
    N_Kind/            config.json and, where a module has weights, model.safetensors

How they grow is told in `grow.applying.sentence_growth`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grow.checkpoint.reader import Checkpoint
from grow.errors import BadInput, Refused
from grow.files.allowed_files import inside
from grow.files.companion_files import module_folder
from grow.files.header import show

MODULES, SETTINGS, ROUTER = "modules.json", "config_sentence_transformers.json", "router_config.json"
WIDTHS = ("word_embedding_dimension", "embedding_dimension")  # before version 5.5 of the library, and since
MODES = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
PLAIN_FIX = "a copy of the folder without modules.json grows as a plain transformer"


@dataclass(frozen=True)
class Module:
    """One entry of modules.json. `routes`: those of a Router, name -> modules."""

    kind: str
    path: str
    config: dict[str, Any] = field(default_factory=dict)
    routes: dict[str, tuple[Module, ...]] = field(default_factory=dict)
    foreign: str = ""


def read_modules(checkpoint: Checkpoint) -> tuple[Module, ...]:
    """The modules of a folder, () when it is no sentence-transformers folder; BadInput when they cannot be understood.

    The first one is the transformer, which lies in the folder itself.
    """
    if MODULES not in checkpoint.companions:
        return ()
    where = show(checkpoint.path / MODULES)
    entries = checkpoint._json(inside(checkpoint.path, MODULES))
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise _malformed(where, "is not a list of modules")
    modules = tuple(_module(checkpoint, where, e.get("type"), e.get("path"), top=k == 0) for k, e in enumerate(entries))
    if modules[0].kind not in ("Transformer", "MLMTransformer") or modules[0].foreign:
        raise refused(checkpoint, modules[0], "the first module must be the transformer of this folder")
    return modules


def _module(checkpoint: Checkpoint, where: str, kind: Any, path: Any, *, top: bool = False, below: str = "") -> Module:
    if not isinstance(kind, str) or not isinstance(path, str):
        raise _malformed(where, "has a module without type or path")
    name, foreign = kind.rpartition(".")[2], "" if kind.startswith("sentence_transformers.") else kind
    if top:
        if path.strip("/"):
            raise Refused(
                where,
                what=f"says that the transformer lies in {show(path)}, and config.json lies beside modules.json",
                why="sentence-transformers would load that one, and this one would grow",
                fix="SentenceTransformer(SRC).save(DST) writes the transformer into the folder itself",
            )
        names = sorted(n for n in checkpoint.companions if n.startswith("sentence_") and n.endswith("_config.json"))
        return Module(name, "", read_object(checkpoint, names[0]) if names else {}, foreign=foreign)
    if not module_folder(path):
        raise _malformed(where, f"names {show(path)} as the folder of a module")
    path = f"{below}{path}"
    if name == "Router" and not foreign:
        return _router(checkpoint, path)
    config = f"{path}/config.json"
    if (checkpoint.path / config).is_dir():
        raise _malformed(show(checkpoint.path / config), "is a folder")
    return Module(
        name, path, read_object(checkpoint, config) if config in checkpoint.companions else {}, foreign=foreign
    )


def _router(checkpoint: Checkpoint, path: str) -> Module:
    file = next((f for n in (ROUTER, "config.json") if (f := f"{path}/{n}") in checkpoint.companions), None)
    where = show(checkpoint.path / (file or path))
    config = read_object(checkpoint, file) if file else {}
    types, structure = config.get("types"), config.get("structure")
    if not isinstance(types, dict) or not isinstance(structure, dict):
        raise _malformed(where, "says nothing of the routes")
    if not all(isinstance(ids, list) and all(isinstance(i, str) for i in ids) for ids in structure.values()):
        raise _malformed(where, "has a route that is not a list of modules")
    if any(str(t).endswith(".Router") for t in types.values()):
        raise _malformed(where, "has a router within a router")
    routes = {
        show(route): tuple(_module(checkpoint, where, types.get(i), i, below=f"{path}/") for i in ids)
        for route, ids in structure.items()
    }
    return Module("Router", path, config, routes)


def read_object(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    document = checkpoint._json(inside(checkpoint.path, name))
    if not isinstance(document, dict):
        raise _malformed(show(checkpoint.path / name), "is not a JSON object")
    return document


def pooling_modes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """How tokens are pooled, in the order in which the library concatenates them."""
    stated = config.get("pooling_mode")
    if isinstance(stated, str):
        return (stated,)
    if isinstance(stated, list) and stated and all(isinstance(mode, str) for mode in stated):
        return tuple(stated)
    flags = [m.removesuffix("_token") for m in MODES if config.get(f"pooling_mode_{m}")]
    known = {"max_tokens": "max", "mean_tokens": "mean", "weightedmean_tokens": "weightedmean"}
    return tuple(known.get(flag, flag) for flag in flags) or ("mean",)


def refused(checkpoint: Checkpoint, module: Module, why: str) -> Refused:
    return Refused(
        show(checkpoint.path / (module.path or MODULES)),
        what=f"the module {show(module.kind)} of sentence-transformers cannot come along",
        why=why,
        fix=PLAIN_FIX,
    )


def _malformed(where: str, what: str) -> BadInput:
    return BadInput(
        where, what=what, why="sentence-transformers could not load it", fix="SentenceTransformer(SRC).save(DST) anew"
    )
