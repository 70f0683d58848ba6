"""The folder of a recipe: which stages are done.

    OUT/recipe.toml     the recipe, as it was given last
    OUT/recipe.json     {"schema", "grow", "name", "machine", "stages": [{"name", "kind", "folder", "status", …}], …}
    OUT/01-init/ …      a folder per stage: checkpoints of growths and runs of grow train, as those commands leave them
    OUT/final           a relative link to the last checkpoint
    OUT/report.md       how it went, with curves.png

A stage is done when recipe.json says so, and it says so after everything is on disk.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grow.data.corpus import sha256_of
from grow.errors import BadInput
from grow.files.finished import keep
from grow.files.regular import read_json
from grow.files.staging import check_output
from grow.files.writer import write_json, write_whole
from grow.spelling import left_out, option
from grow.staged.keys import shown
from grow.staged.recipe import FINAL, RECIPE, TOML, Recipe, Stage
from grow.training.run_folder import LOCK, RUN
from grow.training.settings.from_options import FREE
from grow.version import __version__

SCHEMA = 1
WAITING, RUNNING, DONE = "waiting", "running", "done"


def elsewhere() -> str:
    """The fix where the folder of a run cannot be used."""
    return f"begin in another {option('out')}"


def check_out(out: Path, resume: bool) -> None:
    """BadInput where the folder belongs to another run, or holds none to continue."""
    begun = (out / RECIPE).is_file()
    if (resume or (out / LOCK).is_file()) and out.is_dir() and all(p.name.startswith(".") for p in out.iterdir()):
        return  # it was killed before anything was begun
    if resume and not begun:
        what = "holds no run of a recipe" if out.exists() else "does not exist"
        raise BadInput(option(out=out), what=what, why=f"a run of a recipe has a {RECIPE}", fix=left_out("resume"))
    if not resume and out.is_dir() and any(out.iterdir()):
        fix = f"{option(resume=True)} continues it" if begun else f"another {option('out')}"
        why = "a run never writes over another"
        raise BadInput(option(out=out), what="exists and is not empty", why=why, fix=fix)
    if not resume:
        check_output(out, None, False, 0)


class Book:
    """The file recipe.json. `stages` and `baseline` are the entries of its document, not copies."""

    def __init__(self, out: Path, document: dict[str, Any]) -> None:
        self.out, self.document = out, document

    @classmethod
    def begin(cls, out: Path, recipe: Recipe, machine: str) -> Book:
        return cls(
            out,
            {
                "schema": SCHEMA,
                "grow": __version__,
                "name": recipe.name,
                "recipe_sha256": hashlib.sha256(recipe.content).hexdigest(),
                "machine": machine,
                # grow.plotting.curves reads this list: the metrics of every train stage in a row, growths as marks
                "stages": [_entry(stage) for stage in recipe.stages],
                "baseline": _entry(recipe.baseline) if recipe.baseline else None,
                "final": None,
            },
        )

    @classmethod
    def open(cls, out: Path) -> Book:
        file = out / RECIPE
        document = read_json(file, elsewhere())
        try:
            if document["schema"] != SCHEMA:
                raise ValueError(f"schema {document['schema']!r}, this version reads {SCHEMA}")
            entries = [*document["stages"], *([document["baseline"]] if document["baseline"] else [])]
            known = {"name": str, "kind": str, "folder": str, "status": str, "options": dict}
            if not all(isinstance(entry[key], kind) for entry in entries for key, kind in known.items()):
                raise ValueError("a stage without name, kind, folder, status or options")
            if any(e["status"] == DONE and not isinstance(e.get("checkpoint"), str) for e in entries):
                raise ValueError("a stage that is done and left no checkpoint")
            if any(entry["folder"] in ("", "..") or Path(entry["folder"]).name != entry["folder"] for entry in entries):
                raise ValueError("a stage's folder is not inside")
        except (KeyError, TypeError, ValueError) as error:
            why = f"{type(error).__name__}: {error}"
            raise BadInput(str(file), what="is not a record of a recipe's run", why=why, fix=elsewhere()) from None
        return cls(out, document)

    @property
    def stages(self) -> list[dict[str, Any]]:
        return self.document["stages"]

    @property
    def baseline(self) -> dict[str, Any] | None:
        return self.document["baseline"]

    def begun(self, entry: Mapping[str, Any]) -> bool:
        """Whether anything of a stage is kept. A stage that was refused or killed before that may change."""
        status = entry["status"]
        return status == DONE or (status == RUNNING and (self.out / entry["folder"] / RUN).is_file())

    def take(self, recipe: Recipe) -> None:
        """Take over the recipe as it is now; BadInput names the key where it changes what was begun."""
        if recipe.name != self.document["name"]:
            raise _changed("name", self.document["name"], recipe.name)
        begun = [entry for entry in self.stages if self.begun(entry)]
        if len(recipe.stages) < len(begun):
            raise _changed("stages", f"{len(begun)} begun", f"{len(recipe.stages)} in all")
        for number, (entry, stage) in enumerate(zip(begun, recipe.stages), 1):
            _check_same(f"stage {number} ({entry['kind']})", entry, stage)
        entries = begun + [_entry(stage) for stage in recipe.stages[len(begun) :]]
        baseline = self.baseline
        if baseline and self.begun(baseline):
            if recipe.baseline is None:
                raise _changed("[baseline]", "begun", "absent")
            _check_same("[baseline]", baseline, recipe.baseline)
            if len(entries) != len(self.stages):
                raise _changed("stages", f"{len(self.stages)} before the baseline", len(entries))
        else:
            baseline = _entry(recipe.baseline) if recipe.baseline else None
        self.document["stages"], self.document["baseline"] = entries, baseline
        self.document["recipe_sha256"] = hashlib.sha256(recipe.content).hexdigest()

    def write(self, recipe: Recipe | None = None) -> None:
        """Write recipe.json, whole or not at all."""
        if recipe is not None:
            write_whole(self.out / TOML, recipe.content)
        write_json(self.out / RECIPE, self.document)
        _sync(self.out)
        keep(self.out, f"holds the stages that are done; {option(resume=True)} goes on with it")

    def path(self, entry: Mapping[str, Any]) -> Path:
        """The checkpoint that a stage left."""
        return self.out / entry["checkpoint"]

    def relative(self, path: Path) -> str:
        return str(path.relative_to(self.out)) if path.is_relative_to(self.out) else str(path)

    def check_checkpoint(self, entry: Mapping[str, Any]) -> None:
        """BadInput where the checkpoint that a stage left was changed since."""
        path, files = self.path(entry), entry["files"]
        lost = [name for name in files if not (path / name).is_file()]
        other = [name for name in files if name not in lost and sha256_of(path / name) != files[name]]
        if lost or other:
            what = f"{', '.join([*lost, *other][:4])} {'is missing' if lost else 'has another sha256'}"
            why = f"the next stage begins with what {entry['name']} left there"
            raise BadInput(str(path), what=what, why=why, fix=f"bring it back, or {elsewhere()}")

    def point(self, entry: Mapping[str, Any]) -> None:
        """Make OUT/final a link to a stage's checkpoint; it is relative, so that the folder can be moved."""
        link, partial = self.out / FINAL, self.out / f".{FINAL}.partial"
        partial.unlink(missing_ok=True)
        partial.symlink_to(entry["checkpoint"], target_is_directory=True)
        partial.replace(link)


def hashes(checkpoint: Path) -> dict[str, str]:
    """File -> sha256, for the files that determine a checkpoint's function."""
    names = ["config.json", *sorted(p.name for p in checkpoint.glob("*.safetensors*")), "grow.json"]
    return {name: sha256_of(checkpoint / name) for name in names if (checkpoint / name).is_file()}


def _entry(stage: Stage) -> dict[str, Any]:
    options = json.loads(json.dumps(dict(stage.options)))
    return {"name": stage.name, "kind": stage.kind, "folder": stage.name, "status": WAITING, "options": options}


def _check_same(where: str, entry: dict[str, Any], stage: Stage) -> None:
    """Take over what may change in a stage that was begun; BadInput where something else changes."""
    now = _entry(stage)
    for key in ("kind", "name"):
        if entry[key] != now[key]:
            raise _changed(f"{where}: {key}", entry[key], now[key])
    for key in dict.fromkeys((*entry["options"], *now["options"])):
        before, after = entry["options"].get(key), now["options"].get(key)
        if before != after and key not in FREE:
            raise _changed(f"{where}: {key}", before, after)
    entry["options"] = now["options"]


def _changed(where: str, before: Any, now: Any) -> BadInput:
    return BadInput(
        f"{option(resume=True)}: {where}",
        what=f"is {shown(now)}, and the run was begun with {shown(before)}",
        why="a run that one recipe began is not continued with another",
        fix=f"the recipe as it was (OUT/recipe.toml), or another {option('out')}; stages not yet begun may change",
    )


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
