"""A source and a grown checkpoint whose models are loaded once, late, and only where they fit.

with Pair("small", "grown", seed=0) as pair:
    difference(pair.outputs("source", "float64"), pair.outputs("grown", "float64"))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from grow.errors import BadInput, GrowError, listing
from grow.models.true_float64 import Loaded, load, model_class
from grow.verification.outputs.attention_kernels import use_attention
from grow.verification.outputs.compare import CannotRun, Outputs, run
from grow.verification.outputs.free_memory import available_memory, give_back
from grow.verification.outputs.memory_needed import BYTES, WORKING, Need, NoRoom, forward_memory, memory_needed
from grow.verification.outputs.stored_dtypes import shapes, stored_dtype
from grow.verification.outputs.stored_outputs import StoredOutputs
from grow.verification.outputs.two_folders import Differs, Side, TwoFolders
from grow.verification.probes import LENGTH, Probe, Probes, probes

STREAMED = 8  # tokens of every row when weights come from disk: its passes are paid in reading and widening them


class Pair(TwoFolders):
    """Models and outputs of both checkpoints, cached by dtype and attention kernel; `close` frees them.

    The probes belong to the source. A model that does not fit beside the cached ones evicts them (outputs
    stay); one that does not fit at all raises `NoRoom`. Mistakes in the source raise `BadInput`, in the grown
    one `Differs`.
    """

    def __init__(self, source: str | Path, grown: str | Path, *, seed: int = 0, length: int = LENGTH) -> None:
        super().__init__(source, grown)
        self._streaming: bool | None = None
        self._whole: bool | None = None
        self.seed, self.length = seed, length
        self._models: dict[tuple, Loaded] = {}
        self._outputs: dict[tuple, StoredOutputs] = {}
        self._hidden: dict[tuple, StoredOutputs] = {}
        self._stock: dict[tuple, str | None] = {}  # the attention kernel with which a model was loaded
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
            among = self._all_probes()
            self._streaming = free is not None and any(
                self._needs(side, "float64", among).total > free for side in self.folders
            )
        return self._streaming

    @property
    def whole(self) -> bool:
        """Whether each model alone fits with every weight in float64; else large weights stay as they are stored, and
        every forward pass widens them anew."""
        if self._whole is None:
            free = available_memory()
            among = self._all_probes()
            self._whole = free is None or all(
                self._needs(side, "float64", among, whole=True).total <= free for side in self.folders
            )
        return self._whole

    @property
    def together(self) -> bool:
        """Whether both models fit into memory in float64; else asking one, then the other, saves loading them anew."""
        free = available_memory()
        return free is None or sum(self._needs(side, "float64", self.probes).total for side in self.folders) <= free

    def _needs(self, side: Side, dtype: str, among: Probes, copies: int = 1, whole: bool = False) -> Need:
        """What one more model takes: `copies` x its weights, the loader, and a forward pass on the largest probe.

        whole  every weight in `dtype`; else those that float64 leaves as they are stored count as that
        """
        # weights that are changed are there as a whole
        whole = whole or copies > 1 or dtype != "float64" or self.whole
        stored = self._shapes(side).values()  # first: a folder without weights is told from one without a config
        passes = self._forward_memory(side, dtype, among)
        return memory_needed(stored, dtype, passes, copies=copies, whole=whole)

    def _forward_memory(self, side: Side, dtype: str, among: Probes) -> int:
        return forward_memory(self._text_config(side), dtype, among)

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
            use_attention(model, self._stock[base])
        elif not use_attention(model, attention):
            self._models[key] = self._load(side, dtype, attention)
            model = self._models[key].model
        return model

    def outputs(
        self, side: Side, dtype: str, attention: str | None = None, *, one_by_one: bool = False
    ) -> StoredOutputs:
        """What `compare.run` returns for this side on the probes, cached."""
        key = (side, dtype, attention, one_by_one)
        if key not in self._outputs:
            model = self.model(side, dtype, attention)
            if one_by_one:  # a probe of one row is that already
                several = [probe for probe in self.probes if len(probe.counted) > 1]
                self._outputs[key] = self.outputs(side, dtype, attention) | self.run(side, model, several, True)
            else:
                self._outputs[key] = self.run(side, model, hidden=self._hidden.setdefault(key, StoredOutputs()))
        return self._outputs[key]

    def hidden(self, side: Side, dtype: str, attention: str | None = None) -> StoredOutputs:
        """The hidden states of the same forward passes, "probe/hidden.k" -> (rows that count, hidden)."""
        self.outputs(side, dtype, attention)
        return self._hidden[side, dtype, attention, False]

    def run(
        self,
        side: Side,
        model: Any,
        only: Iterable[Probe] | None = None,
        one_by_one: bool = False,
        hidden: Outputs | None = None,
    ) -> StoredOutputs:
        """What `compare.run` returns for a model of this side; `Differs` or `BadInput` when it raises.

        A probe that the source's class cannot take is left out from then on, and named in `refused`.
        """
        while True:
            try:
                return run(model, self.probes if only is None else only, one_by_one=one_by_one, hidden=hidden)
            except CannotRun as error:
                if only is not None or not self._refuses(side, error):
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
            largest = max(math.prod(shape) for _, shape in shapes(self.folders[side]).values()) * BYTES[dtype]
            if not self.streaming or largest * WORKING + self._forward_memory(side, dtype, self.probes) > free:
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
