"""What transformers is about to take away is used nowhere: nothing warns of it, neither for grow nor for its users."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers

import grow
from grow.integrations import grow_in_place
from grow.integrations.in_place import check_in_place
from grow.models import gradient_checkpointing

ARGUMENTS = {"use_reentrant": False, "preserve_rng_state": False}


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        yield


@pytest.fixture
def model(tiny):
    return transformers.AutoModelForCausalLM.from_pretrained(tiny("llama-tied"))


def test_it_is_seen_where_it_is_on_and_nowhere_else(model):
    assert not gradient_checkpointing.enabled(model)
    assert gradient_checkpointing.arguments(model) is None
    gradient_checkpointing.enable(model, ARGUMENTS)
    assert gradient_checkpointing.enabled(model)
    assert gradient_checkpointing.arguments(model) == ARGUMENTS


def test_an_older_release_has_another_name_for_it():
    class Older:
        called: object = None

        def gradient_checkpointing_enable(self, arguments):
            self.called = arguments

    older = Older()
    gradient_checkpointing.enable(older, ARGUMENTS)
    assert older.called == ARGUMENTS


def test_a_growth_in_place_warns_of_nothing(model):
    gradient_checkpointing.enable(model, ARGUMENTS)
    optimizer = torch.optim.AdamW(model.parameters())
    check_in_place(model, [optimizer])
    grow_in_place(model, "2x", optimizer=optimizer)
    assert gradient_checkpointing.enabled(model)
    assert gradient_checkpointing.arguments(model) == ARGUMENTS


def test_a_hook_beside_it_is_still_found(model):
    gradient_checkpointing.enable(model, ARGUMENTS)
    model.model.layers[0].register_forward_hook(lambda *_: None)
    with pytest.raises(grow.GrowError, match="hook"):
        check_in_place(model, [])


def test_training_warns_of_nothing(tiny, tmp_path):
    out = tmp_path / "run"
    done = grow.train("small", out=out, steps=1, batch=2, length=16, eval_every=5, save_every=5, checkpointing=True)
    assert done.step == 1
