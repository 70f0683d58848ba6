"""The operations by which numpy arrays and torch tensors are grown, under one name for both."""

from __future__ import annotations

from typing import Any

import numpy as np


def along(dim: int, ndim: int) -> tuple[int, ...]:
    return tuple(-1 if d == dim else 1 for d in range(ndim))


def joined(parts: Any, like: Any) -> Any:
    """The parts below each other, or as a stack where `like` is one."""
    if isinstance(like, np.ndarray):
        return np.stack(parts) if like.ndim == 3 else np.concatenate(parts)
    import torch

    return torch.stack(tuple(parts)) if like.ndim == 3 else torch.cat(tuple(parts))


def gather(values: Any, dim: int, source: np.ndarray, scale: np.ndarray) -> Any:
    """values[…, source[j], …] · scale[j] along one dim."""
    return times(pick(values, dim, source), dim, scale)


def pick(values: Any, dim: int, source: np.ndarray) -> Any:
    if isinstance(values, np.ndarray):
        return np.take(values, source, axis=dim)
    import torch

    return values.index_select(dim, torch.from_numpy(source).to(values.device))


def times(values: Any, dim: int, scale: np.ndarray) -> Any:
    if isinstance(values, np.ndarray):
        return values * scale.astype(values.dtype).reshape(along(dim, values.ndim))
    import torch

    return values * torch.from_numpy(scale).to(values.device, values.dtype).reshape(along(dim, values.ndim))


def ratio(new: Any, old: Any, *, each: bool = False) -> Any:
    """mean(new) / mean(old), `each`: of every matrix of the last two dims; 0 where the old mean is 0."""
    grown, total = (x.mean((-2, -1))[..., None, None] if each else x.mean() for x in (new, old))
    return grown / (total + (total == 0))


def work(values: Any) -> Any:
    """A copy in float32 or wider, so that a product of factors is rounded only once."""
    if isinstance(values, np.ndarray):
        return values.astype(np.float32) if values.dtype.itemsize < 4 else values.copy()
    values = values.detach()
    return values.float() if values.element_size() < 4 else values.clone()


def as_like(grown: Any, like: Any) -> Any:
    return grown.astype(like.dtype, copy=False) if isinstance(like, np.ndarray) else grown.to(like.dtype)


def zeros(like: Any, shape: tuple[int, ...]) -> Any:
    return np.zeros(shape, dtype=like.dtype) if isinstance(like, np.ndarray) else like.new_zeros(shape)
