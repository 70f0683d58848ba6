"""CodeGen: GPT-J whose q, v and k rows are dealt in four shares."""

from dataclasses import replace

from grow.architectures.decoders.gptj import BLOCK, GPTJ

QKV = """
transformer.h.{layers}.attn.qkv_proj.weight  (4: heads head_dim.q | heads head_dim.v | heads head_dim.k) <- hidden
"""

CODEGEN = replace(
    GPTJ,
    model_type="codegen",
    class_prefix="CodeGen",
    table=BLOCK + QKV,
    harmless=GPTJ.harmless | {"n_ctx"},
    summary="CodeGen",
    sizes={
        name: {"n_embd": n, "n_head": h, "n_inner": 4 * n, "n_layer": layers}
        for name, n, h, layers in (
            ("codegen-350M", 1024, 16, 20),
            ("codegen-2B", 2560, 32, 32),
            ("codegen-6B", 4096, 16, 33),
            ("codegen-16B", 6144, 24, 34),
        )
    },
)
