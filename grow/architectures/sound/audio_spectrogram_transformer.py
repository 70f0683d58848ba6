"""AST: DeiT over patches of a spectrogram; its head has a norm behind the final one."""

from grow.architectures.encoders.bert import size
from grow.architectures.facts import Norm
from grow.architectures.vision.deit import DISTILLED
from grow.architectures.vision.vit import EMBEDDINGS, FINAL, LAYERS, image_encoder

HEAD = """
classifier.layernorm.weight                                         hidden *          ? ForAudioClassification
classifier.layernorm.bias                                           hidden +          ? ForAudioClassification
classifier.dense.weight                                             labels <- hidden  ? ForAudioClassification
classifier.dense.bias                                               labels <-         ? ForAudioClassification
"""

AUDIO_SPECTROGRAM_TRANSFORMER = image_encoder(
    "audio-spectrogram-transformer",
    base="audio_spectrogram_transformer.",
    class_prefix="AST",
    table=EMBEDDINGS + DISTILLED + LAYERS + FINAL + HEAD,
    masked="never",
    norm=Norm("layernorm", bare="ForAudioClassification", last="never"),
    harmless=frozenset("frequency_stride time_stride max_length num_mel_bins".split()),
    summary="Audio Spectrogram Transformer",
    sizes={"AST-B": size(768, 12, 3072, 12)},
)
