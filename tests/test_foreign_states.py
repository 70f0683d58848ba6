"""Training states that do not come along are told; they are an error only where `--state` asked for one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import checkpoint, command

import grow
from grow.errors import BadInput, Refused
from grow.optimizer.state.parameter_names import bare_model

STATES = {
    "DeepSpeed": ("latest", "zero_to_fp32.py", "global_step5/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"),
    "FSDP": ("optimizer_0/.metadata", "optimizer_0/__0_0.distcp", "pytorch_model_fsdp_0/.metadata"),
    "torch.distributed.checkpoint": ("mine/.metadata", "mine/__0_0.distcp"),
    "Megatron": ("iter_0000005/mp_rank_00/model_optim_rng.pt", "latest_checkpointed_iteration.txt"),
    "an optimizer's": ("optimizer.bin", "optimizer_1.bin", "optimizer.safetensors"),
    "a run's": (
        *("scheduler.bin", "scheduler.pt", "scaler.pt", "rng_state_0.pth", "random_states_0.pkl"),
        *("custom_checkpoint_0.pkl", "sampler.bin", "trainer_state.json"),
    ),
}
TO = {"hidden": 48}


def beside(folder: Path, names: tuple[str, ...]) -> Path:
    """A checkpoint with files that nobody may open: they are no pickles."""
    checkpoint(folder)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"nothing to read")
    return folder


@pytest.mark.parametrize("whose", STATES)
def test_a_state_that_is_not_read_is_told_by_name(whose, tmp_path):
    source = beside(tmp_path / "source", STATES[whose])
    growth = grow.widen(source, TO, out=tmp_path / "grown", verify=False)
    said = [note for note in growth.notes if "training state stays behind" in note]
    assert len(said) == 1
    assert f"{whose} (" in said[0]
    tops = {name.partition("/")[0] for name in STATES[whose]}
    shown = sum(name in said[0] for name in tops)
    assert shown == len(tops) or f"and {len(tops) - 4} more" in said[0]
    assert not {path.name for path in growth.path.iterdir()} & tops
    for policy in ("carry", "fresh-new"):
        with pytest.raises(BadInput, match="has no training state that can be read") as error:
            grow.widen(source, TO, out=tmp_path / "more", verify=False, state=policy)
        assert f"{whose} (" in str(error.value)
    dropped = grow.widen(source, TO, out=tmp_path / "dropped", verify=False, state="drop")
    assert not any("stays behind" in note for note in dropped.notes)


def test_a_checkpoint_without_a_state_has_no_note(tmp_path):
    checkpoint(tmp_path / "source", tokenizer=True)
    growth = grow.widen(tmp_path / "source", TO, out=tmp_path / "grown", verify=False)
    assert not any("training state" in note for note in growth.notes)


def test_the_command_line_says_it_too(tmp_path, monkeypatch, capsys):
    source = beside(tmp_path / "source", STATES["DeepSpeed"])
    call = ("widen", "--from", source, "--to", "hidden=48", "--no-verify", "--out")
    code, out, err = command(monkeypatch, capsys, *call, tmp_path / "grown")
    assert code == 0
    assert "DeepSpeed (global_step5/, latest, zero_to_fp32.py)" in out + err
    code, out, err = command(monkeypatch, capsys, *call, tmp_path / "more", "--state", "carry")
    assert code == 2
    assert "DeepSpeed (global_step5/" in err
    assert not (tmp_path / "more").exists()


def test_an_optimizer_with_groups_of_its_own_is_a_note(tmp_path):
    """A Trainer makes two groups; here is one, as DeepSpeed's configuration or `optimizers=` make it."""
    source = beside(tmp_path / "source", ("scheduler.pt",))
    parameters = list(bare_model(source).parameters())
    state = {i: {"step": torch.tensor(5.0)} | _moments(p.shape) for i, p in enumerate(parameters)}
    group = {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "params": list(state)}
    torch.save({"state": state, "param_groups": [group]}, source / "optimizer.pt")
    (source / "trainer_state.json").write_text('{"global_step": 5}')
    growth = grow.widen(source, TO, out=tmp_path / "grown", verify=False)
    said = next(note for note in growth.notes if "stays behind" in note)
    assert f"has groups of [{len(parameters)}] parameters" in said
    assert "scheduler.pt" in said
    for policy in ("carry", "fresh-new"):
        with pytest.raises(Refused, match="has groups of"):
            grow.widen(source, TO, out=tmp_path / "more", verify=False, state=policy)


def test_what_lies_beside_a_state_that_comes_along_is_told(tmp_path):
    source = checkpoint(tmp_path / "first")
    model = bare_model(source)
    from grow.optimizer.state.of_trainer import trainer_order

    shapes = {name: p.shape for name, p in model.named_parameters()}
    order = trainer_order(model)
    numbered = [name for names in order for name in names]
    state = {i: {"step": torch.tensor(5.0)} | _moments(shapes[name]) for i, name in enumerate(numbered)}
    at, groups = 0, []
    for names in order:
        groups.append({"lr": 1e-4, "betas": (0.9, 0.999), "params": list(range(at, at + len(names)))})
        at += len(names)
    torch.save({"state": state, "param_groups": groups}, source / "optimizer.pt")
    (source / "trainer_state.json").write_text('{"global_step": 5}')
    for name in ("scheduler.pt", "rng_state.pth", "optimizer_1.bin"):
        (source / name).write_bytes(b"not read")
    growth = grow.widen(source, TO, out=tmp_path / "grown", verify=False)
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= {
        path.name for path in growth.path.iterdir()
    }
    said = next(note for note in growth.notes if "stays behind" in note)
    assert "optimizer_1.bin" in said
    assert "scheduler.pt" not in said
    assert "came along" in growth.notes[-1]


def _moments(shape) -> dict[str, torch.Tensor]:
    return {"exp_avg": torch.randn(shape), "exp_avg_sq": torch.rand(shape)}
