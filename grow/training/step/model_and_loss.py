"""The model of a run: its limits, its loss, and what a token costs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from grow.architectures.common_fields import POSITIONS
from grow.checkpoint.reader import Checkpoint
from grow.errors import BadInput, Refused
from grow.models.tokenizers import load_tokenizer
from grow.models.true_float64 import TrueFloat64
from grow.spelling import command, left_out, option
from grow.training.settings.limits import check_number
from grow.training.settings.run_settings import Settings
from grow.training.text.objectives import IGNORED

CAPACITY = (*POSITIONS, "max_sequence_length")
ATTENTION = ("full_attention", "sliding_attention")
LONGEST = 512  # tokens of a sequence, unless its length is given


def tokenizer_of(folder: Path) -> Any | None:
    """The checkpoint's tokenizer, None when it has none."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json")):
        return None
    try:
        return load_tokenizer(folder)
    except BadInput:
        raise
    except Exception as error:  # the library raises what its many classes raise
        why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        fix = "a folder whose tokenizer loads, or one without a tokenizer"
        raise BadInput(str(folder), what="has a tokenizer that does not load", why=why, fix=fix) from None


def capacity(config: Mapping[str, Any]) -> int | None:
    """The number of tokens of a sequence that the model has positions for; None where nothing limits it."""
    from grow.architectures import known_architecture

    if config.get("is_encoder_decoder"):  # BART has a table of positions, T5's are relative
        return next((int(config[name]) for name in CAPACITY[:1] if isinstance(config.get(name), int)), None)
    if known := known_architecture(config):
        return known.sizes["positions"] - known.first_position if "positions" in known.sizes else None
    return next((int(config[name]) for name in CAPACITY if isinstance(config.get(name), int)), None)


def check_length(length: int, limit: int | None) -> None:
    """BadInput where a sequence is longer than the model has positions for."""
    if limit is not None and length > limit:
        raise BadInput(
            option(length=length),
            what=f"is more than the {limit} positions of the model",
            why="a position beyond them has no embedding, or was never trained",
            fix=f"{option(length=limit)}, or {command('widen', to={'max_position_embeddings': length})}",
        )


def check_documents(config: Any, kind: str) -> None:
    """Refused where a mask of documents would not be what the model attends to."""
    if kind != "causal":
        why = "a mask of documents is made for models that read from left to right"
        raise Refused(option(documents=True), what=f"the objective is {kind}", why=why, fix=left_out("documents"))
    if other := set(getattr(config, "layer_types", None) or ()) - set(ATTENTION):
        what = f"the model has layers of {', '.join(sorted(other))}"
        why = f"document masks are known for {' and '.join(ATTENTION)} alone"
        raise Refused(option(documents=True), what=what, why=why, fix=left_out("documents"))


def document_masks(config: Any, attend: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | dict[str, torch.Tensor]:
    """(rows, n, n) True where a token sees another -> what stock classes add to their scores, (rows, 1, n, n); by
    kind of layer where they differ. Inside a sliding window of w a token sees itself and the w - 1 before it."""

    def added(seen: torch.Tensor) -> torch.Tensor:
        zero = torch.zeros((), dtype=dtype, device=seen.device)
        return torch.where(seen[:, None], zero, torch.finfo(dtype).min)

    window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    if window is None:
        return added(attend)
    at = torch.arange(attend.shape[-1], device=attend.device)
    near = added(attend & (at[:, None] - at[None, :] < window))
    return dict(zip(ATTENTION, (added(attend), near))) if kinds else near


def computing(settings: Settings, device: torch.device) -> Callable[[], Any]:
    """The context of a forward pass. bfloat16 is autocast: products in bfloat16; norms, softmax and losses, like the
    weights and the gradients, in float32. The arithmetic is the same on one process and on many."""
    if settings.dtype == "bfloat16":
        return lambda: torch.autocast(device.type, torch.bfloat16)
    return TrueFloat64 if settings.dtype == "float64" else contextlib.nullcontext


def inputs(arrays: Mapping[str, np.ndarray], device: torch.device) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in arrays.items()}


def loss_sum(model: Any, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The sum of the cross entropy over the predicted tokens, in float32 or wider."""
    logits, labels = _logits(model, given)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")


def losses(model: Any, given: Mapping[str, torch.Tensor], vocab: int) -> torch.Tensor:
    """(predicted tokens,) the cross entropy of each, among the first `vocab` tokens alone."""
    logits, labels = _logits(model, given)
    predicted = labels.flatten() != IGNORED
    return F.cross_entropy(logits.flatten(0, 1)[predicted][:, :vocab], labels.flatten()[predicted], reduction="none")


def _logits(model: Any, given: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits in float32 or wider, labels)."""
    given = dict(given)
    labels = given.pop("labels")
    if (attend := given.pop("attend", None)) is not None:
        given["attention_mask"] = document_masks(model.config, attend, model.dtype)  # type: ignore[assignment]
    if not model.config.is_encoder_decoder and "position_ids" not in given and hasattr(model.config, "use_cache"):
        given["use_cache"] = False  # type: ignore[assignment]
    logits = model(**given).logits
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits, labels


def tokens_for(flops: float, checkpoint: Checkpoint, length: int, given: Mapping[str, Any], tokens: int | None) -> int:
    """The number of tokens that `flops` pay for; BadInput where another budget is given too."""
    if tokens is not None or "steps" in given:
        other = option(steps=given["steps"]) if tokens is None else option(tokens=tokens)
        why = "each of them follows from the other"
        raise BadInput(option(flops=flops), what=f"is given beside {other}", why=why, fix="give one of them")
    number = isinstance(flops, (int, float)) and not isinstance(flops, bool)
    if not number or not 0 < flops < 1e40:
        why = "it is what the run may cost"
        what = "must be a number above 0 and below 1e40"
        raise BadInput(option(flops=flops), what=what, why=why, fix=option(flops=1e15))
    check_number("length", length, 1)
    return max(1, round(flops / flops_per_token(checkpoint, length)))


def flops_per_token(checkpoint: Checkpoint, length: int) -> float:
    """The FLOPs of a training step per token: those of three forward passes, since the backward pass costs two.

    See `grow.costs.of_a_model`; for a model without a family they are 2 per weight of a matrix and forward pass.
    """
    from grow.architectures import known_architecture
    from grow.architectures.match import match
    from grow.costs.of_a_model import forward_flops

    if known := known_architecture(checkpoint.config):
        return 3 * forward_flops(match(known, checkpoint.tensors, str(checkpoint.path)), length)
    return 3 * sum(2.0 * np.prod(info.shape) for info in checkpoint.tensors.values() if len(info.shape) > 1)
