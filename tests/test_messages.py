"""The words of the main refusals: what was asked, the rule or equation behind the no, and the nearest yes.

Compared letter by letter, as the command line says it: a message is an interface, and changing one is a decision. How
Python and recipes spell the options in it is in test_spelling.py.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import tiny

import grow
from grow.errors import BadInput, GrowError, Refused, did_you_mean, listing
from grow.spelling import COMMAND_LINE, spelled

pytestmark = pytest.mark.quick

POST_LN = (
    "here a norm's output is the residual stream itself (or a reader has no norm with a gain before it), "
    "so only whole copies keep every mean and variance"
)
EQUATION = "LN(u) = γ·(u - mean)/σ + β; [u; u; …] has the mean and σ of u, other extensions of u do not"
GQA = {"num_attention_heads": 12, "num_key_value_heads": 4}

# family, fields of the source, target, options, kind, message
REFUSALS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any], type[GrowError], str]] = {
    "post-LN hidden, above the next multiple": (
        "bert", {}, "hidden_size=60,num_attention_heads=3", {}, Refused,
        f"""
        hidden: would grow 24 -> 60, which is not a whole multiple
          equation   {EQUATION}
          why        {POST_LN}
          fix        nearest exact targets: hidden_size=72 or hidden_size=48
        """,
    ),
    "post-LN hidden, below the first multiple": (
        "bert", {}, "hidden_size=36", {}, Refused,
        f"""
        hidden: would grow 24 -> 36, which is not a whole multiple
          equation   {EQUATION}
          why        {POST_LN}
          fix        nearest exact targets: hidden_size=48
        """,
    ),
    "post-LN OPT": (
        "opt", {"do_layer_norm_before": False}, "hidden_size=36", {}, Refused,
        f"""
        hidden: would grow 24 -> 36, which is not a whole multiple
          equation   {EQUATION}
          why        {POST_LN}
          fix        nearest exact targets: hidden_size=48
        """,
    ),
    "an operator that this norm does not allow": (
        "bert", {}, "2x", {"operators": {"hidden": "silent"}}, Refused,
        f"""
        --operator hidden=silent: silent cannot grow hidden 24 -> 48
          why        {POST_LN}
          fix        --operator hidden=copies
        """,
    ),
    "an operator for heads": (
        "llama", {}, "2x", {"operators": {"heads": "mean"}}, Refused,
        """
        --operator heads=mean: heads grow by unread or copies
          why        units between two matrices grow by copies or by units that nothing reads yet
          fix        --operator heads=unread
        """,
    ),
    "kv heads regrouped too small": (
        "llama", {**GQA, "hidden_size": 48}, "num_key_value_heads=6", {}, Refused,
        """
        --to num_attention_heads=12,num_key_value_heads=6: 12 query heads in 4 groups of 3 do not fit into 6 groups of 2
          why        stock attention reads kv head ⌊q / q_per_kv⌋: every old query head needs a group with its kv head
          fix        num_key_value_heads=12 or num_attention_heads=24 or num_attention_heads=48 or hidden_size=54,num_attention_heads=18
        """,
    ),
    "kv heads that do not divide heads": (
        "llama", {}, "num_attention_heads=5,hidden_size=40", {}, Refused,
        """
        --to num_attention_heads=5: 2 kv heads do not divide 5 heads
          why        each kv head serves heads / kv_heads query heads
          fix        num_attention_heads=4 or num_attention_heads=8 or num_attention_heads=10
        """,
    ),
    "hidden that heads do not divide": (
        "llama", {}, "hidden_size=50", {}, Refused,
        """
        --to hidden_size=50: 4 heads do not divide hidden 50
          why        the stock llama config refuses hidden % heads != 0 when it is loaded
          fix        hidden_size=52 or hidden_size=48 or hidden_size=72
        """,
    ),
    "head_dim that follows from hidden and heads": (
        "gpt2", {}, "head_dim=16", {}, Refused,
        """
        --to head_dim=16: 3 heads × 16 != hidden 24
          why        gpt2 computes head_dim = hidden / heads
          fix        n_embd=48
        """,
    ),
    "heads that would shrink head_dim": (
        "gpt2", {}, "n_head=6", {}, Refused,
        """
        --to head_dim=4: head_dim 8 -> 4
          why        a smaller axis loses information; here head_dim = hidden / heads
          fix        n_embd=48
        """,
    ),
    "an odd head_dim under RoPE": (
        "llama", {}, "head_dim=7", {}, Refused,
        """
        head_dim: 6 -> 7 with rope_type='default' is not exact
          why        coordinates turn in pairs
          fix        head_dim=8
        """,
    ),
    "a smaller target": (
        "llama", {}, "hidden_size=12", {}, Refused,
        """
        --to hidden_size=12: hidden 24 -> 12
          why        a smaller axis loses information
          fix        at least hidden_size=24
        """,
    ),
    "fewer layers": (
        "llama", {}, "num_hidden_layers=1", {}, Refused,
        """
        --to num_hidden_layers=1: layers 2 -> 1
          why        a smaller axis loses information
          fix        at least num_hidden_layers=2
        """,
    ),
    "a size that is less deep": (
        "llama", {"num_hidden_layers": 8}, "base", {"deepen": True}, Refused,
        """
        --deepen --to base: layers 8 -> 6
          why        a layer that is left out takes its function with it
          fix        leave --deepen out: the layers then stay
        """,
    ),
    "more layers than any model has": (
        "llama", {}, "layers=20000", {}, BadInput,
        """
        --to num_hidden_layers=20000: 20,000 is out of range
          why        layers is from 1 to 10,000: the largest of a known model is 1,000, and a plan is made in memory
          fix        at most --to num_hidden_layers=10000
        """,
    ),
    "a post-norm without gains": (
        "opt", {"do_layer_norm_before": False, "layer_norm_elementwise_affine": False}, "num_hidden_layers=3", {},
        Refused,
        """
        --to num_hidden_layers=3: layers 2 -> 3
          why        here a LayerNorm writes the residual stream and has no gain: LN(x) is x for no x that is not normal
          fix        leave num_hidden_layers at 2
        """,
    ),
    "an eps of zero between post-norm layers": (
        "bert", {"layer_norm_eps": 0.0}, "num_hidden_layers=3", {}, BadInput,
        """
        config.json: layer_norm_eps: 0.0, wanted a positive number
          why        the gains of the LayerNorms between which layers are inserted follow from it
          fix        set layer_norm_eps to the eps that the model was trained with
        """,
    ),
    "a place that is none": (
        "llama", {}, "layers=4", {"place": "bottom"}, BadInput,
        """
        --place bottom: is not a place
          why        places: spread, top, after:K, a list of layers
          fix        --place spread, --place top, --place after:5 or --place 3,7,11
        """,
    ),
    "a place behind a layer that is not there": (
        "llama", {}, "layers=4", {"place": "0,2"}, BadInput,
        """
        --place 0,2: there is no layer 2
          why        the source has layers 0 to 1
          fix        --place after:1
        """,
    ),
    "places for other layers than the new ones": (
        "llama", {}, "layers=4", {"place": "0,1,1"}, BadInput,
        """
        --place 0,1,1: names 3 places for 2 new layers
          why        every new layer stands behind one old layer; name one twice for two new layers
          fix        --place spread
        """,
    ),
    "low logits without a bias": (
        "llama", {}, "vocab_size=40", {"new_tokens": "low"}, Refused,
        """
        --new-tokens low: the head of this llama has no bias
          why        w·x <= every w_i·x for states x of all directions has no solution w, so no row alone gives a logit below all others
          fix        --new-tokens blend: new logits stay below the largest old one
        """,
    ),
    "positions that RoPE computes with": (
        "llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0}},
        "max_position_embeddings=128", {}, Refused,
        """
        max_position_embeddings: 64 -> 128 with rope_type='dynamic' is not exact
          why        stock code scales the rotation by it
          fix        leave max_position_embeddings at 64
        """,
    ),
    "an axis that does not grow": (
        "bert", {}, "type_vocab_size=3", {}, Refused,
        """
        --to type_vocab_size=3: would change types 2 -> 3
          why        axes that grow: hidden, heads, kv_heads, head_dim, ffn, layers, vocab, positions
          fix        leave type_vocab_size out
        """,
    ),
    "a factor that leaves a fraction": (
        "llama", {}, "3.7x", {}, Refused,
        """
        --to 3.7x: hidden 24 × 3.7 = 88.8, heads 4 × 3.7 = 14.8, kv_heads 2 × 3.7 = 7.4
          why        every width is a whole number
          fix        --to 3.5x or 4x, or name the fields
        """,
    ),
    "an axis given twice": (
        "llama", {}, "hidden_size=48,hidden=72", {}, BadInput,
        """
        --to hidden=72: is given twice: 48 and 72
          why        an axis has one size
          fix        hidden=72
        """,
    ),
    "an unknown config field": (
        "llama", {"sliding_window": 3}, "2x", {}, Refused,
        """
        config.json: sliding_window: fields that the family llama does not know
          why        a field that nobody has read may change the function
          fix        if they are harmless: --assume-harmless sliding_window
        """,
    ),
    "config fields misspelt": (
        "llama", {"atention_bias": False, "is_causal": True, "x": 1}, "2x", {}, Refused,
        """
        config.json: atention_bias, is_causal: fields that the family llama does not know
          why        a field that nobody has read may change the function; did you mean 'attention_bias'?
          fix        if they are harmless: --assume-harmless atention_bias,is_causal
        """,
    ),
    "an unknown family": (
        "llama", {"model_type": "lama"}, "2x", {}, Refused,
        """
        config.json: model_type: 'lama' is not a family that grow knows; did you mean 'llama'?
          why        a family's table says what each tensor reads and writes; without it nothing can be proved
          fix        known families: FAMILIES
        """.replace("FAMILIES", ", ".join(grow.families)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_refusal_says(name, tmp_path):
    family, fields, to, options, kind, message = REFUSALS[name]
    config = dict(fields)
    stored = {k: v for k, v in config.items() if k != "model_type"}
    source = tiny.checkpoint(tmp_path / "source", family, **stored)
    tiny.edit_json(source / "config.json", lambda c: c.update(config))
    error = refusal(source, to, options)
    assert type(error) is kind
    assert error.exit_code == 2
    assert str(error) == dedent(message).strip()


def refusal(source: Path, to: str, options: dict[str, Any]) -> GrowError:
    with spelled(COMMAND_LINE), pytest.raises(GrowError) as error:
        grow.plan(source, to, **options)
    return error.value


# The four parts themselves


def test_a_message_has_its_parts_in_order_and_leaves_out_empty_ones():
    error = GrowError("tensor", what="9, wanted 8", why="a rule", fix="a\nb", details=[("sizes", "8")])
    assert (
        str(error)
        == dedent(
            """
        tensor: 9, wanted 8
          sizes      8
          why        a rule
          fix        a
                     b
        """
        ).strip()
    )
    assert str(GrowError("tensor", what="is missing")) == "tensor: is missing"


@pytest.mark.parametrize("kind", [GrowError, BadInput, Refused, grow.Different])
def test_an_error_survives_the_way_to_another_process(kind):
    error = kind("tensor", what="9", why="a rule", fix="a", details=[("sizes", "8")])
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert again.exit_code == (1 if kind is grow.Different else 2)


def test_did_you_mean_names_the_nearest_or_nothing():
    assert did_you_mean("hiden_size", ["hidden_size", "heads"]) == "did you mean 'hidden_size'?"
    assert did_you_mean("banana", ["hidden_size", "heads"]) == ""


def test_a_listing_is_cut_where_it_stops_being_readable():
    assert listing("ab") == "a, b"
    assert listing("abcdefghijkl", 3) == "a, b, c and 9 more"
