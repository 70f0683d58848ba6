"""Falcon Mamba: Mamba with norms without gains over the steps, over B and over C."""

from grow.architectures.facts import Refusal
from grow.architectures.family import Family
from grow.architectures.state_spaces.mamba import BLOCK, FACTS, HARMLESS, size

FALCON_MAMBA = Family(
    model_type="falcon_mamba",
    class_prefix="FalconMamba",
    table=BLOCK
    + """
backbone.layers.{layers}.mixer.dt_proj.weight    inner <- dt_rank.raw
""",
    **FACTS,
    harmless=HARMLESS | {"mixer_rms_eps", "use_falcon_mambapy"},
    refusals=(
        Refusal("ssm_state", "B and C are divided by their size over all states, and nothing behind makes up for that"),
    ),
    summary="Falcon Mamba",
    sizes={"falcon-mamba-7b": size(4096, 64)},
)
