"""Tiny stock models of a model type, every parameter drawn, whose outputs in true float64 a growth must keep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import transformers
from transformers.models.auto import modeling_auto

from grow.architectures.any_config import is_public
from grow.architectures.conditions import HEADS
from grow.architectures.match_faults import Info
from grow.files.json_floats import plain
from grow.models.as_configured import skeleton
from grow.models.fused_experts import in_files
from grow.models.true_float64 import TrueFloat64, quiet
from grow.notation.origins import SourcePart

BASE = "Model"
LENGTH = 17
PARAMETER = 2.0**32
"""More than a parameter of a tiny model has numbers; float64 holds its multiples for all parameters."""
FIRST = 4
"""Ids below it may be those of padding and of the ends of a text."""

MAPPINGS = (
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    modeling_auto.MODEL_MAPPING_NAMES,
)


class NotBuilt(Exception):
    """Stock code does not build or run a tiny model of the type; the message says why."""


def stock_classes(model_type: str) -> dict[str, type]:
    """What the name ends in -> class, of the stock classes of a type: a language model first, the base model last."""
    found: dict[str, type] = {}
    for names in MAPPINGS:
        listed = names.get(model_type, ())
        for name in (listed,) if isinstance(listed, str) else listed:
            ending = next((e for e in (*HEADS, BASE) if name.endswith(e)), "")
            cls = getattr(transformers, name, None)
            if ending and isinstance(cls, type):
                found.setdefault(ending, cls)
    return found


def stock_config(model_type: str, fields: Mapping[str, Any]) -> Any:
    """The stock config with these fields; NotBuilt with the reason of stock code."""
    try:
        with quiet():
            config = transformers.AutoConfig.for_model(model_type, **fields)
    except Exception as error:  # whatever the config class of an unknown type raises
        raise NotBuilt(_first_line(error)) from error
    config._attn_implementation = "eager"
    return config


def built(cls: type, config: Any) -> Any:
    """The stock model without numbers: shapes alone."""
    try:
        with TrueFloat64():
            model = skeleton(cls, config).eval()
            if getattr(model.config, "_experts_implementation", None) not in (None, "eager"):
                model.set_experts_implementation("eager")  # the fast kernels take no float64
            return model
    except Exception as error:  # whatever the model class of an unknown type raises
        raise NotBuilt(_first_line(error)) from error


def shapes(cls: type, config: Any) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all that the model stores; of two tied names the first."""
    model = built(cls, config)
    return {name: tuple(t.shape) for name, t in as_in_files(model, stored(model)).items()}


def stored(model: Any) -> dict[str, Any]:
    """What `save_pretrained` would write: parameters and persistent buffers; of tied names one."""
    once, seen = {}, set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            once[name] = tensor
    return once


def as_in_files(model: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors of a model under the names and in the shapes of its files."""
    try:
        return in_files(model, tensors)
    except Exception as error:  # whatever a conversion of an unknown type raises
        raise NotBuilt(f"its files: {_first_line(error)}") from error


def places(model: Any) -> dict[str, torch.Tensor]:
    """Tensor in the files -> for each of its numbers the parameter, and the place in it, that it comes from."""
    numbered = {
        name: torch.arange(p.numel(), dtype=torch.float64).reshape(p.shape) + k * PARAMETER
        for k, (name, p) in enumerate(stored(model).items())
    }
    return as_in_files(model, numbered)


@dataclass
class TinyModel:
    """One stock model with random weights: the source of trial growths.

    cls     the stock class
    fields  of its config, beyond the stock defaults
    """

    model_type: str
    cls: type
    fields: Mapping[str, Any]
    seed: int = 1
    config: dict[str, Any] = field(init=False)
    state: dict[str, torch.Tensor] = field(init=False)
    converts: bool = field(init=False)
    config_class: Any = field(init=False)
    outputs: dict[str, torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        stock = stock_config(self.model_type, self.fields)
        model = built(self.cls, stock)
        self.config = {k: v for k, v in json.loads(stock.to_json_string()).items() if is_public(k)}
        self.config["architectures"] = [self.cls.__name__]
        self.config_class = type(stock)
        numbers = drawn(model, self.seed)
        self.converts = set(as_in_files(model, stored(model))) != set(numbers)
        self.state = self._filed(model, numbers) if self.converts else numbers
        self.batches = batches(stock, self.cls)
        self.fill(model, self.state)
        self.outputs = answers(model, self.batches)
        dead = [k for k, v in self.outputs.items() if not bool(v.isfinite().all()) or not float(v.std()) > 1e-6]
        if dead or not self.outputs:
            raise NotBuilt(f"its outputs are not alive: {', '.join(dead) or 'there are none'}")

    @cached_property
    def tensors(self) -> dict[str, Info]:
        return {name: Info("F64", tuple(t.shape)) for name, t in self.state.items()}

    def rows(self, part: SourcePart, start: int, stop: int) -> np.ndarray:
        """Rows of a weight as the matrix that it lies flat as."""
        tensor, (top, left) = self.state[part.tensor], part.corner
        columns = part.columns or (tensor.shape[-1] if tensor.ndim > 1 else 1)
        rows = tensor.reshape(-1, columns)[top + start : top + stop, left : left + part.matrix[1]]
        return np.ascontiguousarray(rows.numpy())

    def model(self) -> Any:
        """The stock model that it is."""
        model = built(self.cls, stock_config(self.model_type, self.fields))
        self.fill(model, self.state)
        return model

    def fill(self, model: Any, state: Mapping[str, torch.Tensor]) -> None:
        """The model with these numbers, under the names of its files; NotBuilt where some are missing."""
        _fill(model, _unfiled(model, state) if self.converts else state)

    def _filed(self, model: Any, numbers: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Numbers of parameters as the files hold them."""
        whole = [tensor.flatten() for tensor in numbers.values()]
        found = {}
        for name, place in places(model).items():
            owner, at = (place // PARAMETER).long(), (place % PARAMETER).long()
            tensor = torch.empty(place.shape, dtype=torch.float64)
            for k in owner.unique().tolist():
                tensor[owner == k] = whole[k][at[owner == k]]
            found[name] = tensor
        return found

    def off(self, config: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> float:
        """max |Δ| / std over the outputs of a grown model, new classes of the vocabulary left out."""
        grown = built(self.cls, self._like(config))
        self.fill(grown, state)
        worst = 0.0
        for name, new in answers(grown, self.batches).items():
            old = self.outputs[name]
            if new.shape[:-1] != old.shape[:-1] or new.shape[-1] < old.shape[-1]:
                return float("inf")
            delta = float((new[..., : old.shape[-1]] - old).abs().max() / old.std())
            worst = max(worst, delta if delta == delta else float("inf"))
        return worst

    def _like(self, config: Mapping[str, Any]) -> Any:
        made = self.config_class.from_dict(plain(dict(config)))
        made._attn_implementation = "eager"
        return made


def batches(config: Any, cls: type) -> list[dict[str, torch.Tensor]]:
    """Random ids, and ids behind which rows of other lengths are padded."""
    from inspect import signature

    accepts = signature(cls.forward).parameters  # type: ignore[attr-defined]
    if "input_ids" not in accepts:
        raise NotBuilt("it reads no token ids")
    draw = torch.Generator().manual_seed(7)
    rows = 1 if config.pad_token_id is None and "SequenceClassification" in cls.__name__ else 2
    ids = torch.randint(FIRST, config.vocab_size, (rows, LENGTH), generator=draw)
    found = {"input_ids": ids}
    types = getattr(config, "type_vocab_size", 0) or 0
    if "token_type_ids" in accepts and types > 1:
        found["token_type_ids"] = torch.randint(0, types, ids.shape, generator=draw)
    if "attention_mask" not in accepts or rows == 1:
        return [found]
    mask = torch.ones(ids.shape, dtype=torch.int64)
    mask[0, -5:] = 0
    return [found, {**found, "attention_mask": mask}]


def answers(model: Any, given: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Every floating output but caches and hidden states, in true float64."""
    found: dict[str, torch.Tensor] = {}
    for at, batch in enumerate(given):
        try:
            with TrueFloat64(), torch.no_grad():
                result = model(**batch, return_dict=True)
        except Exception as error:  # whatever the forward pass of an unknown type raises
            raise NotBuilt(_first_line(error)) from error
        for name, value in result.items():
            if torch.is_tensor(value) and value.is_floating_point() and value.ndim > 1:
                if value.dtype != torch.float64:
                    raise NotBuilt(f"{name} is {value.dtype}: some step is not computed in float64")
                found[f"{name} {at}"] = value.detach()
    return found


def drawn(model: Any, seed: int) -> dict[str, torch.Tensor]:
    """Tables N(0, 1), matrices N(0, 2 / in), gains about 1, all else small."""
    draw = torch.Generator().manual_seed(seed)
    tables = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, torch.nn.Embedding)}
    state = {}
    for name, p in stored(model).items():
        if not p.is_floating_point():
            raise NotBuilt(f"{name} is {p.dtype}, and only floats grow")
        noise = torch.randn(p.shape, generator=draw, dtype=torch.float64)
        if p.ndim < 2:
            noise = 0.3 * noise + name.endswith("weight")
        elif name not in tables:
            noise = noise * (2 / min(p.shape[-2:])) ** 0.5
        state[name] = noise
    return state


def _unfiled(model: Any, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of files as the parameters of the model hold them."""
    names = list(stored(model))
    shaped = {name: torch.empty(p.shape, dtype=torch.float64) for name, p in stored(model).items()}
    for name, place in places(model).items():
        if name not in state or state[name].shape != place.shape:
            raise NotBuilt(f"{name} has no numbers of its shape: the growth did not write it")
        owner, at = (place // PARAMETER).long(), (place % PARAMETER).long()
        for k in owner.unique().tolist():
            shaped[names[k]].view(-1)[at[owner == k]] = state[name][owner == k]
    return shaped


def _fill(model: Any, state: Mapping[str, torch.Tensor]) -> None:
    with TrueFloat64():
        model.load_state_dict(dict(state), strict=False, assign=True)
        model.tie_weights()
    left = [name for name, p in model.named_parameters() if p.is_meta]
    if left:
        raise NotBuilt(f"{left[0]} has no numbers: the growth did not write it")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
