"""Which of the variants stand for their kind."""

from __future__ import annotations

ONE_EACH = (
    "llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox", "opt", "bert-mlm", "roberta-mlm", "distilbert-mlm",
    "gpt_bigcode", "gpt_neo", "gptj", "bloom", "falcon", "codegen", "gemma", "gemma2", "gemma3_text", "cohere",
    "cohere2", "glm", "glm4", "ernie4_5", "nemotron", "olmo2", "granite", "mixtral", "qwen2_moe", "qwen3_moe",
    "flex_olmo", "granitemoe", "olmoe", "ministral", "seed_oss", "arcee", "smollm3", "cwm", "exaone4", "olmo",
    "starcoder2", "jais2", "phi", "stablelm", "phi3", "olmo3", "helium", "hunyuan_v1_dense", "ministral3",
    "gpt_oss", "phimoe", "xlm-roberta-mlm", "camembert-mlm", "data2vec-text-mlm", "ernie-mlm", "electra-mlm",
    "eurobert-mlm", "vit-image", "mamba", "roformer-mlm", "mpnet-mlm", "albert-mlm", "nanochat", "vaultgemma",
    "hyperclovax", "internlm3", "iquestcoder", "apertus", "t5", "mt5", "umt5", "deit-teacher", "vit_msn-image",
    "ijepa-image", "vit_mae-base", "dinov2-image", "dinov2_with_registers-image", "beit-image",
    "clip_vision_model-projected", "clip_text_model-projected", "siglip_vision_model-base",
    "siglip_text_model-base", "audio-spectrogram-transformer-sound", "vivit-film", "falcon_mamba", "lfm2",
    "layoutlm-mlm", "big_bird-mlm", "longformer-mlm", "roberta-prelayernorm-mlm", "xlm-roberta-xl-mlm",
    "megatron-bert-mlm", "rembert-mlm", "modernbert-mlm", "deberta-v2-mlm", "modernbert-decoder", "glm4_moe",
    "dots1", "exaone_moe", "minimax_m2", "hunyuan_v1_moe", "youtu", "deepseek_v3", "deepseek_v2", "glm4_moe_lite",
)  # fmt: skip
"""One variant of each family, with a head for language where it has one."""

RELATIVES = (
    "ministral", "seed_oss", "arcee", "cwm", "jais2", "ministral3", "xlm-roberta-mlm", "camembert-mlm",
    "data2vec-text-mlm", "ernie-mlm", "internlm3", "iquestcoder", "mt5", "umt5", "deit-teacher", "vit_msn-image",
    "ijepa-image", "vit_mae-base", "dinov2_with_registers-image", "vivit-film", "clip_text_model-projected",
    "siglip_text_model-base", "siglip_vision_model-base", "clip_vision_model-projected",
    "audio-spectrogram-transformer-sound", "layoutlm-mlm", "big_bird-mlm", "longformer-mlm", "xlm-roberta-xl-mlm",
    "megatron-bert-mlm", "modernbert-decoder", "dots1",
)  # fmt: skip
"""Of these every row and fact is another family's, some under other names."""

KINDS = tuple(variant for variant in ONE_EACH if variant not in RELATIVES)
"""One of each kind, for what takes long."""

LONG = (
    "llama", "qwen2", "qwen3", "olmo2", "granite", "mixtral", "qwen2_moe", "qwen3_moe", "granitemoe", "flex_olmo",
    "olmoe", "gemma3_text", "cohere2", "glm4", "nemotron", "olmo", "smollm3", "phi3", "helium", "hunyuan_v1_dense",
    "gpt2", "gpt_neox", "opt", "bert-mlm", "distilbert-mlm", "electra-mlm", "eurobert-mlm", "roformer-mlm",
    "mpnet-mlm", "albert-mlm", "gpt_oss", "phimoe", "gpt_bigcode", "gpt_neo", "gptj", "bloom", "falcon", "codegen",
    "vit-image", "mamba", "nanochat", "t5", "beit-image", "dinov2-image", "clip_vision_model-projected", "lfm2",
    "modernbert-mlm", "deberta-v2-mlm", "glm4_moe", "exaone_moe", "youtu", "deepseek_v3", "glm4_moe_lite",
    "hunyuan_v1_moe",
)  # fmt: skip
"""One of each construction, for what takes a second and more: together they have every fact that a table can state."""
