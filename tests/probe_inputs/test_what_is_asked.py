"""What the probes hold: texts, both sides, images, sound, outputs of any shape; what nobody described is refused."""

from __future__ import annotations

import hashlib

import pytest
import torch
import transformers as hf
from probe_cases import TEXT, asked

from grow.errors import Refused
from grow.models.float64_mode import TrueFloat64
from grow.models.true_float64 import load, quiet
from grow.verification.outputs.compare import CannotRun, difference, flatten, run
from grow.verification.probes import FULL_LIMIT, Probe, Probes, probes
from grow.verification.probes.audio import frames


def named(found: Probes) -> dict[str, Probe]:
    return {probe.name: probe for probe in found}


# Text: what was measured with these inputs stays comparable


PINNED = {
    ("llama", hf.LlamaForCausalLM, hf.LlamaConfig): "76a6176520276951adc0dfa4cc6c6bf22b50189826c2a4db28b22d4847154aaf",
    ("bert", hf.BertForMaskedLM, hf.BertConfig): "88382b1eacc96dab042dcd8d6673b49865ad12025327aeaf586fc9350c1f5832",
    ("roberta", hf.RobertaForMaskedLM, hf.RobertaConfig): (
        "d6242625ab49e688dd7d1ee965ef87e8d7c31285c8ed8a968da40777bcfd3c9f"
    ),
    ("mistral", hf.MistralForCausalLM, hf.MistralConfig): (
        "fe75df1c75a15714a08df1b0ccc3b47e619884747ebd769a29737a2fa8f3ae3b"
    ),
    ("llama with padding", hf.LlamaForSequenceClassification, hf.LlamaConfig): (
        "229832d6733152d537276c7b6d02574e412587d71f7e63ed07c8090dd4bd3eb5"
    ),
}
EARLIER = ("random", "repeated", "single", "left_padded", "right_padded", "far_positions", "masked", "token_types")
MORE = {"mistral": {"sliding_window": 70}, "llama with padding": {"pad_token_id": 9}}


@pytest.mark.parametrize("case", PINNED, ids=lambda case: case[0])
def test_text_inputs_are_the_ones_that_all_numbers_were_measured_with(case, tmp_path):
    name, cls, config = case
    made = config(**TEXT, **MORE.get(name, {}))
    found = probes(made, cls, tmp_path, seed=3)
    earlier = [probe for probe in found if probe.name in (*EARLIER, "beyond_window")]
    later = ["full_context"] if made.pad_token_id is None else ["full_context", "padding_read"]
    assert [p.name for p in found] == [*(p.name for p in earlier), *later]
    assert ("beyond_window" in named(found)) == (name == "mistral")
    digest = hashlib.sha256()
    for probe in earlier:
        for value in probe.inputs.values():
            assert value.dtype == torch.int64
            digest.update(value.numpy().tobytes())
    assert digest.hexdigest() == PINNED[case]


@pytest.mark.parametrize(
    ("positions", "length", "skipped"),
    [
        (96, 96, None),
        (64, None, "the usual rows have all 64 positions"),
        (2048, FULL_LIMIT, "512 of 2048 positions: attention costs length² on a CPU"),
    ],
)
def test_full_context_is_as_long_as_positions_allow(tmp_path, positions, length, skipped):
    config = hf.LlamaConfig(**{**TEXT, "max_position_embeddings": positions})
    found = probes(config, hf.LlamaForCausalLM, tmp_path)
    full = named(found).get("full_context")
    assert (full and full.counted.shape[1]) == length
    assert found.skipped.get("full_context") == skipped
    assert "full_context" in probes(hf.BloomConfig(), hf.BloomForCausalLM, tmp_path).skipped


def test_each_row_of_a_question_gets_two_choices(saved):
    found = named(asked(saved("bert-choice")))
    assert found["random"].inputs["input_ids"].shape == (2, 2, 64)
    padded = found["left_padded"]
    assert padded.counted.shape == (3, 2, 32)
    assert torch.equal(padded.inputs["attention_mask"].bool(), padded.counted)
    assert padded.row(1).inputs["input_ids"].shape == (1, 2, 32)
    assert found["token_types"].inputs["token_type_ids"].shape == (2, 2, 64)


# Encoder and decoder


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_both_sides_are_padded_where_their_masks_say(saved, name):
    config, found = hf.AutoConfig.from_pretrained(saved(name)), named(asked(saved(name)))
    for probe in found.values():
        ids, decoder = probe.inputs["input_ids"], probe.inputs["decoder_input_ids"]
        assert torch.equal(probe.inputs["attention_mask"].bool(), probe.encoder_counted)
        if probe.name == "padding_read":  # there the padding token counts
            assert probe.encoder_counted.all()
            assert (ids == config.pad_token_id).any()
            continue
        assert torch.equal(ids != config.pad_token_id, probe.encoder_counted)
        if "decoder_attention_mask" in probe.inputs:
            assert torch.equal(probe.inputs["decoder_attention_mask"].bool(), probe.counted)
        assert decoder.shape == probe.counted.shape
        assert decoder.shape != ids.shape or probe.name in ("single", "full_context")
        ends = ids == config.eos_token_id
        last = ids.shape[1] - 1 - probe.encoder_counted.flip(1).int().argmax(1)
        assert torch.equal(ends.int().argmax(1), last)
        assert (ends.sum(1) == 1).all()
        assert (decoder[range(len(decoder)), probe.counted.int().argmax(1)] == config.decoder_start_token_id).all()
    left, right = found["left_padded"], found["right_padded"]
    assert not left.counted[1, 0]
    assert not left.encoder_counted[1, 0]
    assert left.counted[:, -1].all()
    assert not right.counted[1, -1]
    assert found["single"].counted.shape == found["single"].encoder_counted.shape == (2, 1)
    assert len(found["repeated"].inputs["decoder_input_ids"][0, 1:].unique()) == 1
    row = left.row(1)
    assert [len(v) for v in (*row.inputs.values(), row.counted, row.encoder_counted)] == [1] * 6


def test_outputs_of_the_encoder_are_read_with_its_own_mask(saved):
    found = asked(saved("t5"))
    out = run(load(saved("t5"), "float32").model, found)
    left = named(found)["left_padded"]
    assert out["left_padded/logits"].shape == (left.counted.sum(), 67)
    assert out["left_padded/encoder_last_hidden_state"].shape == (left.encoder_counted.sum(), 24)
    assert left.counted.sum() != left.encoder_counted.sum()


def test_classifiers_of_a_sequence_make_their_decoder_ids_themselves(saved):
    for name in ("t5-classifier", "bart-spans"):
        assert all("decoder_input_ids" not in probe.inputs for probe in asked(saved(name)))


def test_a_decoder_of_images_or_sound_is_padded_too(saved):
    found = named(asked(saved("whisper")))
    assert found["random"].inputs["input_features"].shape == (2, 10, 60)
    assert not found["left_padded"].counted[1, 0]
    assert found["full_context"].counted.shape == (1, 79)
    assert "decoder_attention_mask" in named(asked(saved("trocr")))["left_padded"].inputs


# Numbers


def test_numbers_are_the_same_in_every_dtype_and_ids_stay_ids(saved):
    for name in ("vit", "wav2vec2", "whisper", "clip"):
        for probe in asked(saved(name)):
            for key, value in probe.arguments(torch.bfloat16).items():
                assert torch.equal(value.to(probe.inputs[key].dtype), probe.inputs[key]), (name, key)
                assert value.dtype == (torch.int64 if value.dtype == torch.int64 else torch.bfloat16)
    assert run(load(saved("clip"), "bfloat16").model, asked(saved("clip")))


def test_images_are_noise_a_blank_an_outlier_and_something_smooth(saved):
    images = {name: probe.inputs["pixel_values"] for name, probe in named(asked(saved("vit"))).items()}
    assert {name: tuple(image.shape) for name, image in images.items()} == {
        "random": (2, 3, 32, 32), "constant": (1, 3, 32, 32), "outlier": (1, 3, 32, 32), "natural": (1, 3, 32, 32),
    }  # fmt: skip
    assert (images["constant"] == images["constant"][..., :1, :1]).all()
    assert images["outlier"].abs().max() > 20

    def roughness(image: torch.Tensor) -> float:
        return float(image.diff(dim=-1).std() / image.std())

    assert roughness(images["natural"]) < 0.5 < roughness(images["random"])


def test_sound_is_padded_and_masked_only_where_the_class_wants_it(saved):
    group, layer = (named(asked(saved(name)))["right_padded"] for name in ("wav2vec2", "wav2vec2-layer"))
    assert "attention_mask" not in group.inputs
    assert group.counted.all()
    mask = layer.inputs["attention_mask"].bool()
    assert (layer.inputs["input_values"][~mask] == 0).all()
    config = hf.AutoConfig.from_pretrained(saved("wav2vec2-layer"))
    assert layer.counted.sum(1).tolist() == [frames(config, int(n)) for n in mask.sum(1)]
    out = run(load(saved("wav2vec2-layer"), "float32").model, [layer])
    assert len(out["right_padded/last_hidden_state"]) == layer.counted.sum() < layer.counted.numel()


def test_images_next_to_texts_have_rows_of_their_own_and_texts_end(saved):
    found = asked(saved("clip"))
    assert "left_padded" not in named(found)
    for probe in found:
        assert len(probe.inputs["pixel_values"]) == len(probe.inputs["input_ids"])
        real = probe.inputs["attention_mask"].bool()
        last = real.shape[1] - 1 - real.flip(1).int().argmax(1)
        assert (probe.inputs["input_ids"].argmax(1) == last).all(), "CLIP with the old eos_token_id pools here"


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_where_a_processor_merges_images_the_text_model_is_asked_and_the_rest_named(saved, name):
    found = asked(saved(name))
    assert "processor" in found.skipped["images"]
    ids = torch.cat([probe.inputs["input_ids"].flatten() for probe in found])
    assert not {5, 6, 7, 8} & set(ids.tolist()) or name == "llava"
    assert 5 not in ids
    assert ids.unique().numel() > 50


# Outputs of any shape


def test_outputs_are_flattened_to_rows_that_count():
    counted = torch.tensor([[True, True, False], [True, False, False]])
    value = torch.arange(24.0).reshape(2, 3, 4)
    assert torch.equal(flatten("logits", value, counted), value[counted].double())
    assert flatten("last_hidden_state", value[:, :2], counted).shape == (4, 4), "patches have no padding"
    assert flatten("start_logits", value[..., 0], counted).shape == (3, 1)
    scores = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert flatten("logits_per_image", scores, counted).tolist() == [[1.0], [4.0]]
    pixels = torch.arange(48.0).reshape(2, 3, 2, 4)
    found = flatten("logits", pixels, torch.ones(2, 1, dtype=torch.bool))
    assert found.shape == (16, 3)
    assert found[1].tolist() == pixels[0, :, 0, 1].tolist()
    assert flatten("scores", value[:, 0, 0], counted).shape == (2, 1)


def test_scalars_sum_up_a_batch_and_are_left_out(saved):
    out = run(load(saved("wav2vec2-pretraining"), "float32").model, asked(saved("wav2vec2-pretraining")))
    assert {key.split("/")[-1] for key in out} == {"projected_states", "projected_quantized_states"}


def test_a_class_that_draws_while_it_runs_draws_the_same_each_time(tmp_path):
    class Noisy(torch.nn.Linear):
        dtype = torch.float32

        def forward(self, input_ids, attention_mask):
            return {"logits": super().forward(torch.rand(*input_ids.shape, 3))}

    model, found = Noisy(3, 5), probes(hf.LlamaConfig(**TEXT), hf.LlamaForCausalLM, tmp_path)
    text = [probe for probe in found if "position_ids" not in probe.inputs]
    before = torch.get_rng_state()
    assert difference(run(model, text), run(model, text)).relative == 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("error", [AttributeError, KeyError, AssertionError])
def test_a_class_that_misses_an_input_names_the_probe(tmp_path, error):
    class Needy(torch.nn.Linear):
        dtype = torch.float32

        def forward(self, input_ids, attention_mask):
            raise error("'NoneType' object has no attribute 'shape'")

    with pytest.raises(CannotRun, match="random"):
        run(Needy(3, 5), probes(hf.LlamaConfig(**TEXT), hf.LlamaForCausalLM, tmp_path))


def test_a_class_that_was_run_can_still_be_trained(saved):
    found = named(asked(saved("beit")))["random"]
    run(load(saved("beit"), "float32").model, [found])
    model = load(saved("beit"), "float32").model.requires_grad_(True)
    model(**found.arguments(torch.float32)).logits.sum().backward()
    assert all(p.grad is not None for p in model.classifier.parameters())


def test_float_tensors_are_wide_inside_the_mode_only():
    narrow = torch.FloatTensor
    with TrueFloat64():
        assert torch.FloatTensor([0.5]).dtype == torch.float64
        with TrueFloat64():
            assert torch.FloatTensor(2).dtype == torch.float64
        assert torch.FloatTensor(2).dtype == torch.float64
    assert torch.FloatTensor is narrow


# Refusals


@pytest.mark.parametrize(
    ("cls", "config", "what"),
    [
        (hf.EncodecModel, hf.EncodecConfig, "main input 'input_values'"),
        (hf.PerceiverModel, hf.PerceiverConfig, "main input 'inputs'"),
        (hf.TimesFmModelForPrediction, hf.TimesFmConfig, "main input 'past_values'"),
        (hf.ClapModel, hf.ClapConfig, "main input 'input_ids', together with 'input_features'"),
        (hf.Siglip2Model, hf.Siglip2Config, "together with 'spatial_shapes'"),
        (hf.Blip2ForConditionalGeneration, hf.Blip2Config, "main input 'pixel_values'"),
        (hf.SegGptModel, hf.SegGptConfig, "together with 'prompt_pixel_values'"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_input_that_nobody_has_described_is_refused_by_name(tmp_path, cls, config, what):
    with quiet(), pytest.raises(Refused) as refused:
        probes(config(), cls, tmp_path)
    error = refused.value
    assert error.where == cls.__name__
    assert what in error.what
    assert error.why
    assert error.fix


def test_a_config_without_a_vocabulary_is_refused(tmp_path):
    with pytest.raises(Refused, match="vocab_size: missing"):
        probes(hf.ViTConfig(), hf.BertModel, tmp_path)
