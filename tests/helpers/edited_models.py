"""Stock models, and edited ones derived from them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

from grow.models.true_float64 import quiet
from grow.verification.outputs.forward_passes import true_float64
from grow.verification.outputs.pair import Pair
from grow.verification.verdict import Check

# Pairwise distinct sizes; eps large enough to matter; the padding id inside the vocabulary.
LLAMA = {
    "vocab_size": 67,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 96,
    "rms_norm_eps": 0.01,
    "pad_token_id": 3,
}
BERT = {
    "vocab_size": 67,
    "hidden_size": 24,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 96,
    "layer_norm_eps": 0.05,
}

Edit = Callable[[str, torch.Tensor], torch.Tensor]


def make(folder: Path, family: str, fields: dict, cls: type, dtype: torch.dtype = torch.float32) -> Path:
    """A checkpoint whose every parameter is random: N(0, 1) tables, N(0, 1.7 / fan_in) weights, 1 + N(0, .09)
    gains."""
    with quiet():
        model = cls.from_config(transformers.AutoConfig.for_model(family, **fields))
        draw = torch.Generator().manual_seed(0)
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=draw)
            if p.ndim == 1:
                noise = 0.3 * noise + name.endswith("weight")
            elif not any(table in name for table in ("embed", "wte", "wpe")):
                noise *= 1.3 * p.shape[-1] ** -0.5
            p.data = noise
        model.to(dtype).save_pretrained(folder)
    return folder


def derive(source: Path, folder: Path, edit: Edit, dtype: torch.dtype | None = None, **fields) -> Path:
    """A copy of `source` with every tensor edited and some config fields replaced."""
    shutil.copytree(source, folder)
    config = json.loads((source / "config.json").read_text())
    if dtype is not None:
        fields["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    found = load_file(source / "model.safetensors")
    new = {k: edit(k, w).to(dtype or w.dtype).contiguous() for k, w in found.items()}
    save_file(new, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def only(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Edit:
    return lambda key, w: change(w.clone()) if key == name else w


def exact(source: Path, grown: Path, **more) -> Check:
    with Pair(source, grown) as pair:
        return true_float64(pair, **more)


NAMES = [
    f"model.layers.0.{n}.weight"
    for n in (
        "input_layernorm",
        "post_attention_layernorm",
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    )
]
NAMES += ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
