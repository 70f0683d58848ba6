"""The derivation of every model type that transformers has, each in a process of its own, as one page."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from grow.architectures import FAMILIES
from grow.architectures.family import Family
from grow.architectures.names_of_axes import FFNS
from grow.deriving.derivation import ENOUGH, derivation
from grow.deriving.search import PROVED, REFUSED
from grow.deriving.written import document

MARK = b"finds out about the"
SECONDS = 240
"""Of one type; a type that takes longer is written down as such."""


def survey(
    out: Path, *, types: tuple[str, ...] = (), seconds: int = SECONDS, tell: Callable[[str], None] = lambda line: None
) -> str:
    """The page of all types, or of these. What is done already lies beside it, line by line, and is not done again."""
    kept = out.with_suffix(".jsonl")
    done = {found["model_type"]: found for found in _lines(kept)}
    # language models first, and of them those that grow does not know
    wanted = types or tuple(sorted(CONFIG_MAPPING_NAMES, key=lambda t: (not _writes(t), t in FAMILIES, t)))
    for model_type in wanted:
        if model_type in done:
            continue
        done[model_type] = alone(model_type, seconds)
        with kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(done[model_type]) + "\n")
        tell(f"{model_type}: {_in_short(done[model_type])}")
        write_page(out, done, wanted)
    return write_page(out, done, wanted)


def write_page(out: Path, done: Mapping[str, Mapping[str, Any]], wanted: Sequence[str]) -> str:
    """The page of what is done by now, whole at every moment."""
    text = page([done[t] for t in sorted(wanted) if t in done], [t for t in sorted(wanted) if t not in done])
    partial = out.with_name(f".grow-types-{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, out)
    return text


def _writes(model_type: str) -> bool:
    """Whether the type has a language model."""
    tables = (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    return any(model_type in names for names in tables)


def alone(model_type: str, seconds: int) -> dict[str, Any]:
    """The derivation of one type as JSON, from a process that may fail, hang or die without taking others along."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(model_type, there), daemon=True)
    child.start()
    there.close()
    try:
        found = here.recv() if here.poll(seconds) else {"why": f"stopped: it took more than {seconds} s"}
    except EOFError:
        found = {"why": "stopped: its process ended without an answer"}
    child.kill()
    child.join()
    return {"model_type": model_type, "axes": [], "whole": False, **found}


def _work(model_type: str, answer: Any) -> None:
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  for as long as the process lives
    torch.set_num_threads(1)
    try:
        answer.send(document(derivation(model_type)))
    except BaseException as error:
        answer.send({"why": f"a fault of grow: {type(error).__name__}: {str(error)[:160]}"})
    os._exit(0)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.endswith("}"):
                yield json.loads(line)


def _in_short(found: Mapping[str, Any]) -> str:
    if found.get("why"):
        return str(found["why"])
    proved = [axis["axis"] for axis in found["axes"] if axis["status"] == PROVED]
    return f"{len(proved)} of {len(found['axes'])} axes proved" + (", all that count" if found["whole"] else "")


def page(found: Sequence[Mapping[str, Any]], left: Sequence[str] = ()) -> str:
    """The page: counts, the types of which something is proved, and why nothing is known of the others.

    left  types that nobody has looked at yet
    """
    derived = [one for one in found if one["axes"]]
    whole = [one for one in derived if one["whole"]]
    own = {kind for kind, family in FAMILIES.items() if _grows_whole(family)}
    together = {one["model_type"] for one in whole} | own
    reasons = Counter(_reason(one["why"]) for one in found if not one["axes"])
    lines = [
        "# Model types",
        "",
        f"What `grow families --derive` finds out about the {len(found) + len(left)} model types of transformers "
        f"{transformers.__version__}, from their stock classes",
        "alone. Written by `grow families --derive all --out docs/model-types.md`; nothing here is written by hand.",
        *([f"It is not finished: {len(left)} types are still to be looked at."] if left else []),
        "",
        "A *proved* axis was grown on tiny random models in true float64 and left every output as it was, for several",
        "draws and every class with a head; other values of its facts failed. A *refused* axis had no such values, or",
        "more than one; the derived table does not grow it.",
        "",
        f"- {len(together)} types grow in hidden, heads, FFN and depth: {len(whole)} by a derived, proved table,",
        f"  {len(own)} by one of grow's own {len(FAMILIES)} families, which the tests prove; some by both",
        f"- {len(derived)} types have a derived table; of {len(found) - len(derived)} none was made:",
        *(f"    - {count}: {reason}" for reason, count in reasons.most_common()),
        "",
        "## Types with a table",
        "",
        f"**whole**: {', '.join(ENOUGH)} and an FFN are proved. **family**: grow has a table of its own.",
        "",
        "| type | | proved | refused |",
        "|---|---|---|---|",
        *map(_row, derived),
        "",
        "### Why axes are refused",
        "",
        *(
            f"- {one['model_type']}, {axis['axis']}: {_cell(axis['why'])}"
            for one in derived
            for axis in one["axes"]
            if axis["status"] == REFUSED
        ),
        "",
        "## Types without a table",
        "",
        *(f"- {one['model_type']}: {_cell(one['why'])}" for one in found if not one["axes"]),
        "",
        *(["## Types that were not looked at yet", "", ", ".join(left), ""] if left else []),
    ]
    return "\n".join(lines)


def _grows_whole(family: Family) -> bool:
    """Whether a family of grow's own has hidden, heads, an FFN and depth, and grows each of them."""
    still = {refusal.axis for refusal in family.refusals if refusal.when == "always" and not refusal.multiples}
    grows = {axis for axis in family.growable if axis in family.axes} - still
    return set(ENOUGH) <= grows and bool({*FFNS[:2]} & grows)


def _row(one: Mapping[str, Any]) -> str:
    marks = [*(["whole"] if one["whole"] else []), *(["family"] if one["model_type"] in FAMILIES else [])]
    by_status = {
        status: ", ".join(axis["axis"] for axis in one["axes"] if axis["status"] == status)
        for status in (PROVED, REFUSED)
    }
    return f"| {one['model_type']} | {', '.join(marks)} | {by_status[PROVED]} | {by_status[REFUSED]} |"


def _reason(why: str) -> str:
    begins = why.partition(":")[0]
    return begins if begins in ("not described yet", "stopped", "a fault of grow") else _stock(why)


def _stock(why: str) -> str:
    told = why.removeprefix("stock code: ")
    own = (
        "it has no class with a head over tokens or labels",
        "its config holds the configs of several models",
        "its layers are of several kinds",
        "it reads no token ids",
        "no field of its config has a known name",
        "no tensor is numbered by the layers",
    )
    return next((reason for reason in own if told.startswith(reason)), "stock code does not build or run a tiny model")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
