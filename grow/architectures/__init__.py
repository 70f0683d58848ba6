"""The families that grow knows, one file of data for each, and the code that reads their tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grow.architectures.arcee import ARCEE
from grow.architectures.architecture import Architecture
from grow.architectures.bert import BERT
from grow.architectures.camembert import CAMEMBERT
from grow.architectures.cohere import COHERE
from grow.architectures.cohere2 import COHERE2
from grow.architectures.cwm import CWM
from grow.architectures.data2vec_text import DATA2VEC_TEXT
from grow.architectures.distilbert import DISTILBERT
from grow.architectures.electra import ELECTRA
from grow.architectures.ernie import ERNIE
from grow.architectures.ernie4_5 import ERNIE4_5
from grow.architectures.eurobert import EUROBERT
from grow.architectures.exaone4 import EXAONE4
from grow.architectures.family import Family
from grow.architectures.flex_olmo import FLEX_OLMO
from grow.architectures.gemma import GEMMA
from grow.architectures.gemma2 import GEMMA2
from grow.architectures.gemma3_text import GEMMA3_TEXT
from grow.architectures.glm import GLM
from grow.architectures.glm4 import GLM4
from grow.architectures.gpt2 import GPT2
from grow.architectures.gpt_neox import GPT_NEOX
from grow.architectures.granite import GRANITE
from grow.architectures.granitemoe import GRANITEMOE
from grow.architectures.jais2 import JAIS2
from grow.architectures.llama import LLAMA
from grow.architectures.ministral import MINISTRAL
from grow.architectures.mistral import MISTRAL
from grow.architectures.mixtral import MIXTRAL
from grow.architectures.nemotron import NEMOTRON
from grow.architectures.olmo import OLMO
from grow.architectures.olmo2 import OLMO2
from grow.architectures.olmoe import OLMOE
from grow.architectures.opt import OPT
from grow.architectures.phi import PHI
from grow.architectures.qwen2 import QWEN2
from grow.architectures.qwen2_moe import QWEN2_MOE
from grow.architectures.qwen3 import QWEN3
from grow.architectures.qwen3_moe import QWEN3_MOE
from grow.architectures.roberta import ROBERTA
from grow.architectures.seed_oss import SEED_OSS
from grow.architectures.smollm3 import SMOLLM3
from grow.architectures.stablelm import STABLELM
from grow.architectures.starcoder2 import STARCODER2
from grow.architectures.stock_source import known_type
from grow.architectures.xlm_roberta import XLM_ROBERTA
from grow.errors import Refused, did_you_mean

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        *(LLAMA, MISTRAL, QWEN2, QWEN3, OLMO2, GRANITE),
        *(GEMMA, GEMMA2, GEMMA3_TEXT, COHERE, COHERE2, GLM, GLM4, ERNIE4_5, NEMOTRON),
        *(MIXTRAL, QWEN2_MOE, QWEN3_MOE, FLEX_OLMO, GRANITEMOE, OLMOE),
        *(MINISTRAL, SEED_OSS, ARCEE, SMOLLM3, CWM, EXAONE4, OLMO),
        *(STARCODER2, JAIS2, PHI, STABLELM),
        *(GPT2, GPT_NEOX, OPT, BERT, ROBERTA, DISTILBERT),
        *(XLM_ROBERTA, CAMEMBERT, DATA2VEC_TEXT, ERNIE, ELECTRA, EUROBERT),
    )
}


def family_of(model_type: str) -> Family:
    """The family of a config's `model_type`; `Refused`, listing what there is, when nobody has written it."""
    if model_type not in FAMILIES:
        # a model of another type does not become one of these by another name
        hint = "" if known_type(model_type) else did_you_mean(model_type, FAMILIES)
        raise Refused(
            "config.json: model_type",
            what=f"{model_type!r} is not a family that grow knows" + (f"; {hint}" if hint else ""),
            why="a family's table says what each tensor reads and writes; without it nothing can be proved",
            fix="known families: " + ", ".join(FAMILIES),
        )
    return FAMILIES[model_type]


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The family of a config, read with it; `Refused` where `family_of` refuses."""
    return Architecture(family_of(str(config.get("model_type"))), config)


def known_architecture(config: Mapping[str, Any]) -> Architecture | None:
    """The family of a config, read with it; None for a model that grow has no table of."""
    family = FAMILIES.get(str(config.get("model_type")))
    return None if family is None else Architecture(family, config)
