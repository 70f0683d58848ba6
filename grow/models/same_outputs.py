"""Whether a model in memory answers a few tokens with the same bits as its twin, module by module."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from grow.errors import BadInput, Refused
from grow.models.differences_from_config import WHY, again

TOKENS = 12
SUMS = 64
"""Units in the last place by which equal code may differ on an accelerator, whose sums have no fixed order. On a CPU
it has the same bits."""


def check_runs_alike(model: Any, twin: Any, batch: Mapping[str, Any] | None = None) -> None:
    """Refused where the model answers a few tokens otherwise than its twin, by the name of the first module that does.
    Mode, buffers and random state stay as they were."""
    devices = {p.device for p in model.parameters()}
    if len(devices) > 1 or {d.type for d in devices} == {"meta"}:
        return  # dispatched: the twin has no hooks that bring its inputs to its weights
    device = next(iter(devices))
    given = dict(batch) if batch else tokens_for(model)
    given = {k: v.to(device) if torch.is_tensor(v) else v for k, v in given.items()}
    twin.to(device)
    if apart(outputs(model, given), outputs(twin, given)) is None:
        return
    one, two = (dict(_traced(m, given)) for m in (model, twin))
    named = next((name for name, value in one.items() if apart(value, two.get(name, {})) is not None), "")
    raise Refused(
        named or type(model).__name__,
        what="computes something else than its config and its weights say",
        why=WHY,
        fix=again(type(model).__name__),
    )


def tokens_for(model: Any) -> dict[str, torch.Tensor]:
    """A row of tokens from all over the table, or an image; BadInput where a class reads something else."""
    if model.main_input_name == "pixel_values":
        return {"pixel_values": _image(getattr(model.config, "vision_config", model.config)).to(model.dtype)}
    if model.main_input_name != "input_ids":
        raise BadInput(
            type(model).__name__,
            what=f"reads {model.main_input_name}",
            why="what a model in memory answers is compared before and after the growth, on tokens or an image",
            fix="save it and grow the folder, or verify=False",
        )
    words = model.get_input_embeddings().num_embeddings
    ids = torch.linspace(0, words - 1, TOKENS, dtype=torch.float64).long().clamp(0, words - 1)[None]
    return {"input_ids": torch.stack([ids, ids.flip(1)], 1) if "MultipleChoice" in type(model).__name__ else ids}


def _image(config: Any) -> torch.Tensor:
    """One that says something else in every pixel."""
    size = getattr(config, "image_size", 224)
    size = (size, size) if isinstance(size, int) else tuple(size)
    shape = (1, getattr(config, "num_channels", 3), *size)
    return torch.linspace(-60, 60, math.prod(shape)).sin().reshape(shape)


def outputs(model: Any, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Every output but the loss, in evaluation mode and in the weights' dtype: what mixed precision has put around the
    model's own forward is left out."""
    given = {k: v for k, v in batch.items() if k != "num_items_in_batch"}
    mixed = "_original_forward" in vars(model)
    call = functools.partial(type(model).forward, model) if mixed else model
    with _undisturbed(model), torch.no_grad():
        try:
            result = call(**{**given, "return_dict": True})
        except (RuntimeError, IndexError, ValueError, TypeError, AttributeError, KeyError) as error:
            first = (str(error).strip().splitlines() or [""])[0]
            raise BadInput(
                type(model).__name__,
                what=f"cannot run: {type(error).__name__}: {first}",
                why="what it computes is compared before and after the growth",
                fix="try model(**batch); or verify=False",
            ) from error
    return {k: v for k, v in result.items() if torch.is_tensor(v) and v.is_floating_point() and k != "loss"}


def apart(a: Any, b: Any) -> float | None:
    """How far two sets of outputs of equal code are apart, None where they are equal."""
    if a.keys() != b.keys():
        return float("inf")
    for name, first in a.items():
        second = b[name]
        if first.shape != second.shape or first.dtype != second.dtype:
            return float("inf")
        if torch.equal(first, second) or torch.equal(first.nan_to_num(), second.nan_to_num()):
            continue
        off, size = float((first - second).double().abs().max()), float(first.double().abs().max())
        if first.device.type == "cpu" or not off <= SUMS * torch.finfo(first.dtype).eps * size:
            return off
    return None


def _traced(model: Any, batch: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    traced: list[tuple[str, dict[str, torch.Tensor]]] = []
    handles = []

    def watch(name: str) -> Any:
        def hook(module: Any, given: Any, result: Any) -> None:
            parts = (
                result.values() if isinstance(result, Mapping) else result if isinstance(result, tuple) else [result]
            )
            kept = {str(i): v.clone() for i, v in enumerate(parts) if torch.is_tensor(v) and v.is_floating_point()}
            traced.append((name, kept))

        return hook

    try:
        for name, module in model.named_modules():
            handles.append(module.register_forward_hook(watch(name)))
        outputs(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    yield from traced


@contextlib.contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    """Evaluation, and afterwards every module as it was: modes, settings, buffers; and the random state."""
    modules = list(model.modules())
    before = [(module, dict(vars(module)), dict(module._buffers)) for module in modules]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    experts = getattr(model.config, "_experts_implementation", None)
    with torch.random.fork_rng(devices=list(devices)):
        try:
            for module in modules:
                vars(module).pop("_compiled_call_impl", None)  # the code it was made from, uncompiled
            model.eval()
            if experts is not None:  # the fast kernels want sizes that are multiples, and sum in no fixed order
                model.set_experts_implementation("eager")
            yield
        finally:
            if experts is not None:
                model.set_experts_implementation(experts)
            for module, settings, buffers in before:
                own = vars(module)
                for name in [n for n in own if n not in settings and "hook" not in n]:
                    del own[name]
                own.update({n: v for n, v in settings.items() if "hook" not in n})
                module._buffers.clear()
                module._buffers.update(buffers)
