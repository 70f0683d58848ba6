"""Tiny stock models of every family and variant, all of whose parameters are random, and how to compare them.

HF's default initialisation (gains 1, biases 0) hides most mistakes, so nothing keeps it. Sizes differ from each
other, eps is large where the config has it, and a model whose logits are not alive is an error.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from encoder_variants import ENCODER_VARIANTS, SHARING  # noqa: F401
from llama_variants import LLAMA_VARIANTS
from torch.overrides import TorchFunctionMode
from variants import (  # noqa: F401  tests import them from here
    KINDS,
    LLAMA,
    LM,
    LONG,
    MLM,
    ONE_EACH,
    VARIANTS,
    Variant,
)

FOUND = {"labels": 3, "positions": 17, "channels": 3, "patch": 4, "pooled": 7, "pixels": 48, "kernel": 4}
"""Sizes of axes that no config field says."""

VARIANTS.update(LLAMA_VARIANTS | ENCODER_VARIANTS)
transformers.logging.set_verbosity(transformers.logging.CRITICAL)
transformers.logging.disable_progress_bar()


def make(variant: str, seed: int = 1, **other: Any) -> transformers.PreTrainedModel:
    """The stock model in float32, every parameter drawn anew: tables N(0, 1), weights N(0, 2 / in), gains about 1.

    other  config fields that are not the variant's own
    """
    kind, auto, fields, _ = VARIANTS[variant]
    config = transformers.AutoConfig.for_model(kind, **{**fields, **other})
    model = getattr(transformers, auto).from_config(config, dtype=torch.float32).eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=draw)
            if p.ndim == 1:
                p.copy_(0.3 * noise + name.endswith("weight"))
            elif any(word in name for word in ("embed", "wte", "wpe")) and "project" not in name:
                p.copy_(noise)
            else:  # a kernel reads all dims behind the first
                p.copy_(noise * (2 / (p[0].numel() if p.ndim > 3 else min(p.shape[-2:]))) ** 0.5)
        for name, buffer in model.state_dict().items():  # a router's bias is one
            if name not in dict(model.named_parameters()) and buffer.is_floating_point():
                buffer.copy_(0.3 * torch.randn(buffer.shape, generator=draw))
    return model


def save(variant: str, folder: Path, dtype: str = "float32", **other: Any) -> Path:
    """A stock checkpoint of `make(variant)` whose outputs are alive (std > 0.5)."""
    model = make(variant, **other).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    for name, value in outputs(folder).items():
        assert value.std() > 0.5, f"{variant}: {name} has std {value.std():.2g}"
    return folder


class Float64(TorchFunctionMode):
    """Inside, a request for float32, float16 or bfloat16 is one for float64: transformers casts to float32 in norms,
    softmax and RoPE. Written apart from `grow.models.true_float64`, so that neither hides a mistake of the other."""

    def __enter__(self):
        torch.set_default_dtype(torch.float64)  # an integer tensor times a Python float takes it
        return super().__enter__()

    def __exit__(self, *exc):
        torch.set_default_dtype(torch.float32)
        return super().__exit__(*exc)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.Tensor.view:  # reinterprets bits when it gets a dtype: safetensors reads files with it
            return func(*args, **kwargs)
        if func is torch.Tensor.float:
            return args[0].to(torch.float64)
        if len(args) > 1 or not isinstance(args[0] if args else None, torch.Tensor):  # most calls have one tensor alone
            args = tuple(map(_wide, args))
        return func(*args, **{k: _wide(v) for k, v in kwargs.items()}) if kwargs else func(*args)


def _wide(value: Any) -> Any:
    narrow = isinstance(value, torch.dtype) and value.is_floating_point
    return torch.float64 if narrow else value


def load(folder: Path) -> transformers.PreTrainedModel:
    """The stock model in true float64, every weight from the file. Use it inside `Float64`."""
    config = transformers.AutoConfig.from_pretrained(folder)
    cls = getattr(transformers, config.architectures[0])
    model, info = cls.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"], info
    assert not info["mismatched_keys"], info
    assert not set(info["unexpected_keys"]), info
    tensors = [*model.parameters(), *model.buffers()]
    assert all(t.dtype == torch.float64 for t in tensors if t.is_floating_point())
    if getattr(model.config, "_experts_implementation", None):
        model.set_experts_implementation("eager")  # the default has no float64 kernel
    return model.eval()


def outputs(
    source: Path | transformers.PreTrainedModel, lengths=(17,), *, states: bool = False
) -> dict[str, torch.Tensor]:
    """Every output on random inputs, in true float64; `states` adds the residual stream after each layer."""
    with Float64(), torch.no_grad():
        model = source if isinstance(source, transformers.PreTrainedModel) else load(source)
        found: dict[str, torch.Tensor] = {}
        for length in lengths:
            more = {"use_cache": False} if hasattr(model.config, "vocab_size") else {}
            result = model(**inputs(model.config, length), output_hidden_states=states, **more)
            for name, value in result.items():
                parts = {name: value} if torch.is_tensor(value) else dict(enumerate(value))
                found |= {f"{name if k == name else f'{name}.{k}'} of {length}": v for k, v in parts.items()}
    return found


ENCODERS = (
    "bert",
    "roberta",
    "distilbert",
    "xlm-roberta",
    "camembert",
    "data2vec-text",
    "ernie",
    "electra",
    "eurobert",
    "roformer",
    "mpnet",
    "albert",
    "layoutlm",
    "big_bird",
    "longformer",
    "roberta-prelayernorm",
    "xlm-roberta-xl",
    "megatron-bert",
    "rembert",
    "modernbert",
    "deberta-v2",
)
"""Model types that read a text in both directions."""


def inputs(config, length: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(length)
    if hasattr(config, "image_size"):
        return {"pixel_values": torch.randn(3, config.num_channels, *_grid(config.image_size), generator=draw)}
    given = {"input_ids": torch.randint(4, config.vocab_size, (3, length), generator=draw)}
    if getattr(config, "type_vocab_size", 0):
        given["token_type_ids"] = torch.randint(0, config.type_vocab_size, (3, length), generator=draw)
    if config.model_type == "layoutlm":
        corners = torch.randint(0, config.max_2d_position_embeddings, (3, length, 2, 2), generator=draw)
        given["bbox"] = corners.sort(dim=2).values.reshape(3, length, 4)
    if config.model_type == "ernie" and config.use_task_id:
        given["task_type_ids"] = torch.randint(0, config.task_type_vocab_size, (3, length), generator=draw)
    if config.model_type == "longformer":
        given["global_attention_mask"] = (torch.arange(length) % 5 == 0).expand(3, length).long()
    if config.model_type in ENCODERS:
        given["attention_mask"] = torch.ones(3, length, dtype=torch.int64)
        given["attention_mask"][0, -4:] = 0
    return given


def _grid(size: int | list[int]) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size)


def difference(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    """max |Δ| over all outputs, each relative to its standard deviation in `a`; inf where something is not finite."""
    assert a.keys() == b.keys()
    worst = 0.0
    for name, x in a.items():
        assert x.shape == b[name].shape, name
        delta = ((x - b[name]).abs().max() / x.std()).item()
        worst = max(worst, delta if delta == delta else float("inf"))
    return worst


def seeded(*words: object) -> random.Random:
    """A generator that depends on the words only, not on the process."""
    return random.Random(" ".join(map(str, words)))
