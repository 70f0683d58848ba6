"""Files that come along with the weights: tokenizer, generation config, licence, modules."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import shutil
from pathlib import Path

from grow.applying.sentence_growth import Followed, follow, write_modules
from grow.applying.sentence_modules import read_modules
from grow.applying.sentence_vectors import vectors
from grow.checkpoint.reader import INDEX, Checkpoint
from grow.errors import BadInput, listing
from grow.files.allowed_files import inside
from grow.files.companion_files import MODULES, module_folders
from grow.files.header import show
from grow.files.regular import opened
from grow.files.writer import write_json
from grow.models.tokenizers import IDS, largest_id
from grow.notation.size_limits import cap_of
from grow.optimizer.state.unreadable import READ, foreign
from grow.planning.plan import Plan
from grow.planning.record import NAME
from grow.spelling import option

CARD = "README.md"
REPLACED = ("config.json", INDEX, NAME, CARD)
STATES = ("state", *READ, "training_args.bin")
"""Of a run, beside what `grow.optimizer.state.unreadable` names: `grow.optimizer.state` says what becomes of them."""
LITTER = (".git*", ".cache", ".huggingface", ".DS_Store", "__pycache__", ".ipynb_checkpoints", ".source", "*.lock")
"""What tools leave in a folder: said in one word."""


def follow_modules(checkpoint: Checkpoint, plan: Plan) -> Followed:
    """What becomes of the modules behind the transformer; Refused where one cannot come along."""
    modules = read_modules(checkpoint)
    if not modules:
        return Followed()
    start = vectors(plan.source, plan.maps, plan.split)
    changed = frozenset(axis for axis in plan.sizes if plan.sizes[axis] != plan.new_sizes[axis])
    return follow(checkpoint, modules, start, changed)


def copy_companions(checkpoint: Checkpoint, folder: Path, plan: Plan) -> None:
    """Copy them byte for byte, but for what says a size: the modules of sentence-transformers read the new width, and
    a tokenizer that cuts texts at the old number of positions cuts them at the new one.
    """
    followed = follow_modules(checkpoint, plan)
    grown = {f"{path}/{file}" for path in followed.tensors for file in ("model.safetensors", "pytorch_model.bin")}
    for name in checkpoint.companions:
        if name in grown:
            continue
        source, target = checkpoint.path / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if edited := followed.edits.get(name) or _edited(name, checkpoint, plan):
            write_json(target, edited)
        else:
            try:
                shutil.copyfile(source, target)
            except OSError:
                checkpoint.check_unchanged()  # says it better when the file went away meanwhile
                raise
    for name in module_folders(checkpoint.path) if MODULES in checkpoint.companions else ():
        (folder / name).mkdir(exist_ok=True)  # a module without a file has a folder all the same
    write_modules(checkpoint, followed, folder, plan.split, plan.seed)


def companion_notes(checkpoint: Checkpoint, plan: Plan) -> tuple[str, ...]:
    """What there is to say of the files beside the weights, one sentence each; Refused as in `follow_modules`."""
    notes = [
        *follow_modules(checkpoint, plan).notes,
        _too_few_rows(checkpoint, plan),
        _unread(checkpoint, plan),
        *left_behind(checkpoint),
    ]
    return tuple(note for note in notes if note)


def left_behind(checkpoint: Checkpoint) -> list[str]:
    """A sentence for whatever of the folder does not come along, training states apart."""
    coming = {name.split(os.sep)[0] for name in checkpoint.companions}
    states = (name.rstrip("/") for names in foreign(checkpoint.path).values() for name in names)
    coming |= set(module_folders(checkpoint.path)) if MODULES in coming else set()
    known = {*coming, *REPLACED, *STATES, *states, *(file.name for file in checkpoint.files)}
    noted = " ".join(checkpoint.notes)
    staying: list[str] = []
    litter: list[str] = []
    for name in sorted(os.listdir(checkpoint.path)):
        if name in known:
            continue
        if name.endswith((".safetensors", ".model")) and show(name) in noted:
            continue  # the reader has said so
        matches = any(fnmatch.fnmatchcase(name, pattern) for pattern in LITTER)
        folder = (checkpoint.path / name).is_dir()
        (litter if matches else staying).append(show(name) + ("/" if folder else ""))
    for name in sorted(coming):
        if (checkpoint.path / name).is_dir():
            staying += [show(file) for file in _files_in(checkpoint.path, name) if file not in checkpoint.companions]
    notes = []
    if staying:
        notes.append(f"stays behind: {listing(staying, 20)}")
    if litter:
        notes.append(f"files of tools stay behind: {listing(litter)}")
    if (checkpoint.path / CARD).exists():
        notes.append(f"{CARD} is replaced by a card of the grown model")
    return notes


def _files_in(root: Path, name: str) -> list[str]:
    return [
        str(Path(place, file).relative_to(root)) for place, _, files in os.walk(root / name) for file in sorted(files)
    ]


def _too_few_rows(checkpoint: Checkpoint, plan: Plan) -> str:
    """A note where the tokenizer knows more ids than the model has rows."""
    rows = plan.new_sizes.get("vocab")
    if rows is None or not rows < (entries := tokenizer_entries(checkpoint)) <= cap_of("vocab"):
        return ""
    return (
        f"the tokenizer has ids up to {entries - 1:,} and the model {rows:,} rows: the others cannot be read; "
        f"{option(to={'vocab_size': entries})} has room for them, and {-(-entries // 64) * 64} is a multiple of 64"
    )


def tokenizer_entries(checkpoint: Checkpoint) -> int:
    """The largest id that the files of the tokenizer name, and one; 0 where none of them can be read."""
    largest = -1
    for name in (name for name in IDS if name in checkpoint.companions):
        with contextlib.suppress(BadInput):  # the tokenizer is compared and loaded elsewhere
            largest = max(largest, largest_id(name, checkpoint._json(inside(checkpoint.path, name))))
    if "vocab.txt" in checkpoint.companions:
        with opened(inside(checkpoint.path, "vocab.txt")) as lines:
            largest = max(largest, sum(1 for _ in lines) - 1)
    return largest + 1


def _edited(name: str, checkpoint: Checkpoint, plan: Plan) -> dict | None:
    """The file's JSON with a size brought up to date, None where it stays as it is."""
    sizes, new = plan.sizes, plan.new_sizes
    if name.endswith("_Pooling/config.json"):
        return _with(checkpoint, name, "word_embedding_dimension", sizes["hidden"], new["hidden"])
    if name == "tokenizer_config.json" and "positions" in sizes:
        first = plan.source.first_position
        return _with(checkpoint, name, "model_max_length", sizes["positions"] - first, new["positions"] - first)
    return None


def _with(checkpoint: Checkpoint, name: str, field: str, old: int, new: int) -> dict | None:
    if old == new:
        return None
    try:
        config = checkpoint._json(inside(checkpoint.path, name))
    except BadInput:  # `_unread` says so
        return None
    if not isinstance(config, dict) or config.get(field) != old or isinstance(config[field], bool):
        return None
    return {**config, field: new}


def _unread(checkpoint: Checkpoint, plan: Plan) -> str:
    """A note where the length that a tokenizer cuts texts at would follow the positions, and cannot be looked for."""
    name = "tokenizer_config.json"
    sizes = plan.sizes.get("positions"), plan.new_sizes.get("positions")
    if name not in checkpoint.companions or sizes[0] == sizes[1]:
        return ""
    try:
        checkpoint._json(inside(checkpoint.path, name))
    except BadInput as error:
        return f"{name} {error.what}: it comes along as it is, and a length that it cuts texts at stays the old one"
    return ""
