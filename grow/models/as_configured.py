"""Checks that a model in memory computes what its config and its weights say.

A growth takes config and weights. Whatever else a model has in memory would be lost without a word, so the model is
held against one that stock code builds from the same config and that shares its weights, its twin:

    built alike   every module has the class, the hooks, the buffers and the settings that its twin has
    runs alike    both answer a few tokens with the same bits, module by module

The twin costs no memory: its parameters are those of the model. A setting counts where code of the module's class, or
a function in the file of that class, looks up its name; others (a size that only the constructor reads) may be stale.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import transformers
from torch import nn

from grow.architectures import FAMILIES
from grow.errors import BadInput, Refused, listing
from grow.models.differences_from_config import HOOKS, MERGE, MODULE, WHY, faults_of, follows_length, plain_table
from grow.models.fused_experts import in_files
from grow.models.true_float64 import quiet


def check_adapters(model: Any) -> None:
    """Refused for a model with PEFT's adapters, as PEFT wraps it or as transformers loads them."""
    wrapped = hasattr(model, "peft_config") or getattr(model, "_hf_peft_config_loaded", False)
    modules = list(model.named_modules()) if isinstance(model, nn.Module) else [("", model)]
    named = next((name for name, module in modules if _of_peft(type(module))), None)
    if wrapped or named is not None:
        raise Refused(
            named or type(model).__name__,
            what="has PEFT adapters",
            why="they are weights beside the weights, made for the old shapes",
            fix=MERGE,
        )


def _of_peft(cls: type) -> bool:
    return any(base.__module__.split(".")[0] == "peft" for base in cls.__mro__)


def skeleton(cls: type, config: Any) -> Any:
    """A model whose parameters have shapes and no data, and whose buffers are computed. Nothing random is drawn."""
    from accelerate import init_empty_weights
    from transformers.initialization import no_init_weights

    with (
        quiet(),
        torch.random.fork_rng(devices=[]),
        no_init_weights(),
        init_empty_weights(include_buffers=False),
    ):
        model = cls(config)
    model.tie_weights()  # each tied name was given a parameter of its own
    return model


def own_heads(model: Any) -> list[str]:
    """Parameters that its config ties to others and that are none of those, in a family in which stock loading keeps
    apart what a file has with other values."""
    family = FAMILIES.get(model.config.model_type)
    if family is None or not family.ties_by_value:
        return []
    tied = (getattr(model, "all_tied_weights_keys", None) or {}).items()
    return [name for name, other in tied if model.get_parameter(name) is not model.get_parameter(other)]


def keep_apart(model: Any, heads: Iterable[str]) -> None:
    """Give a model that its config has tied heads of their own, as stock loading does."""
    for name in heads:
        module, _, parameter = name.rpartition(".")
        setattr(model.get_submodule(module), parameter, nn.Parameter(torch.empty_like(model.get_parameter(name))))
        model.all_tied_weights_keys.pop(name, None)


def check_class(model: Any) -> None:
    """Refused for a model whose class is not one that stock loading would build."""
    cls = type(model)
    if getattr(transformers, cls.__name__, None) is not cls:
        raise Refused(
            f"{cls.__module__}.{cls.__qualname__}",
            what="is not a class of transformers",
            why="the result is a stock checkpoint, which the stock class of that name computes",
            fix=f"load the weights into a stock class: {cls.__mro__[1].__name__}.from_pretrained(…)",
        )


def twin_of(model: Any, config: Mapping[str, Any]) -> Any:
    """What stock code builds from the model's config, with the model's weights. Refused where it is built otherwise."""
    cls = type(model)
    check_class(model)
    stock_config = type(model.config).from_dict(dict(config))
    for kernel in ("_attn_implementation", "_experts_implementation"):
        if getattr(model.config, kernel, None) is not None:
            setattr(stock_config, kernel, getattr(model.config, kernel))
    try:
        twin = skeleton(cls, stock_config)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise BadInput(
            f"{cls.__name__}: config",
            what=f"builds no model: {type(error).__name__}: {first}",
            why="it was edited after the model was built",
            fix="give it back the values that the model was built with",
        ) from None
    keep_apart(twin, own_heads(model))
    family = FAMILIES.get(str(config.get("model_type")))

    def grows(name: str) -> bool:
        names = (name, *in_files(model, {name: model.get_buffer(name)}))
        return family is not None and any(family.canonical(stored) for stored in names)

    if faults := list(faults_of(model, twin, grows)):
        first_one, *more = faults
        also = [("also", listing((f"{f.where} {f.what}" for f in more), 4))] if more else []
        raise Refused(first_one.where, what=first_one.what, why=WHY, fix=first_one.fix, details=also)
    twin.load_state_dict(model.state_dict(), strict=False, assign=True)
    twin.tie_weights(recompute_mapping=False)
    for name, module in twin.named_modules():
        for key, buffer in model.get_submodule(name)._buffers.items():
            own = module._buffers.get(key)
            follows = own is not None and follows_length(module, key)
            module._buffers[key] = own.to(buffer.device, buffer.dtype) if own is not None and follows else buffer
    return twin.train(model.training)


def carry_padding(model: nn.Module, grown: nn.Module) -> None:
    """Which row of a table gets no gradient stays what it was, whatever was set in the config since."""
    new = dict(grown.named_modules())
    for name, module in model.named_modules():
        if plain_table(module) and plain_table(new.get(name)):
            new[name].padding_idx = module.padding_idx


@contextlib.contextmanager
def bare_object(model: nn.Module) -> Iterator[None]:
    """The model without the hooks and functions that were put on the object itself: a growth in place keeps them."""
    own = vars(model)
    patched = {n: v for n, v in own.items() if n not in MODULE and callable(v) and hasattr(type(model), n)}
    hooks = {n: own[n] for n in HOOKS if isinstance(own.get(n), dict)}
    try:
        for name in patched:
            del own[name]
        own.update({name: OrderedDict() for name in hooks})
        yield
    finally:
        own.update(patched | hooks)
