"""The folder of a stock Trainer grows as a run's does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from grown_states import EVEN, refused, short, values, wanted, widen
from training import QUICK
from transformers import AutoModelForCausalLM

import grow
from grow.errors import BadInput
from grow.integrations.trainer_state import load_trainer_state
from grow.optimizer.state.of_trainer import trainer_order
from grow.optimizer.state.parameter_names import bare_model

# A stock Trainer's folder


@pytest.fixture(scope="module", params=["adamw_torch", "adafactor"])
def trained(request, trainer, tiny, tmp_path_factory) -> tuple[str, Path]:
    """(optim, checkpoint-2 of a Trainer)."""
    out = tmp_path_factory.mktemp("trainer") / request.param
    return request.param, trainer(request.param, out, tiny("llama-tied"))[0].with_name("checkpoint-2")


def test_a_trainer_goes_on_with_what_grew(trained, trainer, tmp_path):
    optim, source = trained
    growth = widen(source, tmp_path / "grown", state="carry")
    assert {"optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth"} <= {
        p.name for p in growth.path.iterdir()
    }
    last, keep = trainer(optim, tmp_path / "out", growth.path, growth.path)
    assert keep.step == 2
    numbered = [name for names in trainer_order(bare_model(growth.path)) for name in names]
    state, moments = keep.found["state"], values(growth.path)
    assert len(state) == len(numbered)
    groups = torch.load(source / "optimizer.pt", weights_only=True)["param_groups"]
    assert [g["weight_decay"] for g in keep.found["param_groups"]] == [g["weight_decay"] for g in groups] == [0.1, 0.0]
    for number, name in enumerate(numbered):
        for key, value in wanted(source, growth, "carry").items():
            if key.startswith(f"optim.{name}."):
                own = {"variance": "exp_avg_sq"}.get(key.rpartition(".")[2], key.rpartition(".")[2])
                assert torch.equal(torch.as_tensor(state[number][own]).float(), value), key
        if "exp_avg_sq_row" in state[number]:
            for own, key in (("exp_avg_sq_row", "row_var"), ("exp_avg_sq_col", "col_var")):
                assert torch.equal(state[number][own].flatten(), moments[f"optim.{name}.{key}"].flatten())
    after = torch.load(last / "optimizer.pt", weights_only=True)["state"]
    assert all(int(entries["step"]) == 4 for entries in after.values())
    assert json.loads((last / "trainer_state.json").read_text())["global_step"] == 4


def test_a_trainers_state_can_be_loaded_for_a_model_in_memory(trained, trainer, tmp_path):
    optim, source = trained
    growth = widen(source, tmp_path / "grown", state="fresh-new")
    grown = grow.widen(AutoModelForCausalLM.from_pretrained(source), {"hidden": 36, "layers": 3}, verify=False, **EVEN)
    optimizer = load_trainer_state(source, grown.model, grown.plan)
    stored = torch.load(growth.path / "optimizer.pt", weights_only=True)
    assert same_state(optimizer.state_dict()["state"], stored["state"])
    assert trainer(optim, tmp_path / "out", grown.model, optimizers=(optimizer, None))[1].step == 0
    model = AutoModelForCausalLM.from_pretrained(source)
    assert same_state(
        load_trainer_state(source, model).state_dict()["state"],
        torch.load(source / "optimizer.pt", weights_only=True)["state"],
    )
    assert not load_trainer_state(source, grown.model, grown.plan, state="drop").state
    said = refused(BadInput, load_trainer_state, source, grown.model)
    assert "load_trainer_state(checkpoint, grown.model, grown.plan)" in said


def same_state(a: dict, b: dict) -> bool:
    def equal(x: dict, y: dict) -> bool:
        return all(torch.equal(torch.as_tensor(x[k]).float(), torch.as_tensor(y[k]).float()) for k in y if k != "RMS")

    return a.keys() == b.keys() and all(equal(a[n], b[n]) for n in b)


def test_grow_train_continues_the_checkpoint_of_a_trainer(trained, text, tmp_path):
    optim, source = trained
    optimizer = {"adamw_torch": "adamw", "adafactor": "adafactor"}[optim]
    other = {"adamw": "adafactor", "adafactor": "adamw"}[optimizer]
    options = {**QUICK, "steps": 1}
    for k, path in enumerate((source, widen(source, tmp_path / "grown").path)):
        done = grow.train(path, text, out=tmp_path / f"{k}", optimizer=optimizer, **options)
        assert "a Trainer does not record its place" in " ".join(done.notes)
        steps = [value for name, value in values(done.checkpoint).items() if name.endswith(".step")]
        assert {int(step) for step in steps} == {3}
        assert f'optimizer="{optimizer}"' in refused(
            BadInput, grow.train, path, text, out=tmp_path / "other", optimizer=other, **options
        )
        said = refused(
            BadInput,
            grow.train,
            path,
            text,
            out=tmp_path / "other",
            continue_schedule=True,
            optimizer=optimizer,
            **short(),
        )
        assert "needs the schedule" in said
    on = grow.train(
        source, text, out=tmp_path / "on", optimizer=optimizer, continue_schedule=True, **{**short(), "steps": 3}
    )
    assert (on.step, on.settings.begin, on.tokens) == (3, 2, 96)
