"""What a resumed run reads and checks of its earlier part.

Each file may be missing or belong to another run; a run goes on only where all of them are its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grow.errors import BadInput
from grow.files.regular import read_json
from grow.planning.record import config_sha256
from grow.spelling import option
from grow.training.log.metrics import METRICS, recorded
from grow.training.run_folder import RUN
from grow.training.saved import checkpoints
from grow.training.settings.from_options import began_otherwise
from grow.training.settings.run_settings import Settings
from grow.training.text.inputs import Data, Source


def again() -> str:
    """The fix where a run cannot be resumed."""
    return f"begin a new run in another {option('out')}"


def last_checkpoint(run: Path) -> tuple[Path | None, dict[str, Any], list[str]]:
    """(the checkpoint to go on from, its train.json, notes), or (None, {}, notes) where none was written yet. BadInput
    where some were written and none is left."""
    checkpoint, document, notes = checkpoints.latest(run)
    if checkpoint is not None:
        return checkpoint, document, notes
    begun = read_begun(run)
    settings = Settings.from_document(begun["settings"])
    steps = recorded(run / METRICS)
    saved = (max(steps, default=0) - 1) // settings.save_every * settings.save_every
    if saved > settings.begin:
        raise BadInput(
            str(run),
            what=f"has no checkpoint, and {METRICS} records {max(steps)} steps",
            why=f"step {saved} was saved and is missing; the run would begin anew and lose what is recorded",
            fix=f"bring {checkpoints.folder_of(run, saved).name} back, or {again()}",
        )
    return None, {}, [*notes, "the run was interrupted before its first checkpoint: it begins again"]


def read_begun(run: Path, stored: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a run was begun with, by its last checkpoint or else by run.json; BadInput when neither says it."""
    file = run / RUN
    begun: Any = stored or read_json(file, again())
    try:
        record = {
            "source": str(begun["source"]),
            "data": [Source(str(d["path"]), d["weight"]) for d in begun["data"]],
            "settings": begun["settings"],
            "policy": "carry" if begun.get("carried") else "drop",
        }
        Settings.from_document(begun["settings"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise BadInput(str(file), what="is not a record of a run", why=why, fix=again()) from None
    return {**record, **{key: begun.get(key) for key in ("before", "carried")}}


def check_config(checkpoint: Path, config: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """BadInput where the config is not the one that the run had."""
    if config_sha256(config) != stored["config_sha256"]:
        raise BadInput(
            str(checkpoint / "config.json"),
            what="is not the config that the run had",
            why="its sha256 differs, so the model would compute something else",
            fix="bring it back, or move this checkpoint away to go on from the one before",
        )


def check_text(stored: Mapping[str, Any], data: Data, sources: list[Source]) -> None:
    """BadInput where a resumed run would read another text than before."""
    for before, now, source in zip(stored.get("data", ()), data.document(), sources):
        for key, value in now.items():
            if before[key] != value:
                text = f"{option(data=source.path)} with the sha256"
                raise began_otherwise(f"{text} {value[:12]}", f"{text} {before[key][:12]}", stored["step"])
    if stored and len(stored["data"]) != len(data.corpora):
        several = f"{option('data')} of {len(data.corpora)} corpora"
        raise began_otherwise(several, str(len(stored["data"])), stored["step"])


def check_metrics(run: Path, settings: Settings, step: int) -> list[str]:
    """A note where steps up to `step` are not recorded. BadInput where that would change the run, because a plateau is
    found in what is recorded."""
    lost = (step - settings.begin) - len(recorded(run / METRICS) & set(range(settings.begin + 1, step + 1)))
    if not lost:
        return []
    what = f"has no line of {lost} of the {step - settings.begin} steps"
    if settings.plateau is not None:
        why = "it says whether the run has reached a plateau"
        raise BadInput(str(run / METRICS), what=what, why=why, fix=f"bring the file back, or {again()}")
    return [f"{METRICS} {what} so far: they are not on the curve"]
