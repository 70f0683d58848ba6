"""A mode of torch in which every request for a narrower float is one for float64.

`model.double()` is not enough. Transformers casts to float32 inside RMSNorm, softmax and RoPE whatever the
dtype of the weights, which hides every error below 1e-6 (`modeling_llama.py`:
`hidden_states.to(torch.float32)`, `softmax(..., dtype=torch.float32)`, `arange(..., dtype=torch.float)`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from grow.models.upcast import Widened, worth_it

WIDE: dict[Any, Any] = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
    torch.FloatTensor: torch.DoubleTensor,
    torch.HalfTensor: torch.DoubleTensor,
    torch.BFloat16Tensor: torch.DoubleTensor,
    "torch.FloatTensor": "torch.DoubleTensor",
    "torch.HalfTensor": "torch.DoubleTensor",
    "torch.BFloat16Tensor": "torch.DoubleTensor",
}
_CASTS = {
    torch.Tensor.float: torch.float64,
    torch.Tensor.half: torch.float64,
    torch.Tensor.bfloat16: torch.float64,
}
_FACTORIES = {torch.tensor, torch.as_tensor, torch.asarray}


class TrueFloat64(TorchFunctionMode):
    """Inside, every request for float32, float16 or bfloat16 is a request for float64.

    A dtype is widened wherever it is passed (by position, by keyword, as a legacy type name); `.float()`,
    `.half()` and `.bfloat16()` become `.double()`; tensors made from narrow numpy arrays are widened; the
    default dtype is float64, and so is what `torch.FloatTensor(...)` makes. complex64 becomes complex128. Load
    the model inside the mode, so that the buffers it computes (RoPE's `inv_freq`) are float64 too instead of
    rounded values cast back.

    Not touched: `Tensor.view(dtype)`, which reinterprets bits (safetensors reads files with it), and results
    of `torch.from_numpy`, which bypasses function modes. No supported forward pass uses it.

    lazy  a large tensor that is cast to float64 stays as it is and is widened where it is used (`Widened`)
    """

    def __init__(self, *, lazy: bool = False) -> None:
        super().__init__()
        self.lazy = lazy

    def __enter__(self) -> TrueFloat64:
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        # Constructors bypass function modes; parameters made with this one would keep float32 while they are loaded.
        self._narrow, torch.FloatTensor = torch.FloatTensor, torch.DoubleTensor  # type: ignore[misc, assignment]
        # A pickle is read as it was stored, like safetensors, and widened when it becomes a parameter.
        self._read, torch.load = torch.load, _as_stored(torch.load)
        super().__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        try:
            super().__exit__(*exc)
        finally:
            torch.set_default_dtype(self._default)
            torch.load = self._read
            torch.FloatTensor = self._narrow  # type: ignore[misc]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.view:
            return func(*args, **kwargs)
        if func in _CASTS:
            return args[0].to(_CASTS[func], *args[1:], **kwargs)
        if len(args) > 1 or not isinstance(args[0] if args else None, torch.Tensor):  # most calls have one tensor alone
            args = tuple(map(_widen, args))
        if kwargs:
            kwargs = {k: _widen(v) for k, v in kwargs.items()}
        if self.lazy and func is torch.Tensor.to and torch.float64 in (*args[1:], kwargs.get("dtype")):
            given = args[0]
            if given.device.type == "cpu" and worth_it(given.shape, given.dtype):
                return Widened(given)
        out = func(*args, **kwargs)
        if func in _FACTORIES and out.dtype in WIDE:
            out = out.to(WIDE[out.dtype])
        return out


def _as_stored(read: Any) -> Any:
    @functools.wraps(read)
    def outside(*args: Any, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return read(*args, **kwargs)

    return outside


def _widen(value: Any) -> Any:
    if isinstance(value, (torch.dtype, type, str)):
        return WIDE.get(value, value)
    return value
