"""GPT-J: one LayerNorm in front of attention and FFN side by side, the first coordinates turned, a bias on the head."""

from dataclasses import replace

from grow.architectures.decoders.gpt2 import GPT2, TIE
from grow.architectures.facts import Attention

TABLE = """
transformer.wte.weight                       vocab -> hidden
transformer.h.{layers}.ln_1.weight           hidden *
transformer.h.{layers}.ln_1.bias             hidden +
transformer.h.{layers}.attn.k_proj.weight    (heads head_dim.k) <- hidden
transformer.h.{layers}.attn.v_proj.weight    (heads head_dim.v) <- hidden
transformer.h.{layers}.attn.q_proj.weight    (heads head_dim.q) <- hidden
transformer.h.{layers}.attn.out_proj.weight  hidden <- (heads head_dim.v)
transformer.h.{layers}.mlp.fc_in.weight      ffn <- hidden
transformer.h.{layers}.mlp.fc_in.bias        ffn <-
transformer.h.{layers}.mlp.fc_out.weight     hidden <- ffn
transformer.h.{layers}.mlp.fc_out.bias       hidden <-
transformer.ln_f.weight                      hidden *
transformer.ln_f.bias                        hidden +
lm_head.weight                               vocab <- hidden   ? ForCausalLM not tie_word_embeddings
lm_head.bias                                 vocab <-          ? ForCausalLM
score.weight                                 labels <- hidden  ? ForSequenceClassification
qa_outputs.weight                            labels <- hidden  ? ForQuestionAnswering
qa_outputs.bias                              labels <-         ? ForQuestionAnswering
"""

GPTJ = replace(
    GPT2,
    model_type="gptj",
    class_prefix="GPTJ",
    table=TABLE,
    attention=Attention(rope="pairs", rotated="rotary_dim"),
    tie=replace(TIE, when="tie_word_embeddings ForCausalLM"),
    defaults={"tie_word_embeddings": False, "n_positions": 2048, "rotary_dim": 64},
    reads=frozenset({"n_inner", "rotary_dim"}),
    harmless=frozenset({"layer_norm_epsilon"}),
    fixed={"activation_function": GPT2.fixed["activation_function"]},
    stale=(".attn.bias", ".attn.masked_bias", ".attn.embed_positions"),
    summary="GPT-J",
    sizes={"gpt-j-6b": {"n_embd": 4096, "n_head": 16, "n_inner": 16384, "n_layer": 28}},
)
