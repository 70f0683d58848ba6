"""Configs as the stock classes read them."""

from __future__ import annotations

import json
import warnings

import transformers
from models import ONE_EACH, VARIANTS

from grow.architectures.any_config import check_config
from grow.files.json_floats import plain

INF, NAN = {"__float__": "Infinity"}, {"__float__": "NaN"}


NEEDED = {
    "nemotron": {"num_key_value_heads": 6},
    "glm4_moe": {"head_dim": 128},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "lfm2": {"block_auto_adjust_ff_dim": False},
    "dots1": {"n_routed_experts": 8, "n_shared_experts": 2, "num_experts_per_tok": 2},
}
"""Fields without which the stock class can be made and no model of it, or none of the family's table."""


def defaults_of(kind: str) -> dict:
    """A whole config.json of this type."""
    text = transformers.AutoConfig.for_model(kind, **NEEDED.get(kind, {})).to_json_string(use_diff=False)
    return check_config(json.loads(text), "config.json", [])


def variant_of(kind: str) -> str:
    return next(name for name in ONE_EACH if VARIANTS[name].model_type == kind)


def stock_config(config: dict):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.AutoConfig.for_model(**plain(config))
