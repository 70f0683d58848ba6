"""Stock models in true float64: no step of the forward pass is rounded to fewer bits.

    with TrueFloat64():
        logits = load("checkpoint", "float64").model(input_ids).logits

`model.double()` is not enough. Transformers casts to float32 inside RMSNorm, softmax and RoPE whatever the
dtype of the weights, which hides every error below 1e-6 (`modeling_llama.py`:
`hidden_states.to(torch.float32)`, `softmax(..., dtype=torch.float32)`, `arange(..., dtype=torch.float)`).
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch.overrides import TorchFunctionMode
from transformers.models.auto import modeling_auto

from grow.architectures.common_fields import FLOAT32_ATTENTION
from grow.checkpoint.pickled import is_pickled
from grow.errors import BadInput, did_you_mean, listing
from grow.files.foreign_names import told
from grow.files.regular import read_file
from grow.models.upcast import Widened, worth_it
from grow.notation.dtypes import CODES

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in CODES}

SMALL = 20_000_000  # parameters; below it threads wait for each other longer than they compute
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}

_WIDE: dict[Any, Any] = {
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

    def __torch_function__(self, func, types, args=(), kwargs: Mapping[str, Any] | None = None):
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
        if func in _FACTORIES and out.dtype in _WIDE:
            out = out.to(_WIDE[out.dtype])
        return out


def _as_stored(read: Any) -> Any:
    @functools.wraps(read)
    def outside(*args: Any, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return read(*args, **kwargs)

    return outside


def _widen(value: Any) -> Any:
    if isinstance(value, (torch.dtype, type, str)):
        return _WIDE.get(value, value)
    return value


class Unloadable(BadInput):
    """Stock transformers cannot load every weight of the checkpoint in `folder`."""

    def __init__(self, folder: Path, *, what: str, why: str = "", fix: str = "", details=()) -> None:
        self.folder = folder
        super().__init__(str(folder), what=what, why=why, fix=fix, details=details)

    def __reduce__(self):
        return _again, (
            self.folder,
            {"what": self.what, "why": self.why, "fix": self.fix, "details": self.details},
        )


def _again(folder: Path, args: dict) -> Unloadable:
    return Unloadable(folder, **args)


class Loaded(NamedTuple):
    model: Any  # a transformers.PreTrainedModel in eval mode
    ignored: tuple[str, ...]  # tensors in the files that the class does not have


def model_class(folder: str | Path) -> type:
    """The stock class that `config.json` names; without `architectures`, the model type's masked or causal
    LM."""
    folder = Path(folder)
    file = folder / "config.json"
    try:
        config = json.loads(read_file(file))
        names = config.get("architectures") or []
        kind = config.get("model_type", "")
    except (BadInput, ValueError, RecursionError, AttributeError) as error:
        raise Unloadable(folder, what=f"config.json cannot be read: {error}", fix="pass a checkpoint folder") from error
    if not names:
        tables = (
            modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
            modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            modeling_auto.MODEL_MAPPING_NAMES,
        )
        names = [table[kind] for table in tables if kind in table]
    name = names[0] if names else kind
    cls = getattr(transformers, name, None) if isinstance(name, str) else None
    if isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel):
        return cls
    raise Unloadable(
        folder,
        what=f"no stock model class for architectures={config.get('architectures')}, model_type={kind!r}",
        why=f"transformers {transformers.__version__} has no such class, and remote code is never run",
        fix=did_you_mean(str(name), [n for n in dir(transformers) if "For" in n or n.endswith("Model")]),
    )


def load(
    folder: str | Path, dtype: str, *, attention: str | None = None, disk: bool = False, lazy: bool = False
) -> Loaded:
    """The stock model, every weight read from the files of `folder`, in eval mode.

    dtype      "float64" loads inside `TrueFloat64` and checks that nothing narrower is left; the forward pass
               must run inside the mode too. Other names load as anyone would.
    attention  "eager" or "sdpa"; None takes eager in float64 (plain matmuls) and the stock default otherwise.
    disk       weights stay in their files and come into memory one module at a time, in every forward pass
               (accelerate's disk offload): a model larger than memory runs, slowly
    lazy       in float64, large weights stay as they are stored, in their files, and are widened where they are used;
               nothing can be written into them

    Raises `Unloadable` when a weight is missing or has another shape: transformers would initialise it at
    random and carry on. Tensors the class does not have (BERT's `cls.seq_relationship` under a masked LM) are
    returned in `ignored`: they cannot reach an output, so the caller decides.
    """
    folder = Path(folder)
    cls = model_class(folder)
    exact = dtype == "float64"
    kwargs: dict[str, Any] = {"dtype": DTYPES[dtype], "use_safetensors": not is_pickled(folder), **LOCAL}
    lazy = lazy and exact and not disk
    with (
        quiet(),
        TrueFloat64(lazy=lazy) if exact else contextlib.nullcontext(),
        _in_this_thread() if lazy else contextlib.nullcontext(),
    ):
        try:
            config = transformers.AutoConfig.from_pretrained(folder, **LOCAL)
            if exact and attention is None and not any(getattr(config, name, False) for name in FLOAT32_ATTENTION):
                attention = "eager"
            if attention is not None:
                kwargs["attn_implementation"] = attention
            if disk:
                offload = tempfile.mkdtemp(prefix="grow-offload-")
                kwargs |= {"device_map": {"": "disk"}, "offload_folder": offload}
            model, info = cls.from_pretrained(folder, config=config, output_loading_info=True, **kwargs)  # type: ignore[attr-defined]
            if getattr(model.config, "_experts_implementation", None) not in (None, "eager") and _needs_eager(model):
                model.set_experts_implementation("eager")
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # transformers raises a dozen types here; to a user all mean the same
            raise Unloadable(
                folder,
                what=f"stock {cls.__name__} cannot load it as {dtype}: {type(error).__name__}",
                why=_short(str(error)),
                fix="compare config.json with the shapes of the tensors (grow inspect)",
            ) from error
    model.eval().requires_grad_(False)
    for p in model.parameters() if is_pickled(folder) else ():
        if not p.is_contiguous():
            p.data = p.data.contiguous()  # a pickle keeps strides, which stock saving then trips over
    missing, mismatched = sorted(info["missing_keys"]), [str(k) for k in info["mismatched_keys"]]
    if missing or mismatched or info["error_msgs"]:
        reason = told(map(str, sorted(info["unexpected_keys"])), where=str(folder))
        raise Unloadable(
            folder,
            what=f"{cls.__name__}: {len(missing)} weights are missing, {len(mismatched)} have another shape"
            + (f"; it {reason.what}" if reason else ""),
            details=[("missing", listing(missing)), ("shape", listing(sorted(mismatched)))],
            why=reason.why if reason else "transformers would begin them anew, most of them at random, and carry on",
            fix=reason.fix
            if reason
            else "write these tensors, or name the class of these files in config.json: architectures",
        )
    if disk:
        # weights that had to be converted lie there as long as the model lives
        weakref.finalize(model, shutil.rmtree, offload, ignore_errors=True)
    if exact:
        _all_wide(folder, model)
    elif not disk:
        _realign(model)
    return Loaded(model, tuple(sorted(info["unexpected_keys"])))


@contextlib.contextmanager
def _in_this_thread() -> Iterator[None]:
    """Stock code casts what it loads where `TrueFloat64` sees it, not in threads of its own."""
    name = "HF_DEACTIVATE_ASYNC_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _needs_eager(model: Any) -> bool:
    """Whether the default kernel of the experts, grouped_mm, cannot run: not in float64, nor on rows that are no
    multiple of 16 bytes."""
    stacks = [p for p in model.parameters() if p.ndim == 3]
    return any(p.dtype == torch.float64 or p.shape[-1] * p.element_size() % 16 for p in stacks)


@contextlib.contextmanager
def forward(model: Any) -> Iterator[None]:
    """Where a forward pass of `model` belongs: no gradients, `TrueFloat64` for a float64 model, one thread
    for a small one (1.4 M parameters on 2 busy cores: 2 s instead of 36 s for cached decoding).
    """
    threads = torch.get_num_threads()
    mode = TrueFloat64() if model.dtype == torch.float64 else contextlib.nullcontext()
    if sum(p.numel() for p in model.parameters()) < SMALL:
        torch.set_num_threads(1)
    try:
        # Not inference mode: some classes keep what they computed (BEiT's position index) for all their models, and
        # what was made in that mode cannot be trained with.
        with torch.no_grad(), mode:
            yield
    finally:
        torch.set_num_threads(threads)


def tensors(model: Any) -> dict[str, torch.Tensor]:
    """Every parameter and buffer, non-persistent buffers included, by module name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def stored(model: Any, name: str) -> torch.Tensor | None:
    """A parameter in float64; of one whose weights stay on disk, what accelerate reads for it; None where it cannot."""
    parameter = model.get_parameter(name)
    if not parameter.is_meta:
        return parameter.detach().to(torch.float64)
    owner, _, key = name.rpartition(".")
    weights = getattr(getattr(model.get_submodule(owner), "_hf_hook", None), "weights_map", None)
    try:
        return None if weights is None else weights[key].detach().to(torch.float64)
    except (KeyError, OSError, ValueError):
        return None


def _all_wide(folder: Path, model: Any) -> None:
    narrow = [f"{name} ({t.dtype})" for name, t in tensors(model).items() if t.dtype in _WIDE]
    if narrow:
        raise Unloadable(
            folder,
            what=f"{len(narrow)} tensors are not float64 after loading: {listing(narrow)}",
            why="the class pins their dtype, so float64 cannot be proved for it",
            fix="report this model class to grow",
        )


def _realign(model: Any) -> None:
    """Move memory-mapped weights to 64-byte aligned memory: BLAS may round differently on other alignments,
    and two loads of one checkpoint must agree bit for bit. Ties survive, because only `.data` is replaced."""
    for tensor in tensors(model).values():
        if tensor.data_ptr() % 64:
            tensor.data = tensor.data.clone()


def _short(text: str, limit: int = 600) -> str:
    text = "\n".join(line.rstrip() for line in text.strip().splitlines() if line.strip())
    return text if len(text) <= limit else text[:limit] + " …"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bar and no load report: this module reports what they would say."""
    log = transformers.utils.logging
    level, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    if level != log.CRITICAL:  # a level that is set makes every logger forget what it knows of the others'
        log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    offload = logging.getLogger("accelerate.big_modeling")  # it says for every load that weights stay on disk

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    offload.addFilter(is_error)
    try:
        yield
    finally:
        offload.removeFilter(is_error)
        if level != log.CRITICAL:
            log.set_verbosity(level)
        if bar:
            log.enable_progress_bar()
