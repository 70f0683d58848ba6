"""`grow verify --tasks`: both checkpoints must score the same.

grow_cloze, grow_heldout    causal LMs; through lm-evaluation-harness, on text that comes with the package
any other task, group, tag  causal LMs; through lm-evaluation-harness, which fetches the data from the hub
mlm_heldout                 masked LMs; built in
similarity                  every model with hidden states; built in
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers.models.auto import modeling_auto

from grow.errors import BadInput, listing
from grow.models.tokenizers import load_tokenizer
from grow.models.true_float64 import DTYPES, model_class
from grow.spelling import option
from grow.verification.downstream import encoder_tasks
from grow.verification.downstream.answers import compare
from grow.verification.downstream.harness import OWN, Harness
from grow.verification.outputs.memory_needed import NoRoom
from grow.verification.outputs.pair import Pair
from grow.verification.outputs.two_folders import Differs, Side
from grow.verification.rungs import EXACT
from grow.verification.verdict import Check

NAME = "tasks"


def prepare(source: Path, names: Sequence[str]) -> tuple[list[str], Harness | None]:
    """The tasks by name and the harness that some of them need; BadInput, before any work is done, when a name is not
    known or does not fit the source."""
    names = list(dict.fromkeys(names)) or builtin(source)
    _check_kind(source, names)
    for_harness = [name for name in names if name not in encoder_tasks.OWN]
    return names, Harness(for_harness) if for_harness else None


class NoTokenizer(Exception):
    """The source has none that loads, so no text can be asked of it."""


def builtin(source: Path) -> list[str]:
    """The tasks that need no network and that the source's class can answer."""
    kind = _kind(source)
    return list(OWN) if kind == "causal" else list(encoder_tasks.OWN) if kind == "masked" else ["similarity"]


def tasks(
    source: Path,
    grown: Path,
    names: Sequence[str] = (),
    *,
    limit: int | None = None,
    tolerance: float = EXACT,
    dtype: str = "float64",
    progress: Callable[[str], None] = lambda step: None,
) -> list[Check]:
    """One check, "tasks": every log-likelihood, choice and cosine of the source is the grown model's too.

    names      tasks; none: `builtin(source)`
    limit      use the first so many samples of each task
    tolerance  how far outputs may differ, in standard deviations of the source's: the limit of the check that
               compared the outputs in this dtype, `EXACT` for a bit-exact growth in float64
    dtype      both models run in it; "float64" is true float64. The others are faster and prove less: in bfloat16
               almost every score may flip by rounding, and the limit says so
    progress   called with what runs next

    measured   {"tasks": rows, "relative": the largest difference, "where"}; rows as in `answers.compare`
    fail       a log-likelihood, a choice or a cosine differs by more than `tolerance` explains; a score that flips
               within it is named under "ties" and passes
    skip       no tokenizer, no room in memory, or nothing could be compared; a row with same = None says why

    The models are loaded one after the other, never both. Raises BadInput: a name nobody knows or that this kind of
    model cannot answer, lm-evaluation-harness missing, data out of reach, a source that does not run.
    """
    if limit is not None and limit < 1:
        raise BadInput(
            option(samples=limit),
            what=f"must be a whole number, 1 or more, got {limit}",
            why="no sample would be asked",
            fix=f"leave {option('samples')} out",
        )
    if dtype not in DTYPES:
        raise BadInput(
            "dtype", what=f"must be one of {listing(DTYPES)}, got {dtype!r}", why="both models run in it", fix="float64"
        )
    if math.isnan(tolerance):
        return [Check(NAME, "skip", reason="no limit: the storage floor could not be measured")]
    names, harness = prepare(source, names)

    def answers(pair: Pair, side: Side) -> dict[str, Any]:
        folder = pair.folders[side]
        progress(f"{NAME}: {listing(names)} on the {side}")
        tokenizer = _tokenizer(folder, side)
        model = pair.load(side, dtype)
        try:
            given: dict[str, Any] = {}
            if harness:
                given["harness"] = harness.answers(model, tokenizer, limit=limit)
            if "mlm_heldout" in names:
                given["mlm_heldout"] = encoder_tasks.masked_words(model, tokenizer, limit=limit)
            if "similarity" in names:
                given["similarity"] = encoder_tasks.embed(model, tokenizer, limit=limit)
            return given
        except (BadInput, MemoryError):
            raise
        except Exception as error:  # the harness and a broken model raise whatever they like
            raise pair.blame(side, f"{listing(names)}: {type(error).__name__}: {error}") from error
        finally:
            del model
            gc.collect()

    claim = f"the same answers; logits and hidden states within {tolerance:.3g} of their std in {dtype}"
    try:
        with Pair(source, grown) as pair:
            a, b = answers(pair, "source"), answers(pair, "grown")
    except Differs as error:
        return [Check(NAME, "fail", limit=claim, reason=str(error))]
    except NoRoom as error:
        return [Check(NAME, "skip", limit=claim, reason=f"not enough memory: {error}")]
    except NoTokenizer as error:
        return [Check(NAME, "skip", limit=claim, reason=str(error))]
    rows = [row for key in ("harness", "mlm_heldout") if key in a for row in compare(a[key], b[key], tolerance)]
    if "similarity" in a:
        unequal = encoder_tasks.unequal_weights(source, grown)
        rows += encoder_tasks.compare_cosines(a["similarity"], b["similarity"], tolerance, unequal)
    return [_judge(rows, claim)]


def _tokenizer(folder: Path, side: Side) -> Any:
    """The folder's tokenizer. Without its files some classes make an empty one, which reads every text as nothing."""
    try:
        tokenizer = load_tokenizer(folder)
        problem = "" if len(tokenizer) > len(tokenizer.all_special_ids) else "it has no vocabulary"
    except Exception as error:  # transformers raises a dozen types here; to a user all mean the same
        problem = f"{type(error).__name__}: {error}"
    if problem:
        raise (NoTokenizer if side == "source" else Differs)(f"{folder}: no tokenizer: {problem}")
    return tokenizer


def _kind(folder: Path) -> str:
    name = model_class(folder).__name__
    if name in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        return "causal"
    return "masked" if name in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.values() else "other"


def _check_kind(source: Path, names: Sequence[str]) -> None:
    kind = _kind(source)
    for name in names:
        wants = {"similarity": kind, "mlm_heldout": "masked"}.get(name, "causal")
        if wants != kind:
            raise BadInput(
                option(tasks=[name]),
                what=f"is for {wants} language models, and {source} is a {model_class(source).__name__}",
                why="a task asks what its kind of model answers",
                fix=option(tasks=builtin(source)),
            )


def _judge(rows: Sequence[dict[str, Any]], claim: str) -> Check:
    judged = [row for row in rows if row["same"] is not None]
    wrong = [row for row in judged if not row["same"]]
    worst = max(judged, key=lambda row: row["relative"], default=None)
    measured = {
        "tasks": list(rows),
        "relative": worst and worst["relative"],
        "where": f"{worst['task']} {worst['where']}" if worst else "",
    }
    # rows of one task share their reason
    open_ = [row for row in rows if row["same"] is None]
    reasons = dict.fromkeys(f"{row['task']} {row['reason']}" for row in wrong or open_)
    return Check(NAME, "fail" if wrong else "pass" if judged else "skip", measured, claim, "; ".join(reasons))
