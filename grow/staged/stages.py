"""What each kind of stage does."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grow import api
from grow.checkpoint.reader import open_checkpoint
from grow.costs.training_cost import TrainingCost
from grow.errors import BadInput
from grow.files.locate import locate
from grow.files.owned import CHECKPOINT, Kind, discard, written
from grow.files.regular import MAX_BESIDE, read_file
from grow.files.staging import Staging
from grow.files.writer import write_json
from grow.growth.written_and_verified import Different
from grow.planning.record import NAME, trained_record
from grow.processes import World
from grow.staged.checkpoint_outline import random_outline
from grow.staged.forecast import growth_arguments, train_settings
from grow.staged.keys import GROWTHS
from grow.staged.recipe import Stage
from grow.staged.recipe_folder import Book, elsewhere, hashes
from grow.training.log.metrics import METRICS, kept_lines
from grow.training.run_folder import BUNDLED, RUN, UNBEGUN
from grow.training.text.inputs import parse_sources, tokenized
from grow.version import __version__

Outcome = dict[str, Any]  # what a stage adds to its entry in recipe.json


@dataclass
class Conductor:
    """Carries out stages in OUT. Stages that take long call `say` with their rungs and bytes."""

    out: Path
    book: Book
    world: World
    quiet: bool
    trust: bool
    say: Callable[[str], None]

    def carry_out(self, stage: Stage, entry: Mapping[str, Any], before: Mapping[str, Any] | None) -> Outcome:
        """Do what is left of a stage; its entry then has {"checkpoint", "parameters", "seconds", …} or {"stopped"}."""
        began = time.monotonic()
        if stage.kind == "train":
            outcome = self.train(stage, entry, before)
        elif stage.kind in GROWTHS:
            outcome = self.growth(stage, entry, before)
        else:
            outcome = {}
            with self.world.together():
                if self.world.first:  # the others wait
                    outcome = self.alone(stage, entry, before)
            outcome = self.world.broadcast(outcome)
        seconds = entry.get("seconds", 0.0) + time.monotonic() - began
        if "stopped" in outcome:
            return {**outcome, "seconds": seconds}
        path = self.out / outcome["checkpoint"]
        with open_checkpoint(path) as checkpoint:
            parameters = sum(math.prod(info.shape) for info in checkpoint.tensors.values())
        return {"parameters": parameters, **outcome, "seconds": seconds, "files": hashes(path)}

    def alone(self, stage: Stage, entry: Mapping[str, Any], before: Mapping[str, Any] | None) -> Outcome:
        """Carry out a stage that one process does alone."""
        if stage.kind == "load":
            return {"checkpoint": str(locate(stage.options["from"], revision=stage.options["revision"]).absolute())}
        folder = self.out / entry["folder"]
        _clear(folder)
        if stage.kind == "init":
            random_checkpoint(stage.options, folder)
            return {"checkpoint": entry["folder"]}
        assert before is not None
        return self.verify(stage, folder, before)

    def growth(self, stage: Stage, entry: Mapping[str, Any], before: Mapping[str, Any] | None) -> Outcome:
        """Carry out a growth, by all processes together."""
        assert before is not None
        folder = self.out / entry["folder"]
        with self.world.together():
            if self.world.first:
                _clear(folder)
        to, options = growth_arguments(stage)
        beside = {name: stage.options[name] for name in ("state", "max_shard_size", "verify", "assume_harmless")}
        grown = api.widen(
            self.book.path(before),
            to,
            out=folder,
            **vars(options),
            **beside,
            trust_checkpoint=self.trust,
            world=self.world.size,
            on_rung=self.say,
        )
        return {
            "checkpoint": folder.name,
            "source": before["checkpoint"],
            "verdict": grown.status,
            "notes": [*grown.notes],
        }

    def verify(self, stage: Stage, folder: Path, before: Mapping[str, Any]) -> Outcome:
        """Verify a growth and write a page and a document; Different where an exact growth is not proved."""
        options = {name: stage.options[name] for name in ("rungs", "samples") if stage.options[name] is not None}
        with Staging(folder, kind=VERIFIED) as stage_:
            source, grown = self.book.path({"checkpoint": before["source"]}), self.book.path(before)
            verification = api.verify(
                source,
                grown,
                **options,
                seed=stage.options["seed"],
                report=stage_.path / "report.html",
                on_rung=self.say,
            )
            write_json(stage_.path / VERIFICATION, verification.to_dict())
            stage_.commit(dict.fromkeys(VERIFIED.files))
        if not verification.sound and before["verdict"] != "lossy":
            raise Different(
                str(folder),
                what=f"{before['checkpoint']} is {verification.verdict}",
                why="the next stages would not train the function of the source",
                fix=f"see {folder / 'report.html'}",
                verification=verification,
            )
        verdict = (
            verification.verdict
            if verification.exit_code == 0 or not verification.sound
            else f"{verification.verdict}, not all of it learns"
        )
        return {"checkpoint": before["checkpoint"], "source": before["source"], "verdict": verdict}

    def train(self, stage: Stage, entry: Mapping[str, Any], before: Mapping[str, Any] | None) -> Outcome:
        """Begin or continue a run; {"stopped": SIGNAL} when it was interrupted."""
        assert before is not None
        folder = self.out / entry["folder"]
        resume = (folder / RUN).is_file()
        with self.world.together():
            if self.world.first and not resume:
                _clear(folder)
        kind, budget = stage.budget
        options = {
            **train_settings(stage),
            kind: budget,
            **self.continuation(stage, entry),
            "state": stage.options.get("state"),
        }
        if not resume:
            options["src"] = self.book.path(before)
            if before.get("source"):  # the first loss is compared with that of the source
                options["source"] = self.book.path({"checkpoint": before["source"]})
        done = api.train(
            data=self._data(stage, before),
            out=folder,
            resume=resume,
            trust_checkpoint=self.trust,
            quiet=self.quiet,
            **options,
        )
        if done.stopped:
            return {"stopped": done.stopped}
        return {
            "checkpoint": self.book.relative(done.checkpoint),
            "steps": done.step - done.settings.begin,
            "last_step": done.step,
            "tokens": done.tokens,
            "notes": list(done.notes),
            **summary(folder),
        }

    def continuation(self, stage: Stage, entry: Mapping[str, Any]) -> dict[str, Any]:
        """The options with which the schedule of the train stage before goes on, if it does. Moments and the place in
        the text come along with the checkpoint in any case."""
        if not stage.options.get("continues"):
            return {}
        earlier = self.book.stages[: self.book.stages.index(dict(entry))]
        last = next(one["last_step"] for one in reversed(earlier) if one["kind"] == "train")
        kind, budget = stage.budget  # the budget is that of the stage alone, and steps are counted on
        return {"continue_schedule": True, **({"steps": last + int(budget)} if kind == "steps" else {})}

    def _data(self, stage: Stage, before: Mapping[str, Any]) -> list[str]:
        """The token files of the stage; bundled texts are tokenized once for all stages."""
        given = parse_sources(stage.options["data"] or [BUNDLED])
        made = tokenized(given, self.out, str(self.book.path(before)), self.world)
        return [s.path if s.weight is None else f"{s.path}:{s.weight!r}" for s in made]


VERIFICATION = "verification.json"


def _fault(folder: Path) -> str:
    return "" if (folder / VERIFICATION).is_file() else f"no {VERIFICATION}"


VERIFIED = Kind("a verification", (VERIFICATION, "report.html"), _fault)


def _clear(folder: Path) -> None:
    """Remove what a stage left that was killed before recipe.json recorded it as done."""
    discard(folder, (CHECKPOINT, VERIFIED, UNBEGUN), "the stage is made there")


def random_checkpoint(options: Mapping[str, Any], folder: Path) -> None:
    """Write a stock checkpoint, initialised as transformers does it for the config; the tokenizer comes along."""
    from grow.comparison.training_loop import from_scratch
    from grow.models.true_float64 import DTYPES, quiet

    with Staging(folder) as stage, open_checkpoint(locate(options["from"], revision=options["revision"])) as given:
        harmless = options["assume_harmless"]
        made = random_outline(options["from"], options["sizes"], options["dtype"], options["revision"], harmless)
        write_json(stage.path / "config.json", made.config)
        model = from_scratch(stage.path, options["seed"])
        with quiet():
            model.to(DTYPES[options["dtype"]]).save_pretrained(stage.path)
        for path in stage.path.glob("*.safetensors"):  # save_pretrained makes them readable by their owner alone
            path.chmod((stage.path / "config.json").stat().st_mode)
        for name in given.companions:
            (stage.path / name).parent.mkdir(parents=True, exist_ok=True)
            (stage.path / name).write_bytes(read_file(given.path / name, most=MAX_BESIDE))
        with open_checkpoint(stage.path) as made_so:
            stored = {name: info.shape for name, info in made_so.tensors.items()}
        if stored != {name: slot.shape for name, slot in made.tensors.items()}:
            why = "the stock class has other tensors than the family's table"
            raise BadInput(
                str(folder),
                what="does not have the tensors that were planned",
                why=why,
                fix='kind = "load" of a checkpoint',
            )
        begun = {"source": "random weights", "seed": options["seed"], "spent": TrainingCost().document()}
        files = written(stage.path)
        write_json(stage.path / NAME, {**trained_record(None, begun, __version__), "files": files})
        stage.commit(files)


def summary(run: Path) -> Outcome:
    """What metrics.jsonl says of a finished run: FLOPs, and the first and last losses."""
    lines = [json.loads(line) for line in kept_lines(run / METRICS, 1 << 62)]
    if not lines or "loss" not in lines[-1]:
        why = "it says how the stage went"
        raise BadInput(
            str(run / METRICS), what="has no line for the last step", why=why, fix=f"bring it back, or {elsewhere()}"
        )
    held_out = [line["val_loss"] for line in lines if "val_loss" in line]
    return {
        "flops": lines[-1]["flops"],
        "step_seconds": lines[-1]["seconds"],
        "loss": lines[-1]["loss"],
        "loss_before": held_out[0] if held_out else None,
        "loss_after": held_out[-1] if held_out else None,
    }
