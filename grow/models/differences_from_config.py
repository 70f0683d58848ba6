"""What a model in memory has that stock code would not build from its config."""

from __future__ import annotations

import functools
import json
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn
from torch.nn.utils import parametrize

from grow.models.names_looked_up import reads_of

MODULE = vars(nn.Module()).keys()
HOOKS = {name for name in MODULE if "hook" in name}  # where torch keeps the hooks of a module
CAPTURING = "transformers.utils.output_capturing"  # its hooks install themselves again, and change nothing
CHECKPOINTING = (
    "make_inputs_require_grads"  # of enable_input_require_grads, which `grow.growth.in_memory.build` asks for again
)
CARRIED = {"gradient_checkpointing", "_gradient_checkpointing_func", "generation_config", "name_or_path"}
CARRIED |= {"_is_hf_initialized", "warnings_issued", "_require_grads_hook", "_require_grads_hooks"}
"""What differs from model to model and comes along, or means nothing."""
OF_MODEL = {"architectures", "vocab_size", "dtype"}
FRAMEWORKS = ("accelerate.", "torch.amp.")  # wrap a forward to move tensors or to choose a dtype for it
CHANGING = {"dynamic", "longrope"}  # kinds of RoPE that compute their frequencies anew for every length
FREQUENCIES = {"inv_freq", "long_inv_freq", "max_seq_len_cached"}
WHY = "the grown model is built from the config and the weights alone, and this is in neither"
MERGE = "model = model.merge_and_unload() puts them into the weights; grow that, and make new ones for the result"


class Fault(NamedTuple):
    """What a model has and its twin does not have, or the reverse."""

    where: str
    what: str
    fix: str


def faults_of(model: nn.Module, twin: nn.Module, grows: Callable[[str], bool]) -> Iterator[Fault]:
    """What the model has that its twin does not.

    grows  whether a tensor of this name is a weight that grows, as a stored buffer may be
    """
    has, wanted = (dict(root.named_modules(remove_duplicate=False)) for root in (model, twin))
    skipped: list[str] = []
    cls = type(model).__name__
    for name in [*has, *(n for n in wanted if n not in has)]:
        if any(name.startswith(f"{prefix}.") for prefix in skipped):
            continue
        where, module, other = name or cls, has.get(name), wanted.get(name)
        fault = None
        if module is None:
            fault = Fault(where, f"is missing; its config builds a {_called(wanted[name])}", again(cls))
        elif parametrize.is_parametrized(module):
            tensor = next(iter(module.parametrizations))
            how = f"torch.nn.utils.parametrize.remove_parametrizations(model.get_submodule({name!r}), {tensor!r})"
            fault = Fault(f"{where}.{tensor}", "has a parametrization", how)
        elif other is None:
            fault = Fault(where, f"is a {_called(module)}, and its config builds nothing there", _rid(where))
        elif type(module) is not type(other):
            what = f"is a {_called(module)}; its config builds a {_called(other)}"
            fault = Fault(where, what, _dequantise(module) or again(cls))
        if fault:
            skipped.append(name)
            yield fault
        else:
            yield from _compared(name, cls, model, module, other, grows)  # type: ignore[arg-type]
    if not skipped:
        yield from _shared(model, twin)


def _compared(
    path: str, cls: str, model: Any, module: nn.Module, twin: nn.Module, grows: Callable[[str], bool]
) -> Iterator[Fault]:
    """The differences between two modules of one class."""
    where = path or cls
    if kind := hooked(module, twin):
        fix = "remove it before growing, and register it again on the result"
        yield Fault(f"{where}: {kind}", "would be lost", fix)
    hook = getattr(module, "_hf_hook", None)
    if hook is not None and not _moves(hook):
        yield Fault(f"{where}: _hf_hook", f"is a {_called(hook)}", "accelerate.hooks.remove_hook_from_module(…)")
    for name in {**module._parameters, **twin._parameters}:
        parameter, wanted_parameter = module._parameters.get(name), twin._parameters.get(name)
        if (parameter is None) != (wanted_parameter is None):
            what = "is missing" if parameter is None else "is a parameter that its config does not build"
            yield Fault(f"{where}.{name}", what, MERGE if "lora" in name.lower() else again(cls))
        elif parameter is not None and wanted_parameter is not None and parameter.shape != wanted_parameter.shape:
            what = f"is of {tuple(parameter.shape)}; its config builds {tuple(wanted_parameter.shape)}"
            yield Fault(f"{where}.{name}", what, "let the config say the sizes that the weights have")
        elif parameter is not None and type(parameter.data) is not torch.Tensor:
            yield Fault(
                f"{where}.{name}", f"is a {_called(parameter.data)}", "model.dequantize(), or load it unquantised"
            )
        elif parameter is not None and (getattr(parameter, "_backward_hooks", None) or _accumulating(parameter)):
            fix = "remove it before growing, and register it again on the result"
            yield Fault(f"{where}.{name}: a hook on its gradient", "would be lost", fix)
    for name in {**module._buffers, **twin._buffers}:
        stored = name not in module._non_persistent_buffers_set and grows(f"{path}.{name}".lstrip("."))
        like = stored or follows_length(module, name) or _alike(module._buffers.get(name), twin._buffers.get(name))
        if not like:
            yield Fault(f"{where}.{name}", "is not the buffer that its config builds", again(cls))
    has, wanted = vars(module), vars(twin)
    for name in {**has, **wanted}:
        if name in MODULE or name in CARRIED or follows_length(module, name):
            continue
        if name in has and name not in wanted and hasattr(type(module), name):
            if not (callable(has[name]) and _wraps(has[name], type(module), name)):
                yield Fault(f"{where}.{name}", "was replaced on this object", f"del model{_path(where, cls)}.{name}")
        elif name == "config":
            if has.get(name) is not model.config and not _same(has.get(name), wanted.get(name)):
                yield Fault(f"{where}.config", "is not the model's config", again(cls))
        elif name not in wanted and not callable(has[name]):
            continue  # stock code cannot read what stock code does not set: a note, or what a resized table leaves
        elif name in reads_of(module) and not _training_only(module, name):
            is_now, stock = has.get(name), wanted.get(name)
            if not _same(is_now, stock):
                what = f"is {_value(is_now)}; its config builds {_value(stock)}"
                yield Fault(f"{where}.{name}", what, f"let the config say it, or give back {_value(stock)}")


def follows_length(module: nn.Module, name: str) -> bool:
    """Whether a buffer holds frequencies that are computed anew for every length, of one kind of layer or of all."""
    kinds = getattr(module, "rope_type", None)
    if isinstance(kinds, dict):
        return any(kind in CHANGING and name.removeprefix(f"{layer}_") in FREQUENCIES for layer, kind in kinds.items())
    return kinds in CHANGING and name in FREQUENCIES


def hooked(module: nn.Module, twin: nn.Module | None = None) -> str:
    """What holds the first hook that would be lost with the module, "" where there is none."""
    for kind in sorted(HOOKS & vars(module).keys()):
        own = {_where_from(hook) for hook in _hooks(twin, kind)} if twin is not None else set()
        for hook in _hooks(module, kind):
            module_of, name = _where_from(hook)
            input_grads = module_of.startswith("transformers.") and name.endswith(CHECKPOINTING)
            if not (module_of == CAPTURING or input_grads or (module_of, name) in own):
                return kind.strip("_")
    return ""


def _hooks(module: nn.Module, kind: str) -> list[Any]:
    hooks = vars(module).get(kind)
    return [hook for hook in hooks.values() if callable(hook)] if isinstance(hooks, dict) else []


def _where_from(hook: Any) -> tuple[str, str]:
    hook = getattr(hook, "hook", hook)
    return getattr(hook, "__module__", "") or "", getattr(hook, "__qualname__", type(hook).__qualname__)


def _accumulating(parameter: torch.Tensor) -> bool:
    return bool(getattr(parameter, "_post_accumulate_grad_hooks", None))


def _moves(hook: Any) -> bool:
    """Whether a hook of accelerate's is one of its own, which move weights and inputs between devices."""
    return type(hook).__module__ == "accelerate.hooks" and all(map(_moves, getattr(hook, "hooks", ())))


def _wraps(function: Any, cls: type, name: str) -> bool:
    """Whether this is the class's own function within nothing but the wrappers of known frameworks."""
    while True:
        function = getattr(function, "__func__", function)
        if function is getattr(cls, name):
            return True
        inner = function.func if isinstance(function, functools.partial) else function
        home = getattr(inner, "__globals__", {}).get("__name__") or type(inner).__module__
        if not home.startswith(FRAMEWORKS) or "__wrapped__" not in vars(function):
            return False
        function = function.__wrapped__


def _training_only(module: nn.Module, name: str) -> bool:
    """A row of a table without a gradient comes along; see `carry_padding`."""
    return name == "padding_idx" and plain_table(module)


def plain_table(module: nn.Module | None) -> bool:
    """Whether it is a table that is looked up and, if stock code has changed anything, only scaled."""
    if not isinstance(module, nn.Embedding):
        return False
    forward = type(module).forward
    return forward is nn.Embedding.forward or "padding_idx" not in forward.__code__.co_names


def _shared(model: nn.Module, twin: nn.Module) -> Iterator[Fault]:
    has, wanted = ({n: group for group in _groups(root) for n in group} for root in (model, twin))
    for name, group in has.items():
        others = wanted.get(name, group)
        if group != others:
            lost, more = sorted(others - group), sorted(group - others)
            what = f"is the same parameter as {more[0]}; its config builds two" if more else ""
            what = what or f"is not the same parameter as {lost[0]}; its config ties them"
            yield Fault(name, what, f"model.config.tie_word_embeddings = {bool(more)}, if that is what was changed")
            return


def _groups(model: nn.Module) -> list[frozenset[str]]:
    groups: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), set()).add(name)
    return [frozenset(names) for names in groups.values()]


def _alike(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    """Equal in the dtype of the first, but for one rounding of the arithmetic that computes it in float32."""
    if a is None or b is None:
        return a is b
    if a.is_meta or b.is_meta:
        return a.shape == b.shape
    b = b.to(a.device, a.dtype)
    if a.shape != b.shape or not a.is_floating_point():
        return torch.equal(a, b)
    return torch.allclose(a.double(), b.double(), rtol=4 * torch.finfo(torch.float32).eps, atol=0, equal_nan=True)


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and _alike(a, b)
    if isinstance(a, transformers.PreTrainedConfig):
        return isinstance(b, transformers.PreTrainedConfig) and _written(a) == _written(b)
    if type(a) is not type(b):
        return False
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_same(value, b[key]) for key, value in a.items())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, types.MethodType):
        return a.__func__ is b.__func__
    if isinstance(a, functools.partial):
        return _same((a.func, a.args, a.keywords), (b.func, b.args, b.keywords))
    if isinstance(a, types.FunctionType):
        return a.__code__ is b.__code__
    if type(a).__eq__ is object.__eq__:
        return vars(a).keys() == vars(b).keys() if hasattr(a, "__dict__") else True
    return bool(a == b) or a != a


def _written(config: Any) -> Any:
    """What the JSON of a part's own config says; classes, ids, vocabulary and dtype are what the model's says later."""
    said = json.loads(config.to_json_string(use_diff=False))
    return {k: v for k, v in said.items() if k not in OF_MODEL and not k.endswith("_token_id")}


def _called(thing: Any) -> str:
    cls = type(thing)
    return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")


def _value(value: Any) -> str:
    if isinstance(value, (bool, int, float, str, tuple, list, dict, type(None))):
        return repr(value)[:80]
    return f"a {_called(value)}" if not callable(value) else getattr(value, "__qualname__", f"a {_called(value)}")


def _path(where: str, cls: str) -> str:
    return "" if where == cls else f".get_submodule({where!r})"


def again(cls: str) -> str:
    return f"save it, look at what stock code loads ({cls}.from_pretrained), and grow that"


def _rid(where: str) -> str:
    return MERGE if "lora" in where.lower() or "adapter" in where.lower() else f"take {where} away before growing"


def _dequantise(module: nn.Module) -> str:
    name = _called(module).lower()
    words = ("bitsandbytes", "quant", "bit", "gptq", "awq", "torchao")
    return "model.dequantize(), or load it unquantised" if any(word in name for word in words) else ""
