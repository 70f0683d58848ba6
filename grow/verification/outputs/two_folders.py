"""The folders of a source and a grown checkpoint, and what their configs and stock classes say."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any, Literal

import transformers

from grow.errors import GrowError
from grow.models.true_float64 import LOCAL, Unloadable, model_class, quiet
from grow.verification.outputs.stored_dtypes import shapes

Side = Literal["source", "grown"]
SIDES: tuple[Side, ...] = ("source", "grown")


class Differs(Exception):
    """The grown checkpoint fails before there is an output to compare; the message says how."""


class TwoFolders:
    """Both folders as stock code reads them. Mistakes in the source raise `BadInput`, in the grown one `Differs`."""

    def __init__(self, source: str | Path, grown: str | Path) -> None:
        self.folders: dict[Side, Path] = {"source": Path(source), "grown": Path(grown)}
        self._configs: dict[Side, Any] = {}
        self._headers: dict[Side, dict[str, tuple[str, tuple[int, ...]]]] = {}

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
