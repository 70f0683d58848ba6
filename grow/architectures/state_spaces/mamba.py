"""Mamba: an RMSNorm in front of a gated state space; no attention and no positions."""

from typing import Any

from grow.architectures.common_fields import ELEMENTWISE
from grow.architectures.facts import Norm, Tie
from grow.architectures.family import Family

DT = """
backbone.layers.{layers}.mixer.dt_proj.weight    inner <- dt_rank
"""
# B writes the state and C reads it: k and q of a dot product over the states of a channel. What decays them comes along
# with B.
BLOCK = """
backbone.embeddings.weight                       vocab -> hidden
backbone.layers.{layers}.norm.weight             hidden *
backbone.layers.{layers}.mixer.A_log             inner, ssm_state.k <-
backbone.layers.{layers}.mixer.D                 inner <-
backbone.layers.{layers}.mixer.conv1d.weight     inner <- 1, kernel
backbone.layers.{layers}.mixer.conv1d.bias       inner <-                                ? use_conv_bias
backbone.layers.{layers}.mixer.in_proj.weight    (inner | inner) <- hidden
backbone.layers.{layers}.mixer.in_proj.bias      (inner | inner) <-                      ? use_bias
backbone.layers.{layers}.mixer.x_proj.weight     (dt_rank | ssm_state.k | ssm_state.q) <- inner
backbone.layers.{layers}.mixer.dt_proj.bias      inner <-
backbone.layers.{layers}.mixer.out_proj.weight   hidden <- inner
backbone.layers.{layers}.mixer.out_proj.bias     hidden <-                               ? use_bias
backbone.norm_f.weight                           hidden *
lm_head.weight                                   vocab <- hidden  ? ForCausalLM not tie_word_embeddings
"""

AXES = {
    "hidden": "hidden_size",
    "inner": "intermediate_size",
    "dt_rank": "time_step_rank",
    "ssm_state": "state_size",
    "layers": "num_hidden_layers",
    "vocab": "vocab_size",
}

# How the steps are drawn in a new model, which of several equal ways computes the scan, and what converted checkpoints
# kept of another config.
HARMLESS = frozenset(
    """
    d_model
    layer_norm_epsilon conv_kernel time_step_scale time_step_min time_step_max time_step_init_scheme time_step_floor
    rescale_prenorm_residual residual_in_fp32 use_mambapy use_associative_scan
    """.split()
)

FACTS: dict[str, Any] = {
    "prefix": "backbone.",
    "norm": Norm("rms"),
    "tie": Tie(
        "backbone.embeddings.weight", "lm_head.weight", ("backbone.norm_f.weight",), "tie_word_embeddings ForCausalLM"
    ),
    "eps": "layer_norm_epsilon",
    "axes": AXES,
    "size_defaults": {"inner": "expand hidden", "dt_rank": "⌈hidden / 16⌉"},
    "defaults": {
        "use_bias": False,
        "use_conv_bias": True,
        "tie_word_embeddings": True,
        "state_size": 16,
        "expand": 2,
    },
    "fixed": {"hidden_act": ELEMENTWISE},
}


def size(hidden: int, layers: int, state: int = 16) -> dict[str, int]:
    """A size as config fields."""
    return {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "time_step_rank": -(-hidden // 16),
        "state_size": state,
        "num_hidden_layers": layers,
    }


MAMBA = Family(
    model_type="mamba",
    table=BLOCK + DT,
    **FACTS,
    harmless=HARMLESS,
    summary="Mamba",
    sizes={
        "mamba-130m": size(768, 24),
        "mamba-370m": size(1024, 48),
        "mamba-790m": size(1536, 48),
        "mamba-1.4b": size(2048, 48),
        "mamba-2.8b": size(2560, 64),
    },
)
