"""A score of two rotated vectors is the same on a grown head, however pairs are stored and whatever kinds there are."""

from __future__ import annotations

import numpy as np
import pytest

from grow.architectures import FAMILIES
from grow.architectures.architecture import Architecture
from grow.errors import BadInput, Refused
from grow.notation.rope import grow_rope, inv_freq, rope_of

pytestmark = pytest.mark.quick

rng = np.random.default_rng(5)


def turned(x: np.ndarray, angles: np.ndarray, style: str) -> np.ndarray:
    """x (d,) with its pair i turned by angles[i]."""
    d = len(x)
    first, second = (
        (np.arange(0, d, 2), np.arange(1, d, 2))
        if style == "pairs"
        else (np.arange(d // 2), np.arange(d // 2) + d // 2)
    )
    new, cos, sin = np.empty(d), np.cos(angles), np.sin(angles)
    new[first], new[second] = x[first] * cos - x[second] * sin, x[second] * cos + x[first] * sin
    return new


@pytest.mark.parametrize("style", ["half", "pairs"])
@pytest.mark.parametrize(("d", "d2"), [(4, 8), (6, 18), (4, 6), (10, 14)])
@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 300.0},
        {"rope_type": "linear", "rope_theta": 300.0, "factor": 2.5},
        {
            "rope_type": "yarn",
            "rope_theta": 300.0,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "truncate": False,
        },
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_scores_stay(rope, d, d2, style):
    config = {"rope_parameters": rope, "max_position_embeddings": 256}
    grown = grow_rope({"": config}, d, d2, style)
    assert sorted(set(grown.place.tolist())) == sorted(grown.place.tolist())
    old, new = rope_of(config), rope_of({**config, **grown.config})
    q, k = rng.normal(size=(2, d))
    wide_q, wide_k = rng.normal(size=d2), np.zeros(d2)
    wide_q[grown.place], wide_k[grown.place] = q, k
    for m, n in ((0, 0), (3, 1), (40, 2)):
        before = turned(q, m * inv_freq(old, d, config), style) @ turned(k, n * inv_freq(old, d, config), style)
        after = turned(wide_q, m * inv_freq(new, d2, config), style) @ turned(
            wide_k, n * inv_freq(new, d2, config), style
        )
        assert abs(before - after) < 1e-11


def test_pairs_stay_neighbours():
    place = grow_rope({"": {"max_position_embeddings": 64}}, 4, 12, "pairs").place
    assert place.tolist() == [0, 1, 6, 7]
    assert grow_rope({"": {"max_position_embeddings": 64}}, 4, 12, "half").place.tolist() == [0, 3, 6, 9]


GEMMA = {
    "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "num_hidden_layers": 7, "head_dim": 8,
    "hidden_size": 18, "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 28, "vocab_size": 41,
}  # fmt: skip


def ropes(**fields):
    return Architecture(FAMILIES["gemma3_text"], {**GEMMA, **fields}).ropes


def test_every_kind_has_its_own_rotation_in_configs_of_both_ages():
    newer = {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 7e5}}
    newer["sliding_attention"] = {"rope_type": "default", "rope_theta": 2e4}
    older = {"rope_theta": 7e5, "rope_local_base_freq": 2e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    for views in (ropes(rope_parameters=newer), ropes(**older)):
        full, sliding = (rope_of(views[kind]) for kind in ("full_attention", "sliding_attention"))
        assert (full["rope_type"], full["factor"], full["rope_theta"]) == ("linear", 8.0, 7e5)
        assert (sliding["rope_type"], sliding["rope_theta"]) == ("default", 2e4)
    full, sliding = (rope_of(ropes()[kind]) for kind in ("full_attention", "sliding_attention"))
    assert (full["rope_theta"], sliding["rope_theta"]) == (1e6, 1e4)


def test_all_kinds_put_the_old_coordinates_in_one_place():
    """Where one kind cannot keep its θ, the others change theirs, too: what writes q has one map for all layers."""
    yarn = {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "truncate": False,
        "rope_theta": 500.0,
    }
    plain = {"rope_type": "default", "rope_theta": 90.0}
    both = {"full_attention": yarn, "sliding_attention": plain}
    source = Architecture(FAMILIES["gemma3_text"], {**GEMMA, "rope_parameters": both})
    grown = grow_rope(source.ropes, 8, 16, "half")
    changes = source.rope_changes(grown.config)["rope_parameters"]
    assert changes["full_attention"]["rope_theta"] == 500.0**2
    assert changes["sliding_attention"] == {"rope_type": "default", "rope_theta": 90.0**2}
    keep = {"full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}, "sliding_attention": plain}
    source = Architecture(FAMILIES["gemma3_text"], {**GEMMA, "rope_parameters": keep})
    assert source.rope_changes(grow_rope(source.ropes, 8, 16, "half").config) == {}


def test_what_one_kind_does_not_say_stays_unsaid_and_what_it_cannot_mean_is_an_error():
    source = Architecture(FAMILIES["gemma3_text"], GEMMA)
    changes = source.rope_changes(grow_rope(source.ropes, 8, 12, "half").config)
    assert changes == {"rope_theta": 1e6**1.5, "rope_local_base_freq": 1e4**1.5}
    with pytest.raises((BadInput, Refused), match="rope_type"):
        rope_of(ropes(rope_parameters={"full_attention": {"rope_type": "spiral"}})["full_attention"])
