"""A source and a grown checkpoint whose models are loaded once, late, and only where they fit.

with Pair("small", "grown", seed=0) as pair:
    difference(pair.outputs("source", "float64"), pair.outputs("grown", "float64"))
"""

from __future__ import annotations

import collections
import inspect
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import transformers

from grow.checkpoint.pickled import open_readable
from grow.errors import BadInput, GrowError, listing
from grow.models.true_float64 import DTYPES, LOCAL, Loaded, Unloadable, load, model_class, quiet
from grow.models.upcast import worth_it
from grow.notation.dtypes import NAMES
from grow.verification.outputs.compare import CannotRun, Outputs, run
from grow.verification.outputs.free_memory import available_memory, counts_mapped_files, give_back
from grow.verification.outputs.stored_outputs import ELEMENTS, Held
from grow.verification.probes import LENGTH, Probe, Probes, probes

Side = Literal["source", "grown"]

_BYTES = {name: dtype.itemsize for name, dtype in DTYPES.items()}

# Measured peak of loading 86 M parameters: 1.10 x the model in float64, 1.20 x in float32 (the tensors in
# flight in transformers' loader threads).
HEADROOM = 1.25
LOGITS = 5  # x the logits of the largest probe: what the head gives, copies of it, those of two models side by side
COMPARED = 24  # x a slice of two outputs in float64: what a comparison computes from it, and what the allocator keeps
STATES = 12  # x one layer of hidden states in a forward pass: queries, keys, values, both branches and their norms
SCORES = 3  # x the scores of attention: before and after the softmax, and the mask
STREAMED = 8  # tokens of every row when weights come from disk: its passes are paid in reading and widening them
WORKING = 4  # x the largest tensor: stored, widened, and what a module computes from it


class NoRoom(Exception):
    """The models would not fit into the memory that is free; the message says what is needed and what there
    is."""


class _Need(NamedTuple):
    """Bytes: of weights in memory, of files that weights stay in, and of what a forward pass computes."""

    weights: int
    files: int
    work: int

    @property
    def total(self) -> int:
        return sum(self)

    def __str__(self) -> str:
        parts = ", ".join(f"{n / 1e9:.1f} of {name}" for name, n in zip(("weights", "files", "a pass"), self) if n)
        return f"{self.total / 1e9:.1f} GB ({parts.replace('of a', 'for a')})"


class Differs(Exception):
    """The grown checkpoint fails before there is an output to compare; the message says how."""


def shapes(folder: str | Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensor name -> (dtype as in `DTYPES`, shape), from the headers of the checkpoint's weight files."""
    with open_readable(folder) as checkpoint:
        infos = checkpoint.tensors.values()
        return {info.name: (NAMES.get(info.dtype, info.dtype), info.shape) for info in infos}


def stored_dtype(folder: str | Path) -> str:
    """The float dtype that holds most elements of the checkpoint."""
    sizes: collections.Counter[str] = collections.Counter()
    for dtype, shape in shapes(folder).values():
        if dtype in DTYPES:
            sizes[dtype] += math.prod(shape)
    if not sizes:
        raise Unloadable(Path(folder), what="no tensor is float64, float32, float16 or bfloat16")
    return sizes.most_common(1)[0][0]


def stock_dtype(folder: str | Path) -> str:
    """The dtype in which a plain `from_pretrained` runs a checkpoint: that of config.json, else the stored one."""
    with open_readable(folder) as checkpoint:
        named = checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")
    named = named.removeprefix("torch.") if isinstance(named, str) else named
    return named if isinstance(named, str) and named in DTYPES else stored_dtype(folder)


class Pair:
    """Models and outputs of both checkpoints, cached by dtype and attention kernel; `close` frees them.

    The probes belong to the source. A model that does not fit beside the cached ones evicts them (outputs
    stay); one that does not fit at all raises `NoRoom`. Mistakes in the source raise `BadInput`, in the grown
    one `Differs`.
    """

    def __init__(self, source: str | Path, grown: str | Path, *, seed: int = 0, length: int = LENGTH) -> None:
        self.folders: dict[Side, Path] = {"source": Path(source), "grown": Path(grown)}
        self._streaming: bool | None = None
        self._whole: bool | None = None
        self.seed, self.length = seed, length
        self._models: dict[tuple, Loaded] = {}
        self._outputs: dict[tuple, Held] = {}
        self._hidden: dict[tuple, Held] = {}
        self._stock: dict[tuple, str | None] = {}  # the attention kernel with which a model was loaded
        self._configs: dict[Side, Any] = {}
        self._headers: dict[Side, dict[str, tuple[str, tuple[int, ...]]]] = {}
        self._drawn: Probes | None = None
        self._probes: Probes | None = None
        self.refused: dict[str, str] = {}
        """Probes that the source's class cannot take, and why."""
        self.memo: dict[tuple, Any] = {}
        """What checks measured once for several of them; goes with the outputs."""

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free every model and output; the pair can be used again and then loads anew."""
        self._outputs.clear()
        self._hidden.clear()
        self._configs.clear()
        self._headers.clear()
        self.memo.clear()
        self.release()

    def against(self, grown: str | Path) -> Pair:
        """A pair of the same source with another checkpoint; the source's outputs are not computed again."""
        other = Pair(self.folders["source"], grown, seed=self.seed, length=self.length)
        other._probes = self._probes
        other._outputs = {key: value for key, value in self._outputs.items() if key[0] == "source"}
        other._hidden = {key: value for key, value in self._hidden.items() if key[0] == "source"}
        return other

    def release(self) -> None:
        """Free the models and keep their outputs."""
        self._models.clear()
        give_back()

    @property
    def probes(self) -> Probes:
        """The source's probes; (re)made from `seed`, so two pairs of one source ask the same questions."""
        if self._probes is None:
            drawn = self._all_probes()
            self._probes = drawn.merged(STREAMED) if self.streaming else drawn
        return self._probes

    def _all_probes(self) -> Probes:
        if self._probes is not None:
            return self._probes
        if self._drawn is None:
            folder = self.folders["source"]
            self._drawn = probes(self.config("source"), model_class(folder), folder, seed=self.seed, length=self.length)
        return self._drawn

    @property
    def streaming(self) -> bool:
        """Whether a model of the pair does not fit in float64, so that its weights are read from disk module by module
        in every forward pass. Passes are then few: one batch with a few tokens of every probe.
        """
        if self._streaming is None:
            free = available_memory()
            asked = self._all_probes()
            self._streaming = free is not None and any(
                self._needs(side, "float64", asked).total > free for side in self.folders
            )
        return self._streaming

    @property
    def whole(self) -> bool:
        """Whether each model alone fits with every weight in float64; else large weights stay as they are stored, and
        every forward pass widens them anew."""
        if self._whole is None:
            free = available_memory()
            asked = self._all_probes()
            self._whole = free is None or all(
                self._needs(side, "float64", asked, whole=True).total <= free for side in self.folders
            )
        return self._whole

    @property
    def together(self) -> bool:
        """Whether both models fit into memory in float64; else asking one, then the other, saves loading them anew."""
        free = available_memory()
        return free is None or sum(self._needs(side, "float64", self.probes).total for side in self.folders) <= free

    def _needs(self, side: Side, dtype: str, asked: Probes, copies: int = 1, whole: bool = False) -> _Need:
        """What one more model takes: `copies` x its weights, the loader, and a forward pass on the largest probe.

        whole  every weight in `dtype`; else those that float64 leaves as they are stored count as that
        """
        # weights that are changed are there as a whole
        whole = whole or copies > 1 or dtype != "float64" or self.whole
        memory, files = 0, 0
        for kind, shape in self._shapes(side).values():
            stored = math.prod(shape) * _BYTES.get(kind, 8)
            lazy = not whole and kind in DTYPES and worth_it(shape, DTYPES[kind])
            memory += 0 if lazy else math.prod(shape) * _BYTES[dtype]
            files += stored if lazy or counts_mapped_files() else 0
        return _Need(int(memory * (copies - 1 + HEADROOM)), files, self._working(side, dtype, asked))

    def _working(self, side: Side, dtype: str, asked: Probes) -> int:
        """Bytes of a forward pass beside the weights, on the probe that takes most, and of comparing what it gives:
        logits, hidden states of all layers, attention scores. Outputs that were computed before lie on disk."""
        config = self._text_config(side)
        hidden, layers, heads = (
            getattr(config, name, None) or 1 for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")
        )
        sizes = (hidden, layers, heads) if all(isinstance(n, int) for n in (hidden, layers, heads)) else (1, 1, 1)

        def of(probe: Probe) -> int:
            tokens, length = probe.counted.numel(), probe.counted.shape[-1]
            per_token = LOGITS * self._vocab(side) + (sizes[1] + STATES) * sizes[0] + SCORES * sizes[2] * length
            slices = COMPARED * min(ELEMENTS, tokens * max(self._vocab(side), sizes[0])) * _BYTES["float64"]
            # narrow dtypes are widened in norms, softmax and rope
            return tokens * per_token * max(4, _BYTES[dtype]) + slices

        return max(of(probe) for probe in asked)

    def config(self, side: Side) -> Any:
        """The stock config of this side, read once; do not change it."""
        if side not in self._configs:
            folder = self.folders[side]
            try:
                with quiet():
                    self._configs[side] = transformers.AutoConfig.from_pretrained(folder, **LOCAL)
            except Exception as error:  # strict configs, JSON and OS errors: one meaning
                raise Unloadable(folder, what="config.json is refused by transformers", why=str(error)) from error
        return self._configs[side]

    @property
    def more_tokens(self) -> bool:
        """Whether the grown model has a larger vocabulary."""
        return self._vocab("grown") > self._vocab("source")

    def accepts(self, side: Side, argument: str) -> bool:
        """Whether the forward pass of this side's class takes `argument`."""
        return argument in inspect.signature(model_class(self.folders[side]).forward).parameters  # type: ignore[attr-defined]

    def class_name(self, side: Side) -> str:
        return model_class(self.folders[side]).__name__

    def can_generate(self, side: Side) -> bool:
        return bool(model_class(self.folders[side]).can_generate())  # type: ignore[attr-defined]

    def supports(self, side: Side, attention: str) -> bool:
        """Whether this side's class has the attention kernel."""
        return bool(getattr(model_class(self.folders[side]), f"_supports_{attention}", False))

    def _vocab(self, side: Side) -> int:
        return getattr(self._text_config(side), "vocab_size", 0) or 0

    def _text_config(self, side: Side) -> Any:
        try:
            return self.config(side).get_text_config()
        except ValueError:  # several text models
            return None

    def _shapes(self, side: Side) -> dict[str, tuple[str, tuple[int, ...]]]:
        if side not in self._headers:
            try:
                self._headers[side] = shapes(self.folders[side])
            except GrowError as error:
                if side == "grown":
                    raise Differs(str(error)) from error
                raise
        return self._headers[side]

    def elements(self, side: Side) -> int:
        """Numbers stored in the files of this side."""
        return sum(math.prod(shape) for _, shape in self._shapes(side).values())

    def room(self, side: Side, dtype: str, copies: int = 1, *, whole: bool = False) -> None:
        """Make sure that one more model fits: `copies` x its weights, the loader and a forward pass. Raises `NoRoom`.

        whole  nothing stays as it is stored
        """
        need = self._needs(side, dtype, self.probes, copies, whole)
        free = available_memory()
        if free is not None and need.total > free and self._models:
            self.release()
            free = available_memory()
        if free is not None and need.total > free:
            raise NoRoom(f"{self.folders[side]} in {dtype} needs {need}, {free / 1e9:.1f} GB are free")

    def load(self, side: Side, dtype: str, *, copies: int = 1, stream: bool = False) -> Any:
        """A model of this side that is the caller's own: not cached, free to be changed; in memory, unless `stream`
        allows its weights to stay on disk, or as they are stored.

        copies  how many times the caller needs room for its weights
        """
        if not stream:
            self.room(side, dtype, copies, whole=True)
        return self._load(side, dtype, None, lazy=stream).model

    def model(self, side: Side, dtype: str, attention: str | None = None) -> Any:
        """The cached model of this side; do not change its weights. Of two kernels one model is held, and switched."""
        base, key = (side, dtype, None), (side, dtype, attention)
        if key in self._models and attention is not None:
            return self._models[key].model
        if base not in self._models:
            loaded = self._load(side, dtype, None)
            self._models[base] = loaded
            self._stock[base] = getattr(loaded.model.config, "_attn_implementation", None)
        model = self._models[base].model
        if attention is None:
            _attend(model, self._stock[base])
        elif not _attend(model, attention):
            self._models[key] = self._load(side, dtype, attention)
            model = self._models[key].model
        return model

    def outputs(self, side: Side, dtype: str, attention: str | None = None, *, one_by_one: bool = False) -> Held:
        """What `compare.run` returns for this side on the probes, cached."""
        key = (side, dtype, attention, one_by_one)
        if key not in self._outputs:
            model = self.model(side, dtype, attention)
            if one_by_one:  # a probe of one row is that already
                several = [probe for probe in self.probes if len(probe.counted) > 1]
                self._outputs[key] = self.outputs(side, dtype, attention) | self.run(side, model, several, True)
            else:
                self._outputs[key] = self.run(side, model, hidden=self._hidden.setdefault(key, Held()))
        return self._outputs[key]

    def hidden(self, side: Side, dtype: str, attention: str | None = None) -> Held:
        """The hidden states of the same forward passes, "probe/hidden.k" -> (rows that count, hidden)."""
        self.outputs(side, dtype, attention)
        return self._hidden[side, dtype, attention, False]

    def run(
        self,
        side: Side,
        model: Any,
        asked: Iterable[Probe] | None = None,
        one_by_one: bool = False,
        hidden: Outputs | None = None,
    ) -> Held:
        """What `compare.run` returns for a model of this side; `Differs` or `BadInput` when it raises.

        A probe that the source's class cannot take is left out from then on, and named in `refused`.
        """
        while True:
            try:
                return run(model, self.probes if asked is None else asked, one_by_one=one_by_one, hidden=hidden)
            except CannotRun as error:
                if asked is not None or not self._refuses(side, error):
                    raise self.blame(side, str(error)) from error

    def _refuses(self, side: Side, error: CannotRun) -> bool:
        """Whether it is the source's class that cannot take this probe, though it takes the first one."""
        name = error.probe.name
        if name == next(iter(self.probes)).name:
            return False
        if side == "grown":
            try:
                run(self.model("source", "float64"), [error.probe])
                return False
            except CannotRun:
                pass
        self.refused[name] = error.why
        self._probes = self.probes.without(name, f"the class cannot take it: {error.why}")
        for held in (*self._outputs.values(), *self._hidden.values()):
            for key in [key for key in held if key.startswith(f"{name}/")]:
                del held[key]
        return True

    def blame(self, side: Side, what: str) -> Exception:
        """What to raise when a forward pass did: the grown model differs, or the source is bad input."""
        if side == "grown":
            return Differs(f"the source runs and the grown model does not: {what}")
        why = "outputs that are not there cannot be compared"
        where = str(self.folders["source"])
        return BadInput(where, what=f"the source cannot run {what}", why=why, fix="check its config.json")

    def _load(self, side: Side, dtype: str, attention: str | None, *, lazy: bool = True) -> Loaded:
        disk = lazy and self._to_disk(side, dtype)
        try:
            loaded = load(self.folders[side], dtype, attention=attention, disk=disk, lazy=lazy and not self.whole)
        except GrowError as error:
            if side == "grown":
                raise Differs(str(error)) from error
            raise
        if side == "grown" and loaded.ignored:
            self._same_leftovers(loaded.ignored)
        return loaded

    def once(self, key: tuple, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, computed once for all checks that ask for `key`."""
        if key not in self.memo:
            self.memo[key] = compute()
        return self.memo[key]

    def _to_disk(self, side: Side, dtype: str) -> bool:
        """Whether the weights must stay on disk; `NoRoom` when not even a module at a time fits."""
        try:
            self.room(side, dtype)
        except NoRoom:
            free = available_memory() or 0
            largest = max(math.prod(shape) for _, shape in shapes(self.folders[side]).values()) * _BYTES[dtype]
            if not self.streaming or largest * WORKING + self._working(side, dtype, self.probes) > free:
                raise
            return True
        return False

    def _same_leftovers(self, ignored: tuple[str, ...]) -> None:
        """Tensors that the class ignores are harmless in both (BERT's next-sentence head under a masked LM),
        but one that only the grown checkpoint has is a weight that was written under a wrong name."""
        source = next((m for (side, *_), m in self._models.items() if side == "source"), None)
        known = (source or load(self.folders["source"], stored_dtype(self.folders["source"]))).ignored
        new = sorted(set(ignored) - set(known))
        if new:
            raise Differs(f"{self.folders['grown']}: stock transformers ignores {len(new)} tensors: {listing(new)}")


def _attend(model: Any, attention: str | None) -> bool:
    """Let a loaded model use another attention kernel; False where its class does not switch, or its parts differ."""
    configs = [model.config, *(getattr(model.config, name) for name in getattr(model.config, "sub_configs", {}))]
    now = {getattr(config, "_attn_implementation", None) for config in configs if config is not None}
    if now == {attention}:
        return True
    if attention is None or len(now) != 1:
        return False
    try:
        with quiet():
            model.set_attn_implementation(attention)
    except (AttributeError, ValueError, ImportError):
        return False
    return getattr(model.config, "_attn_implementation", None) == attention
