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
import functools
import json
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from grow.errors import BadInput, Refused, listing
from grow.models.true_float64 import quiet

MODULE = vars(nn.Module()).keys()
HOOKS = {name for name in MODULE if "hook" in name}  # where torch keeps the hooks of a module
CAPTURING = "transformers.utils.output_capturing"  # its hooks install themselves again, and change nothing
CHECKPOINTING = (
    "make_inputs_require_grads"  # of enable_input_require_grads, which `grow.growth.in_memory.build` asks for again
)
CARRIED = {"gradient_checkpointing", "_gradient_checkpointing_func", "generation_config", "name_or_path"}
CARRIED |= {"_is_hf_initialized", "warnings_issued", "_require_grads_hook", "_require_grads_hooks"}
"""What differs from model to model and comes along, or means nothing."""
FRAMEWORKS = ("accelerate.", "torch.amp.")  # wrap a forward to move tensors or to choose a dtype for it
CHANGING = {"dynamic", "longrope"}  # kinds of RoPE that compute their frequencies anew for every length
FREQUENCIES = {"inv_freq", "long_inv_freq", "max_seq_len_cached"}
UNREAD = {"__init__", "extra_repr", "__repr__", "_init_weights"}
TOKENS = 12
SUMS = 64
"""Units in the last place by which equal code may differ on an accelerator, whose sums have no fixed order. On a CPU
it has the same bits."""
WHY = "the grown model is built from the config and the weights alone, and this is in neither"
MERGE = "model = model.merge_and_unload() puts them into the weights; grow that, and make new ones for the result"


class Fault(NamedTuple):
    """What a model has that its twin has not."""

    where: str
    what: str
    fix: str


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
        made = cls(config)
    made.tie_weights()  # each tied name was given a parameter of its own
    return made


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
    made = type(model.config).from_dict(dict(config))
    for kernel in ("_attn_implementation", "_experts_implementation"):
        if getattr(model.config, kernel, None) is not None:
            setattr(made, kernel, getattr(model.config, kernel))
    try:
        twin = skeleton(cls, made)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise BadInput(
            f"{cls.__name__}: config",
            what=f"builds no model: {type(error).__name__}: {first}",
            why="it was edited after the model was built",
            fix="give it back the values that the model was built with",
        ) from None
    if faults := list(_faults(model, twin)):
        first_one, *more = faults
        also = [("also", listing((f"{f.where} {f.what}" for f in more), 4))] if more else []
        raise Refused(first_one.where, what=first_one.what, why=WHY, fix=first_one.fix, details=also)
    twin.load_state_dict(model.state_dict(), strict=False, assign=True)
    twin.tie_weights()
    for name, module in twin.named_modules():
        for key, buffer in model.get_submodule(name)._buffers.items():
            own = module._buffers.get(key)
            follows = own is not None and follows_length(module, key)
            module._buffers[key] = own.to(buffer.device, buffer.dtype) if own is not None and follows else buffer
    return twin.train(model.training)


def _faults(model: nn.Module, twin: nn.Module) -> Iterator[Fault]:
    has, wanted = (dict(one.named_modules(remove_duplicate=False)) for one in (model, twin))
    skipped: list[str] = []
    cls = type(model).__name__
    for name in [*has, *(n for n in wanted if n not in has)]:
        if any(name.startswith(f"{prefix}.") for prefix in skipped):
            continue
        where, module, other = name or cls, has.get(name), wanted.get(name)
        found = None
        if module is None:
            found = Fault(where, f"is missing; its config builds a {_called(wanted[name])}", _again(cls))
        elif parametrize.is_parametrized(module):
            tensor = next(iter(module.parametrizations))
            how = f"torch.nn.utils.parametrize.remove_parametrizations(model.get_submodule({name!r}), {tensor!r})"
            found = Fault(f"{where}.{tensor}", "has a parametrization", how)
        elif other is None:
            found = Fault(where, f"is a {_called(module)}, and its config builds nothing there", _rid(where))
        elif type(module) is not type(other):
            what = f"is a {_called(module)}; its config builds a {_called(other)}"
            found = Fault(where, what, _dequantise(module) or _again(cls))
        if found:
            skipped.append(name)
            yield found
        else:
            yield from _compared(where, cls, model, module, other)  # type: ignore[arg-type]
    if not skipped:
        yield from _shared(model, twin)


def _compared(where: str, cls: str, model: Any, module: nn.Module, twin: nn.Module) -> Iterator[Fault]:
    """Of two modules of one class."""
    if kind := hooked(module, twin):
        fix = "remove it before growing, and register it again on the result"
        yield Fault(f"{where}: {kind}", "would be lost", fix)
    hook = getattr(module, "_hf_hook", None)
    if hook is not None and not _moves(hook):
        yield Fault(f"{where}: _hf_hook", f"is a {_called(hook)}", "accelerate.hooks.remove_hook_from_module(…)")
    for name in {**module._parameters, **twin._parameters}:
        p, q = module._parameters.get(name), twin._parameters.get(name)
        if (p is None) != (q is None):
            what = "is missing" if p is None else "is a parameter that its config does not build"
            yield Fault(f"{where}.{name}", what, MERGE if "lora" in name.lower() else _again(cls))
        elif p is not None and q is not None and p.shape != q.shape:
            what = f"is of {tuple(p.shape)}; its config builds {tuple(q.shape)}"
            yield Fault(f"{where}.{name}", what, "let the config say the sizes that the weights have")
        elif p is not None and type(p.data) is not torch.Tensor:
            yield Fault(f"{where}.{name}", f"is a {_called(p.data)}", "model.dequantize(), or load it unquantised")
        elif p is not None and (getattr(p, "_backward_hooks", None) or _accumulating(p)):
            fix = "remove it before growing, and register it again on the result"
            yield Fault(f"{where}.{name}: a hook on its gradient", "would be lost", fix)
    for name in {**module._buffers, **twin._buffers}:
        if not follows_length(module, name) and not _alike(module._buffers.get(name), twin._buffers.get(name)):
            yield Fault(f"{where}.{name}", "is not the buffer that its config builds", _again(cls))
    has, wanted = vars(module), vars(twin)
    for name in {**has, **wanted}:
        if name in MODULE or name in CARRIED or follows_length(module, name):
            continue
        if name in has and name not in wanted and hasattr(type(module), name):
            if not (callable(has[name]) and _wraps(has[name], type(module), name)):
                yield Fault(f"{where}.{name}", "was replaced on this object", f"del model{_path(where, cls)}.{name}")
        elif name == "config":
            if has.get(name) is not model.config and not _same(has.get(name), wanted.get(name)):
                yield Fault(f"{where}.config", "is not the model's config", _again(cls))
        elif name not in wanted and not callable(has[name]):
            continue  # stock code cannot read what stock code does not set: a note, or what a resized table leaves
        elif name in _reads_of(module) and not _training_only(module, name):
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
    found = vars(module).get(kind)
    return [hook for hook in found.values() if callable(hook)] if isinstance(found, dict) else []


def _where_from(hook: Any) -> tuple[str, str]:
    hook = getattr(hook, "hook", hook)
    return getattr(hook, "__module__", "") or "", getattr(hook, "__qualname__", type(hook).__qualname__)


def _accumulating(p: torch.Tensor) -> bool:
    return bool(getattr(p, "_post_accumulate_grad_hooks", None))


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
        made = getattr(inner, "__globals__", {}).get("__name__") or type(inner).__module__
        if not made.startswith(FRAMEWORKS) or "__wrapped__" not in vars(function):
            return False
        function = function.__wrapped__


def _reads_of(module: nn.Module) -> frozenset[str]:
    cls: Any = type(module)
    return reads(cls)


@functools.cache
def reads(cls: Any) -> frozenset[str]:
    """Names that code looks up once a module of this class is built."""
    found: set[str] = set()
    for base in cls.__mro__:
        if base is PreTrainedModel:
            found |= _names(vars(base).get("loss_function"))
        elif base.__module__.startswith("transformers.") and issubclass(base, nn.Module):
            around = vars(sys.modules[base.__module__]).values()
            ours = [
                f
                for f in around
                if isinstance(f, types.FunctionType) and (f.__module__ or "").startswith("transformers")
            ]
            for function in (*ours, *(f for name, f in vars(base).items() if name not in UNREAD)):
                found |= _names(function)
            found |= _kernels()
        elif base not in (object, nn.Module):
            for name, function in vars(base).items():
                found |= _names(function) if name not in UNREAD else set()
    return frozenset(found)


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
    found: set[str] = set()
    function = getattr(function, "__func__", function)
    while function is not None:
        if (code := getattr(function, "__code__", None)) is not None:
            found |= _looked_up(code)
        function = getattr(function, "__wrapped__", None)
    return found


def _looked_up(code: types.CodeType) -> set[str]:
    found = set(code.co_names)
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            found |= _looked_up(value)
        elif isinstance(value, str) and value.isidentifier():  # getattr(module, "scaling", …)
            found.add(value)
    return found


def _training_only(module: nn.Module, name: str) -> bool:
    """A row of a table without a gradient comes along; see `carry_padding`."""
    return name == "padding_idx" and _plain_table(module)


def _plain_table(module: nn.Module | None) -> bool:
    """Whether it is a table that is looked up and, if stock code has changed anything, only scaled."""
    if not isinstance(module, nn.Embedding):
        return False
    forward = type(module).forward
    return forward is nn.Embedding.forward or "padding_idx" not in forward.__code__.co_names


def carry_padding(model: nn.Module, grown: nn.Module) -> None:
    """Which row of a table gets no gradient stays what it was, whatever was set in the config since."""
    new = dict(grown.named_modules())
    for name, module in model.named_modules():
        if _plain_table(module) and _plain_table(new.get(name)):
            new[name].padding_idx = module.padding_idx


def _shared(model: nn.Module, twin: nn.Module) -> Iterator[Fault]:
    has, wanted = ({n: group for group in _groups(one) for n in group} for one in (model, twin))
    for name, group in has.items():
        others = wanted.get(name, group)
        if group != others:
            lost, more = sorted(others - group), sorted(group - others)
            what = f"is the same parameter as {more[0]}; its config builds two" if more else ""
            what = what or f"is not the same parameter as {lost[0]}; its config ties them"
            yield Fault(name, what, f"model.config.tie_word_embeddings = {bool(more)}, if that is what was changed")
            return


def _groups(model: nn.Module) -> list[frozenset[str]]:
    found: dict[int, set[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(p), set()).add(name)
    return [frozenset(names) for names in found.values()]


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
    """What the config's JSON says; the name of its class is the model's."""
    return {k: v for k, v in json.loads(config.to_json_string(use_diff=False)).items() if k != "architectures"}


def _called(thing: Any) -> str:
    cls = type(thing)
    return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")


def _value(value: Any) -> str:
    if isinstance(value, (bool, int, float, str, tuple, list, dict, type(None))):
        return repr(value)[:80]
    return f"a {_called(value)}" if not callable(value) else getattr(value, "__qualname__", f"a {_called(value)}")


def _path(where: str, cls: str) -> str:
    return "" if where == cls else f".get_submodule({where!r})"


def _again(cls: str) -> str:
    return f"save it, look at what stock code loads ({cls}.from_pretrained), and grow that"


def _rid(where: str) -> str:
    return MERGE if "lora" in where.lower() or "adapter" in where.lower() else f"take {where} away before growing"


def _dequantise(module: nn.Module) -> str:
    name = _called(module).lower()
    words = ("bitsandbytes", "quant", "bit", "gptq", "awq", "torchao")
    return "model.dequantize(), or load it unquantised" if any(word in name for word in words) else ""


# Running alike


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
        fix=_again(type(model).__name__),
    )


def tokens_for(model: Any) -> dict[str, torch.Tensor]:
    """A row of tokens from all over the table."""
    words = model.get_input_embeddings().num_embeddings
    ids = torch.linspace(0, words - 1, TOKENS, dtype=torch.float64).long().clamp(0, words - 1)[None]
    return {"input_ids": torch.stack([ids, ids.flip(1)], 1) if "MultipleChoice" in type(model).__name__ else ids}


def outputs(model: Any, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Every output but the loss, in evaluation mode and in the weights' dtype: what mixed precision has put around the
    model's own forward is left out."""
    given = {k: v for k, v in batch.items() if k != "num_items_in_batch"}
    mixed = "_original_forward" in vars(model)
    call = functools.partial(type(model).forward, model) if mixed else model
    with _undisturbed(model), torch.no_grad():
        try:
            found = call(**{**given, "return_dict": True})
        except (RuntimeError, IndexError, ValueError, TypeError, AttributeError, KeyError) as error:
            first = (str(error).strip().splitlines() or [""])[0]
            raise BadInput(
                type(model).__name__,
                what=f"cannot run: {type(error).__name__}: {first}",
                why="what it computes is compared before and after the growth",
                fix="try model(**batch); or verify=False",
            ) from error
    return {k: v for k, v in found.items() if torch.is_tensor(v) and v.is_floating_point() and k != "loss"}


def apart(a: Any, b: Any) -> float | None:
    """How far two sets of outputs of equal code are apart, None where they are equal."""
    if a.keys() != b.keys():
        return float("inf")
    for name, x in a.items():
        y = b[name]
        if x.shape != y.shape or x.dtype != y.dtype:
            return float("inf")
        if torch.equal(x, y) or torch.equal(x.nan_to_num(), y.nan_to_num()):
            continue
        off, size = float((x - y).double().abs().max()), float(x.double().abs().max())
        if x.device.type == "cpu" or not off <= SUMS * torch.finfo(x.dtype).eps * size:
            return off
    return None


def _traced(model: Any, batch: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    found: list[tuple[str, dict[str, torch.Tensor]]] = []
    handles = []

    def watch(name: str) -> Any:
        def hook(module: Any, given: Any, result: Any) -> None:
            parts = (
                result.values() if isinstance(result, Mapping) else result if isinstance(result, tuple) else [result]
            )
            kept = {str(i): v.clone() for i, v in enumerate(parts) if torch.is_tensor(v) and v.is_floating_point()}
            found.append((name, kept))

        return hook

    try:
        for name, module in model.named_modules():
            handles.append(module.register_forward_hook(watch(name)))
        outputs(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    yield from found


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
