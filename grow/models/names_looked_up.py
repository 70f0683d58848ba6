"""Names that the code of a module looks up once the module is built: a setting of another name changes nothing."""

from __future__ import annotations

import functools
import sys
import types
from typing import Any

from torch import nn
from transformers import PreTrainedModel

UNREAD = {"__init__", "extra_repr", "__repr__", "_init_weights"}


def reads_of(module: nn.Module) -> frozenset[str]:
    cls: Any = type(module)
    return reads(cls)


@functools.cache
def reads(cls: Any) -> frozenset[str]:
    """Names that code looks up once a module of this class is built."""
    names: set[str] = set()
    for base in cls.__mro__:
        if base is PreTrainedModel:
            names |= _names(vars(base).get("loss_function"))
        elif base.__module__.startswith("transformers.") and issubclass(base, nn.Module):
            around = vars(sys.modules[base.__module__]).values()
            ours = [
                f
                for f in around
                if isinstance(f, types.FunctionType) and (f.__module__ or "").startswith("transformers")
            ]
            for function in (*ours, *(f for name, f in vars(base).items() if name not in UNREAD)):
                names |= _names(function)
            names |= _kernels()
        elif base not in (object, nn.Module):
            for name, function in vars(base).items():
                names |= _names(function) if name not in UNREAD else set()
    return frozenset(names)


@functools.cache
def _kernels() -> frozenset[str]:
    """What the attention kernels look up in the module that calls them."""
    from transformers.integrations import flash_attention, flex_attention, sdpa_attention

    files = (flash_attention, flex_attention, sdpa_attention)
    return frozenset(n for file in files for f in vars(file).values() if isinstance(f, types.FunctionType)
                     for n in _names(f) if f.__module__ == file.__name__)  # fmt: skip


def _names(function: Any) -> set[str]:
    if isinstance(function, property):
        return _names(function.fget) | _names(function.fset)
    names: set[str] = set()
    function = getattr(function, "__func__", function)
    while function is not None:
        if (code := getattr(function, "__code__", None)) is not None:
            names |= _looked_up(code)
        function = getattr(function, "__wrapped__", None)
    return names


def _looked_up(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            names |= _looked_up(value)
        elif isinstance(value, str) and value.isidentifier():  # getattr(module, "scaling", …)
            names.add(value)
    return names
