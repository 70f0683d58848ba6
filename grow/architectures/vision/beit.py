"""BEiT: ViT with a gain behind each branch and a bias for each distance of two patches; it predicts visual tokens."""

from grow.architectures.encoders.bert import size
from grow.architectures.facts import Norm
from grow.architectures.vision.vit import CLASSIFIER, EMBEDDINGS, FFN, FINAL, attention, image_encoder

BIAS = "relative_position_bias.relative_position_bias_table"
BIASES = f"""
{{base}}encoder.layer.{{layers}}.attention.attention.{BIAS}     buckets -> heads  ? use_relative_position_bias
{{base}}encoder.{BIAS}   buckets -> heads  ? use_shared_relative_position_bias
"""
GAINS = """
{base}encoder.layer.{layers}.lambda_1                               hidden *>  ? layer_scale_init_value
{base}encoder.layer.{layers}.lambda_2                               hidden *>  ? layer_scale_init_value
"""
POOLED = """
{base}pooler.layernorm.weight                                       hidden *  ? {pooled}
{base}pooler.layernorm.bias                                         hidden +  ? {pooled}
"""
TOKENS = """
layernorm.weight                                                    hidden *         ? ForMaskedImageModeling
layernorm.bias                                                      hidden +         ? ForMaskedImageModeling
lm_head.weight                                                      pixels <- hidden  ? ForMaskedImageModeling
lm_head.bias                                                        pixels <-        ? ForMaskedImageModeling
"""

BEIT = image_encoder(
    "beit",
    base="beit.",
    table=EMBEDDINGS.replace("1, positions -> hidden", "1, positions -> hidden  ? use_absolute_position_embeddings")
    + attention("always", k_bias="never")
    + BIASES
    + FFN
    + GAINS
    + "".join(f"{line}  ? not use_mean_pooling\n" for line in FINAL.split("\n") if line)
    + POOLED.replace("{pooled}", "use_mean_pooling not ForMaskedImageModeling")
    + CLASSIFIER
    + TOKENS,
    masked="use_mask_token",
    norm=Norm("layernorm", last="never", output="not use_mean_pooling"),
    defaults={
        "qkv_bias": None,
        "use_mask_token": False,
        "use_absolute_position_embeddings": False,
        "use_relative_position_bias": False,
        "use_shared_relative_position_bias": False,
        "layer_scale_init_value": 0.1,
        "use_mean_pooling": True,
    },
    fixed={"add_fpn": (False,)},
    stale=("relative_position_index",),
    harmless=frozenset(
        """
        drop_path_rate pool_scales use_auxiliary_head auxiliary_loss_weight auxiliary_channels auxiliary_num_convs
        auxiliary_concat_input semantic_loss_ignore_index reshape_hidden_states vocab_size
        out_features out_indices stage_names _out_features _out_indices
        """.split()
    ),
    summary="BEiT",
    sizes={"BEiT-B": size(768, 12, 3072, 12), "BEiT-L": size(1024, 16, 4096, 24)},
)
