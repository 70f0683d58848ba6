"""ERNIE 1 to 3: BERT under another name; without the table of task types that ERNIE 2 and 3 may have."""

from grow.architectures.encoders.bert import ENCODER_FACTS, relative, size

ERNIE = relative(
    "ernie",
    masked="ForMaskedLM|ForPreTraining|ForCausalLM",
    # no probe asks for another task than the first
    fixed={**ENCODER_FACTS["fixed"], "use_task_id": (False,)},
    harmless=ENCODER_FACTS["harmless"] | {"task_type_vocab_size"},
    summary="ERNIE without task types",
    sizes={
        "ernie-1.0-base": size(768, 12, 3072, 12),
        "ernie-2.0-large": size(1024, 16, 4096, 24),
        "ernie-3.0-mini": size(384, 12, 1536, 6),
        "ernie-3.0-xbase": size(1024, 16, 4096, 20),
    },
)
