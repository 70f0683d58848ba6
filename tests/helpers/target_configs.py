"""Configs of a few families, and the plan of a target for each."""

from __future__ import annotations

from types import SimpleNamespace

from models import FOUND

from grow.architectures import architecture_of
from grow.architectures.config_values import check_fields
from grow.architectures.match import match
from grow.planning.growth_options import GrowthOptions
from grow.planning.plan import Plan, make_plan
from grow.planning.target import resolve
from grow.spelling import COMMAND_LINE, spelled

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 18, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 28, "num_hidden_layers": 2, "vocab_size": 41,
    "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
MHA = {**LLAMA, "hidden_size": 12, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 4}

QWEN3 = {**LLAMA, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
GPT2 = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 12, "n_head": 3, "n_layer": 2,
    "vocab_size": 41, "n_positions": 64,
}  # fmt: skip
OPT = {
    "model_type": "opt", "architectures": ["OPTForCausalLM"], "hidden_size": 12, "num_attention_heads": 3,
    "ffn_dim": 22, "num_hidden_layers": 2, "vocab_size": 41, "max_position_embeddings": 64, "word_embed_proj_dim": 12,
}  # fmt: skip
BERT = {
    "model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 12, "num_attention_heads": 3,
    "intermediate_size": 22, "num_hidden_layers": 2, "vocab_size": 41, "max_position_embeddings": 64,
    "type_vocab_size": 2,
}  # fmt: skip


def plan(config: dict, to, **options) -> Plan:
    """The plan for a checkpoint of this config; headers only."""
    source = architecture_of(config)
    check_fields(source)
    stored = {
        name: SimpleNamespace(dtype="F32", shape=row.signature.shape({**FOUND, **source.sizes}))
        for name, row in source.tensors.items()
    }
    found = match(source, stored, "here")
    with spelled(COMMAND_LINE):  # what a fix suggests is tried
        return make_plan(found, resolve(found.architecture, to), GrowthOptions(**options))
