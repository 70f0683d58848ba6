"""Large weights kept in their stored dtype, and converted to float64 slice by slice.

    w = Widened(table)          # table: (262144, 640) bfloat16, 0.3 GB, mapped from its file
    x @ w.T                     # the float64 product, slice by slice; w in float64 would take 1.3 GB

To the code that uses it, w is a float64 tensor. Widening is exact, so every number is the one that `table.double()`
holds; only the order of a product's sums may be another one, as with any other shape of a matrix.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_map

LARGE = 2**20  # numbers; a smaller weight takes 8 MB at most in float64
SLICE = 2**19  # numbers that a product widens at once: 4 MB, which caches hold until they are used

_ATEN = torch.ops.aten
_MOVES = {  # they arrange numbers, so they can be done on what is stored
    _ATEN.detach.default,
    _ATEN.alias.default,
    _ATEN.t.default,
    _ATEN.transpose.int,
    _ATEN.permute.default,
    _ATEN.view.default,
    _ATEN._unsafe_view.default,
    _ATEN.unsqueeze.default,
    _ATEN.squeeze.dim,
    _ATEN.expand.default,
    _ATEN.select.int,
    _ATEN.slice.Tensor,
    _ATEN.split.Tensor,
    _ATEN.split_with_sizes.default,
    _ATEN.unbind.int,
    _ATEN.clone.default,
    _ATEN.stack.default,
    _ATEN.cat.default,
}
_LOOKUPS = {_ATEN.embedding.default, _ATEN.index.Tensor, _ATEN.index_select.default}


def worth_it(shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    """Whether a stored tensor takes so much more in float64 that it is widened where it is used."""
    return len(shape) > 1 and torch.Size(shape).numel() >= LARGE and dtype.is_floating_point and dtype.itemsize < 8


class Widened(torch.Tensor):
    """A float64 tensor whose numbers are `stored` in some floating-point dtype. It cannot be written to, only be given
    other numbers as a whole: `w.data = ...`."""

    stored: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, stored: torch.Tensor) -> Widened:
        return torch.Tensor._make_wrapper_subclass(
            cls, stored.shape, strides=stored.stride(), dtype=torch.float64, device=stored.device
        )

    def __init__(self, stored: torch.Tensor) -> None:
        self.stored = stored.detach()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Widened({tuple(self.shape)}, {self.stored.dtype})"

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        if value.shape != self.shape:
            raise RuntimeError(f"a weight of shape {tuple(self.shape)} cannot become {tuple(value.shape)}")
        self.stored = _stored(value).detach()

    def wide(self) -> torch.Tensor:
        """All of it as a plain tensor."""
        return self.stored.to(torch.float64)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        named = {argument.name: value for argument, value in zip(func._schema.arguments, args)} | kwargs
        if any(isinstance(named.get(a.name), Widened) and _written(a) for a in func._schema.arguments):
            raise RuntimeError(f"{func}: a weight that is widened where it is used cannot be written to")
        if func in _MOVES and _alike(args):
            return tree_map(_lazily, func(*tree_map(_stored, args), **kwargs))
        if func in _LOOKUPS and isinstance(args[0], Widened):
            return func(args[0].stored, *args[1:], **kwargs).to(torch.float64)
        if func is _ATEN.mm.default and isinstance(args[1], Widened) and not isinstance(args[0], Widened):
            return _product(args[0], args[1].stored)
        if func is _ATEN.addmm.default and isinstance(args[2], Widened) and not isinstance(args[1], Widened):
            bias, x, w = args
            return kwargs.get("beta", 1) * bias + kwargs.get("alpha", 1) * _product(x, w.stored)
        if func is _ATEN.bmm.default and isinstance(args[1], Widened) and not isinstance(args[0], Widened):
            return _products(args[0], args[1].stored)
        return func(*tree_map(_wide, args), **tree_map(_wide, kwargs))


def _product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """x (n, k) in float64 times w (k, m) as it is stored."""
    out = x.new_empty(len(x), w.shape[1])
    step = max(1, SLICE // max(1, len(w)))
    for start in range(0, w.shape[1], step):
        part = slice(start, start + step)
        out[:, part] = x @ w[:, part].to(torch.float64)
    return out


def _products(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """x (b, n, k) times w (b, k, m), which may be one matrix for all."""
    if not w.stride(0):
        return _product(x.reshape(-1, x.shape[2]), w[0]).view(*x.shape[:2], -1)
    return torch.stack([_product(a, b) for a, b in zip(x, w)])


def _written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _alike(args: Any) -> bool:
    """Whether all tensors that are to be arranged are stored alike."""
    given = args[0] if isinstance(args[0], (list, tuple)) else [args[0]]
    return all(isinstance(t, Widened) for t in given) and len({t.stored.dtype for t in given}) == 1


def _stored(value: Any) -> Any:
    return value.stored if isinstance(value, Widened) else value


def _lazily(value: Any) -> Any:
    return Widened(value) if isinstance(value, torch.Tensor) else value


def _wide(value: Any) -> Any:
    return value.wide() if isinstance(value, Widened) else value
