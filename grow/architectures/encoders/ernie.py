"""ERNIE 1 to 3: BERT under another name, and in ERNIE 2 and 3 a table of task types."""

from grow.architectures.encoders.bert import (
    ANSWERS,
    AXES,
    DEFAULTS,
    EMBEDDING_NORM,
    LAYERS,
    POOLER,
    TOKENS,
    TYPES,
    relative,
    size,
)

TASKS = """
{base}embeddings.task_type_embeddings.weight                        task_types -> hidden  ? use_task_id
"""

ERNIE = relative(
    "ernie",
    masked="ForMaskedLM|ForPreTraining|ForCausalLM",
    encoder=TOKENS + TYPES + TASKS + EMBEDDING_NORM + LAYERS + POOLER + ANSWERS,
    axes={**AXES, "task_types": "task_type_vocab_size"},
    defaults={**DEFAULTS, "task_type_vocab_size": 3, "use_task_id": False},
    summary="ERNIE 1 to 3",
    sizes={
        "ernie-1.0-base": size(768, 12, 3072, 12),
        "ernie-2.0-large": size(1024, 16, 4096, 24),
        "ernie-3.0-mini": size(384, 12, 1536, 6),
        "ernie-3.0-xbase": size(1024, 16, 4096, 20),
    },
)
