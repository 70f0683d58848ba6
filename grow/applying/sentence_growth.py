"""The growth of a sentence-transformers folder's modules.

`Vectors` says where every old number lies in what the transformer gives. Pooling, Normalize and Dropout hand that on,
LayerNorm where every number is there equally often; the columns of Dense grow like those of any reader, so that its
embeddings are the old ones. What reads the width otherwise is refused by name. One file, for one chain of modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from grow.applying.engine import FileSource, Put, write_items
from grow.applying.sentence_modules import MODULES, SETTINGS, WIDTHS, Module, pooling_modes, read_object, refused
from grow.applying.sentence_vectors import Vectors
from grow.applying.tensor_rows import grow_tensor
from grow.checkpoint.reader import SINGLE, Checkpoint, open_tensors
from grow.errors import BadInput, Refused
from grow.files.header import show
from grow.notation.axes import parse_signature
from grow.notation.dtypes import BITS, ITEMSIZE
from grow.notation.maps import AxisMap, is_power_of_two
from grow.notation.numbers import narrow
from grow.notation.origins import SourcePart
from grow.planning.tensor import TensorPlan
from grow.spelling import option

TOKENS, SENTENCE = "token_embeddings", "sentence_embedding"
READS: Mapping[str, frozenset[str]] = {
    "CNN": frozenset({"hidden"}),
    "Dropout": frozenset(),
    "LSTM": frozenset({"hidden"}),
    "MultiVectorMask": frozenset(),
    "SparseAutoEncoder": frozenset({"hidden"}),
    "SpladePooling": frozenset({"vocab"}),
    "WeightedLayerPooling": frozenset({"hidden", "layers"}),
    "WordWeights": frozenset({"vocab"}),
}
"""Module -> axes that it depends on, for those that come along as they are or not at all; another one may read any."""
ANY = frozenset({"hidden", "layers", "vocab"})


@dataclass
class Followed:
    """What becomes of the modules.

    edits    path of a JSON file -> its new content
    tensors  path of a module -> its tensors, of which some grow
    end      where the old numbers lie in an embedding; None: it is the old one
    """

    edits: dict[str, dict[str, Any]] = field(default_factory=dict)
    tensors: dict[str, tuple[TensorPlan, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    end: Vectors | None = None

    @property
    def rounded(self) -> bool:
        """Whether a weight is multiplied by something else than a power of two."""
        maps = [m for tensors in self.tensors.values() for t in tensors for m in t.maps if m is not None]
        return not all(is_power_of_two(x) for m in maps for x in np.unique(m.write))


def follow(
    checkpoint: Checkpoint, modules: Sequence[Module], start: Vectors | None, changed: frozenset[str]
) -> Followed:
    """What becomes of the modules behind a transformer whose last hidden state is `start`; Refused, by name, where one
    cannot come along.

    changed  axes of the transformer that grow
    """
    if not modules:
        return Followed(end=start)
    task = modules[0].config.get("transformer_task", "feature-extraction")
    if modules[0].kind == "MLMTransformer" or task in ("fill-mask", "sequence-classification"):
        start = None  # it hands on logits
    elif start is not None and (task != "feature-extraction" or _other_output(modules[0].config)):
        raise refused(checkpoint, modules[0], f"it hands on another output than the last hidden state ({show(task)})")
    walk = _Walk(checkpoint, changed, {TOKENS: start})
    walk.along(modules[1:])
    walk.done.end = walk.at.get(SENTENCE, walk.at[TOKENS])
    walk.judge_end()
    return walk.done


def _other_output(config: Mapping[str, Any]) -> bool:
    """Whether a configured transformer hands on something else than its last hidden state."""
    modalities = config.get("modality_config")
    if modalities is None:
        return False
    text = modalities.get("text") if isinstance(modalities, dict) else None
    return not isinstance(text, dict) or text.get("method_output_name") != "last_hidden_state"


class _Walk:
    """Along a chain: `at` says of each feature where its old numbers lie."""

    def __init__(self, checkpoint: Checkpoint, changed: frozenset[str], at: dict[str, Vectors | None]) -> None:
        self.checkpoint, self.changed, self.at = checkpoint, changed, at
        self.done = Followed()

    def along(self, modules: Sequence[Module]) -> None:
        steps: dict[str, Callable[[Module], None]] = {
            "Dense": self._dense,
            "LayerNorm": self._layer_norm,
            "Normalize": self._normalize,
            "Pooling": self._pooling,
            "Router": self._router,
        }
        for module in modules:
            if module.foreign:
                raise refused(self.checkpoint, module, f"{show(module.foreign)} is code of its own")
            steps.get(module.kind, self._as_it_is)(module)

    def judge_end(self) -> None:
        """Refused where the embeddings would not be the old ones to those who compare them."""
        end, folder = self.done.end, self.checkpoint.path
        if end is None:
            return
        if not end.even:
            raise self._uneven(MODULES, end)
        settings = read_object(self.checkpoint, SETTINGS) if SETTINGS in self.checkpoint.companions else {}
        cut = settings.get("truncate_dim")
        if isinstance(cut, int) and not (cut <= end.n and (end.source[:cut] == np.arange(cut)).all()):
            raise Refused(
                show(folder / SETTINGS),
                what=f"cuts embeddings after {cut} numbers, which would not be the old ones",
                why="the old numbers lie elsewhere in the grown embedding",
                fix="a target of the same width",
            )
        scale = 1.0 if isinstance(cut, int) else float(end.squares[0])
        similarity = settings.get("similarity_fn_name") or "cosine"
        known = f"embeddings have {end.m} numbers instead of {end.n}; their cosine similarities are the old ones"
        if similarity != "cosine" and abs(scale - 1) > 1e-12:
            known += f", others ({show(str(similarity))}) are not: scalar products are {scale:g} times the old ones"
        self.done.notes.append(known)

    def _uneven(self, path: str, state: Vectors) -> Refused:
        """Lengths and scalar products would not be a multiple of what they were."""
        return Refused(
            show(self.checkpoint.path / path),
            what="the cosine similarities of the grown embeddings would not be those of the source",
            why="copies of one number hold other shares than those of another"
            if state.shares
            else "some numbers of an embedding would be there more often than others",
            fix=f"{option(split='even')}, whose shares are equal"
            if state.shares
            else f"a whole multiple of the width, or {option(operators={'hidden': 'silent'})}",
        )

    def _pooling(self, module: Module) -> None:
        tokens = self.at[TOKENS]
        modes = pooling_modes(module.config)
        if tokens is None:
            self.at[SENTENCE] = None
            return
        if "max" in modes and tokens.shares:
            raise refused(self.checkpoint, module, "the largest of shares of a number is not a share of the largest")
        self.at[SENTENCE] = tokens.times(len(modes))
        widths = {name: tokens.m for name in WIDTHS if module.config.get(name) == tokens.n}
        self.done.edits[f"{module.path}/config.json"] = {**module.config, **widths}

    def _normalize(self, module: Module) -> None:
        name, to = _features(module.config)
        state = self.at.get(name)
        if state is not None:
            if not state.even:
                raise self._uneven(module.path, state)
            state = replace(state, factor=state.factor / math.sqrt(state.squares[0]))
        self.at[to] = state

    def _layer_norm(self, module: Module) -> None:
        state = self.at.get(SENTENCE)
        if state is None:
            return
        if not state.repeated:
            raise refused(self.checkpoint, module, "mean and variance would be others: it needs whole multiples")
        signatures = {"norm.weight": "hidden *", "norm.bias": "hidden +"}
        self._grow(module, "dimension", state, {name: (text, (state.columns,)) for name, text in signatures.items()})

    def _dense(self, module: Module) -> None:
        name, to = _features(module.config)
        state = self.at.get(name)
        self.at[to] = None
        if state is None:
            return
        reads = ("units -> hidden" if state.shares else "units <- hidden", (None, state.columns))
        grows = {"linear.weight": reads, "residual.weight": reads}
        square = module.config.get("use_residual") is True and state.n == module.config.get("out_features")
        self._grow(module, "in_features", state, grows, identity="residual.weight" if square else "")

    def _grow(
        self,
        module: Module,
        width: str,
        state: Vectors,
        grows: Mapping[str, tuple[str, tuple[AxisMap | None, ...]]],
        identity: str = "",
    ) -> None:
        """identity  a tensor that is not stored, because it is the identity until the width grows"""
        where = show(self.checkpoint.path / module.path)
        if module.config.get(width) != state.n:
            raise BadInput(
                f"{where}/config.json: {width}",
                what=f"must be {state.n}, got {show(repr(module.config.get(width)), 40)}",
                why="the module reads what the modules before it hand on",
                fix=f"{width}={state.n}, or the weights that belong to this config",
            )
        if f"{module.path}/{SINGLE}" not in self.checkpoint.companions:
            raise Refused(
                where,
                what=f"has no {SINGLE}",
                why=f"{module.kind} reads the width that grows, and grow reads safetensors only",
                fix="SentenceTransformer(SRC).save(DST) writes every module as safetensors",
            )
        tensors = []
        with open_tensors(self.checkpoint.path / module.path) as stored:
            for name, info in stored.tensors.items():
                signature, maps = grows.get(name, ("units <-", (None,)))
                fits = name in grows or name.endswith(".bias")
                if not fits or info.dtype not in ITEMSIZE or len(info.shape) != len(maps) or not _fit(info.shape, maps):
                    raise BadInput(
                        f"{where}: {show(name)}",
                        what=f"is {info.dtype} {list(info.shape)}, which a {module.kind} of this config has not",
                        why=f"it must read {state.n} numbers",
                        fix="SentenceTransformer(SRC).save(DST) of a model that loads",
                    )
                tensors.append(_planned(name, signature, maps, info.shape, info.dtype))
        if not any(t.name in grows for t in tensors):
            raise BadInput(
                where, what=f"holds none of {', '.join(grows)}", why=f"it is a {module.kind}", fix="download it again"
            )
        if identity:
            like = next(t for t in tensors if t.name in grows)
            signature, maps = grows[identity]
            tensors.append(_planned(identity, signature, maps, (state.n, state.n), like.old.dtype))
        self.done.tensors[module.path] = tuple(tensors)
        self.done.edits[f"{module.path}/config.json"] = {**module.config, width: state.m}

    def _router(self, module: Module) -> None:
        ends = []
        for route in module.routes.values():
            inner = _Walk(self.checkpoint, self.changed, dict(self.at))
            inner.done = self.done
            inner.along(route)
            ends.append(inner.at)
        widths = [{name: state and state.m for name, state in end.items()} for end in ends]
        if any(width != widths[0] for width in widths):
            raise refused(self.checkpoint, module, "its routes would hand on embeddings of different widths")
        self.at.update(ends[0] if ends else {})

    def _as_it_is(self, module: Module) -> None:
        reads = READS.get(module.kind, ANY)
        width = {"hidden"} if any(state is not None for state in self.at.values()) else set()
        concerned = reads & ((self.changed - {"hidden"}) | width)
        if concerned:
            raise refused(self.checkpoint, module, f"it may depend on what grows: {', '.join(sorted(concerned))}")


def _planned(
    name: str, signature: str, maps: tuple[AxisMap | None, ...], shape: tuple[int, ...], dtype: str
) -> TensorPlan:
    grown = tuple(n if m is None else m.m for m, n in zip(maps, shape))
    rounds = any(m is not None and not m.exact_factors for m in maps)
    wide = "F32" if rounds and BITS[dtype] < BITS["F32"] else dtype
    return TensorPlan(name, name, parse_signature(signature), maps, SourcePart(name, dtype, tuple(shape)), grown, wide)


def _fit(shape: Sequence[int], maps: Sequence[AxisMap | None]) -> bool:
    return all(m is None or m.n == n for m, n in zip(maps, shape))


def _features(config: Mapping[str, Any]) -> tuple[str, str]:
    name = config.get("module_input_name") or SENTENCE
    return str(name), str(config.get("module_output_name") or name)


def write_modules(checkpoint: Checkpoint, followed: Followed, folder: Path, split: str, seed: int) -> None:
    """The weights of the modules that grew, beside the result's own."""
    for path, tensors in followed.tensors.items():
        (folder / path).mkdir(parents=True, exist_ok=True)
        with open_tensors(checkpoint.path / path) as stored:
            source = _WithIdentity(stored)

            def compute(t: TensorPlan, put: Put, source: FileSource = source) -> None:
                grow_tensor(t, source.rows, put, split=split, seed=seed)

            write_items(tensors, compute, folder / path, 1 << 62)


class _WithIdentity(FileSource):
    """The modules' tensors; the one that is not stored is the identity."""

    def rows(self, part: SourcePart, start: int, stop: int) -> np.ndarray:
        if part.tensor in self.checkpoint.tensors:
            return super().rows(part, start, stop)
        return narrow(np.eye(stop - start, part.shape[1], start, dtype=np.float32), part.dtype)
