"""DINOv2 with registers: DINOv2 with a few tokens more that stand for no patch."""

from grow.architectures.vision.dinov2 import CLASSIFIER, LAYERS, REGISTERS, TOKENS, dino
from grow.architectures.vision.vit import FINAL

DINOV2_WITH_REGISTERS = dino(
    "dinov2_with_registers",
    class_prefix="Dinov2WithRegisters",
    table=TOKENS + REGISTERS + LAYERS + FINAL + CLASSIFIER,
    masked="always",
    defaults={},
    summary="DINOv2 with registers, without SwiGLU",
)
