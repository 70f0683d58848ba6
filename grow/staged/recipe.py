"""A recipe read from its TOML file.

    name = "small-to-base"
    seed = 0
    data = ["tokens:0.7", "more:0.3"]    # folders of grow data prepare, "sotu"; left out: "sotu-heldout"

    [train]                              # settings of grow train, for every train stage that does not say otherwise
    length = 128
    lr = 3e-3

    [[stage]]
    kind = "init"                        # random weights with the config of a checkpoint; "load" takes its weights too
    from = "small"
    sizes = {hidden = 64, heads = 2}     # larger or smaller than there

    [[stage]]
    kind = "train"
    tokens = 2_000_000                   # or flops = 1e15, or steps = 500; plateau = "200:0.01" may end it earlier

    [[stage]]
    kind = "widen"                       # or deepen, upcycle: every option of the command, in Python's words
    to = "base"

    [[stage]]
    kind = "verify"

    [baseline]                           # the last model from random weights, for as many FLOPs

Each stage starts from what the stage before it left. Paths are looked up beside the recipe, then in the current folder.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grow.errors import BadInput, did_you_mean
from grow.files.regular import is_there, read_file
from grow.spelling import RecipeKeys, caller, command, spelled
from grow.staged.keys import (
    BASELINE,
    BUDGETS,
    GROWTHS,
    KINDS,
    SCHEDULE,
    STARTS,
    TOP,
    TRAIN,
    TREATED,
    UNTREATED,
    Key,
    shown,
    text,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST = 1 << 20  # bytes of a recipe
RECIPE, TOML, FINAL, REPORT, PICTURE = "recipe.json", "recipe.toml", "final", "report.md", "curves.png"
BASELINE_INIT = "baseline-init"
TAKEN = {RECIPE, TOML, FINAL, REPORT, PICTURE, "baseline", BASELINE_INIT, "data"}
"""What the folder of a run holds besides its stages."""
FOLDER = Path(__file__).parent / "recipes"
Faults = list[tuple[str, str]]


@dataclass(frozen=True)
class Stage:
    """One stage. `options` holds every key of its kind, defaults filled in; its folder has the stage's name."""

    kind: str
    name: str
    options: Mapping[str, Any]

    @property
    def budget(self) -> tuple[str, float]:
        """What a train stage may cost, as in ("tokens", 2000000)."""
        return next((name, self.options[name]) for name in BUDGETS if self.options.get(name) is not None)


@dataclass(frozen=True)
class Recipe:
    """A recipe. `baseline` is a train stage without a budget, or None; `content` holds the file's bytes."""

    name: str
    stages: tuple[Stage, ...]
    baseline: Stage | None
    path: Path
    content: bytes


def bundled() -> dict[str, Path]:
    """Name of each recipe that comes with grow -> its file."""
    return {path.stem.replace("_", "-"): path for path in sorted(FOLDER.glob("*.toml"))}


def read_recipe(source: str | Path) -> Recipe:
    """The recipe in a file, or a bundled one by its name; BadInput, listing every fault with its stage."""
    path = Path(source)
    if not path.exists() and (known := bundled().get(str(source))):
        path = known
    content = _content(path)
    faults: Faults = []
    raw = _parsed(path, content)
    top = _filled("", {k: v for k, v in raw.items() if k not in ("train", "stage", "baseline")}, TOP, faults, _TABLES)
    given = raw.get("train", {})
    common = _filled("[train]", given, TRAIN, faults)
    given = given if isinstance(given, Mapping) else {}
    base = {**{k: top[k] for k in ("seed", "data")}, **{k: common[k] for k in given if k in TRAIN}}
    base["data"] = _texts(base["data"])
    stages = raw.get("stage")
    if not isinstance(stages, list) or not stages:
        faults.append(("[[stage]]", "there must be one or more"))
        stages = []
    parsed = [_stage(k, stage, base, top["seed"], path, faults) for k, stage in enumerate(stages, 1)]
    baseline = _baseline(raw["baseline"], base, path, faults) if "baseline" in raw else None
    faults += _order(parsed, baseline)
    if faults:
        (where, what), *more = faults
        details = [*more[:9], *([("…", f"and {len(more) - 9} more")] if len(more) > 9 else [])]
        raise BadInput(
            f"{path}: {where}",
            what=what,
            details=details,
            why="a recipe is checked as a whole before anything runs",
            fix=f"correct the file; {command('price')} checks it and runs nothing",
        )
    return Recipe(top["name"], tuple(parsed), baseline, path, content)


_TABLES = ("train", "stage", "baseline")


def _content(path: Path) -> bytes:
    known = bundled()
    try:
        if path.is_dir() or not is_there(path):
            hint = did_you_mean(str(path), known) or f"bundled: {', '.join(known)}"
            what = "is a folder" if path.is_dir() else "does not exist"
            raise BadInput(str(path)[:200], what=what, why="a recipe is a TOML file", fix=hint)
        return read_file(path, most=LARGEST, fix=f"check the path, or name a bundled recipe: {', '.join(known)}")
    except (OSError, ValueError) as error:  # ValueError: a name with NUL
        raise BadInput(
            repr(str(path))[:200], what="cannot be read", why=str(error), fix="check the path and its permissions"
        ) from None


def _parsed(path: Path, content: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(content.decode("utf-8-sig").replace("\r\n", "\n"))
    except RecursionError:
        why = "it is nested too deeply"
    except ValueError as error:  # TOML, UTF-8 and numbers with thousands of digits raise it
        why = (str(error).splitlines() or ["it is not TOML"])[0][:200]
    fix = f"begin from a bundled recipe: {', '.join(bundled())}"
    raise BadInput(str(path), what="cannot be read as TOML", why=why, fix=fix)


def _stage(at: int, raw: Any, base: Mapping[str, Any], seed: int, path: Path, faults: Faults) -> Stage:
    where = f"stage {at}"
    kind = raw.get("kind") if isinstance(raw, Mapping) else None
    if not isinstance(kind, str) or kind not in KINDS:
        hint = did_you_mean(shown(kind), KINDS)
        faults.append((f"{where}: kind", f"{shown(kind)}: must be one of {', '.join(KINDS)}; {hint}".rstrip("; ")))
        return Stage("?", where, {})
    where = f"{where} ({kind})"
    own = {k: v for k, v in raw.items() if k not in ("kind", "name")}
    options = _filled(where, own, KINDS[kind], faults, ("kind", "name"), base if kind == "train" else {})
    if kind not in ("load", "train") and "seed" not in own:
        options["seed"] = seed
    if kind == "train" and len(given := [name for name in BUDGETS if name in own]) != 1:
        what = f"{' and '.join(given)} are two budgets" if given else "has no budget"
        faults.append((where, f"{what}; exactly one of {', '.join(BUDGETS)} must say when it ends at the latest"))
    name = raw.get("name", f"{at:02d}-{kind}")
    bad = (
        text(name) or any(c in name for c in "/\\:") or name[0] in ". " or name[-1] in ". " or len(name.encode()) > 100
    )
    taken = not bad and (name.casefold() in TAKEN or name.casefold().startswith("data-"))
    if bad or taken:
        why = ": the run has a file or folder of this name of its own" if taken else ""
        faults.append((f"{where}: name", f"{shown(name)} is not a name for a stage's folder{why}"))
        name = where
    return Stage(kind, name, _placed(options, path))


def _baseline(raw: Any, base: Mapping[str, Any], path: Path, faults: Faults) -> Stage:
    options = _filled("[baseline]", raw, BASELINE, faults, (), {k: v for k, v in base.items() if k in BASELINE})
    return Stage("train", "baseline", _placed(options, path))


def _filled(
    where: str,
    raw: Any,
    keys: Mapping[str, Key],
    faults: Faults,
    others: tuple[str, ...] = (),
    base: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Every key with its value, or the one of `base`, or the default; faults are added to the list.

    others  known keys that are checked elsewhere
    """
    at = f"{where}: " if where else ""
    if not isinstance(raw, Mapping):
        faults.append((where, "must be a table of keys"))
        raw = {}
    for name, value in raw.items():
        if name not in keys:
            known = (*keys, *others)
            hint = did_you_mean(name, known) or f"keys: {', '.join(known)}"
            faults.append((f"{at}{shown(name)[1:-1]}", f"no such key; {hint}"))
        else:
            with spelled(RecipeKeys(keys, GROWTHS, caller())):
                problem = keys[name].check(value)
            if problem:
                faults.append((f"{at}{name}", f"is {shown(value)}: {problem}"))
    faults += [(f"{at}{name}", "is missing") for name, key in keys.items() if key.needed and name not in raw]
    values = {name: raw.get(name, (base or {}).get(name, key.default)) for name, key in keys.items()}
    # unless they are given, these follow from the steps, the model or the stage before
    follows = ("warmup", "decay", "length", *(SCHEDULE if values.get("continues") else ()))
    missing = [name for name in follows if name in values and name not in raw and name not in (base or {})]
    return values | dict.fromkeys(missing)


def _placed(options: dict[str, Any], path: Path) -> dict[str, Any]:
    """The options with paths beside the recipe where these exist, and lists where one text may stand for a list."""
    beside = path.absolute().parent
    if isinstance(options.get("from"), str) and options["from"] and (beside / options["from"]).is_dir():
        options["from"] = str(beside / options["from"])
    if "data" in options:
        options["data"] = [_beside(item, beside) for item in _texts(options["data"])]
    if "assume_harmless" in options:
        options["assume_harmless"] = _texts(options["assume_harmless"])
    return options


def _beside(item: Any, folder: Path) -> Any:
    """PATH or PATH:WEIGHT, with the path beside the recipe if that exists."""
    if not isinstance(item, str):
        return item
    path, colon, weight = item.rpartition(":")
    for part, tail in ((item, ""), (path, colon + weight)):
        if part and (folder / part).is_dir():
            return str(folder / part) + tail
    return item


def _texts(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def _order(stages: list[Stage], baseline: Stage | None) -> Faults:
    """Faults in the order of the stages, and in their names."""
    faults: Faults = []
    trained = grown = dropped = False
    for k, stage in enumerate(stages):
        where = f"stage {k + 1} ({stage.kind})"
        if (k == 0) != (stage.kind in STARTS) and stage.kind != "?":
            why = "the first stage is init or load" if k == 0 else "it can only come first"
            faults.append((where, why))
        if stage.kind == "verify" and (k == 0 or stages[k - 1].kind not in (*GROWTHS, "?")):
            faults.append((where, "it compares a growth with its source: put it right after one"))
        dropped = dropped or stage.options.get("state") == "drop"
        if stage.options.get("continues") and (dropped or not trained):
            why = "the state whose schedule would go on is dropped" if trained else "no train stage comes before it"
            faults.append((f"{where}: continues", why))
        made_here = stages[0].kind == "init"
        if stage.options.get("state") not in (None, "drop") and made_here and (dropped or not trained):
            why = "what there was is dropped before it" if trained else "no train stage comes before it"
            faults.append((f"{where}: state", f"there is no state to take over: {why}"))
        for name in TREATED:
            if stage.options.get(name) not in UNTREATED and made_here and not grown and stage.kind == "train":
                faults.append((f"{where}: {name}", "nothing has grown before it, so nothing is new"))
        dropped = dropped and stage.kind != "train"
        trained, grown = trained or stage.kind == "train", grown or stage.kind in GROWTHS
    names = [stage.name for stage in stages]
    faults += [("[[stage]]", f"two are called {n!r}: their folders would be one") for n in _twice(names)]
    alike = [[n for n in dict.fromkeys(names) if n.casefold() == low] for low in _twice([n.casefold() for n in names])]
    faults += [
        ("[[stage]]", f"{' and '.join(map(repr, same))} differ in case alone: on many systems they are one folder")
        for same in alike
        if len(same) > 1
    ]
    if baseline is not None and not trained:
        faults.append(("[baseline]", "it gets the FLOPs of the train stages, and there is none"))
    return faults


def _twice(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
