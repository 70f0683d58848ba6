"""Arcee: Llama without a gate in the FFN."""

from grow.architectures.decoders.llama import O_BIAS, QKV_BIAS, UNGATED, UNGATED_BIAS, block, rms_decoder, size

ARCEE = rms_decoder(
    "arcee",
    table=block(UNGATED) + QKV_BIAS.replace("{when}", "attention_bias") + O_BIAS + UNGATED_BIAS,
    divides=True,
    summary="AFM (Arcee)",
    defaults={"max_position_embeddings": 4096},
    sizes={"AFM-4.5B": size(2560, 20, 4, 18432, 36, head_dim=128)},
)
