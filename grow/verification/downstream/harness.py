"""lm-evaluation-harness on a loaded model.

The harness gets the model object, so its weights and its forward pass are what `grow.models.true_float64` made of them.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from grow.errors import BadInput, no_such
from grow.models.true_float64 import forward
from grow.spelling import option
from grow.verification.downstream.answers import Answer, Answers

DATA = Path(__file__).parent / "data"
OWN = ("grow_cloze", "grow_heldout")
INSTALL = "pip install 'grow-transformers[tasks]'"
BATCH = 8  # rows per forward pass; longer ones only pad more on a CPU
SEED = 1234  # of few-shot examples and of sampled texts; the harness's own default


def documents(file: str, **_: Any) -> dict[str, Any]:
    """The split that `data/*.yaml` names: no path to resolve and, being in memory, no cache to leave behind."""
    import datasets

    lines = (DATA / file).read_text(encoding="utf-8").splitlines()
    return {"test": datasets.Dataset.from_list([json.loads(line) for line in lines])}


class Harness:
    """The tasks of these names, with their data, before any model is loaded.

    Raises BadInput: the harness is not installed, does not know a name (of a task, group or tag; files are refused,
    because a task's file may run any code), or cannot reach the data.
    """

    def __init__(self, names: Sequence[str]) -> None:
        with _quiet():
            try:
                from lm_eval.models import huggingface  # noqa: F401  needs accelerate, which lm-eval alone does not
                from lm_eval.tasks import TaskManager

                if not hasattr(TaskManager, "load"):
                    raise ImportError("lm-eval is older than 0.4.12")
            except ImportError as error:
                raise BadInput(
                    option(tasks=list(names)),
                    what="needs lm-evaluation-harness, which cannot be imported",
                    why=str(error),
                    fix=INSTALL,
                ) from error
            # to index its 14,000 tasks takes 10 s
            manager = TaskManager(include_path=str(DATA), include_defaults=not set(names) <= set(OWN))
        known = manager.all_tasks
        for name in names:
            if name not in known:
                raise BadInput(
                    option(tasks=[name]),
                    what=no_such("task", name, known),
                    why=f"none of the {len(known)} tasks, groups and tags of lm-evaluation-harness",
                    fix=f"lm_eval ls tasks shows them; without a network: {option(tasks=list(OWN))}",
                )
        with _quiet():
            self._tasks = _loaded(manager, names)

    def answers(self, model: Any, tokenizer: Any, *, limit: int | None = None) -> Answers:
        """What a causal LM answers; the first `limit` samples of each task."""
        with _quiet():
            from lm_eval.evaluator import evaluate
            from lm_eval.models.huggingface import HFLM

            for task in self._tasks["tasks"].values():
                task.set_fewshot_seed(seed=SEED)  # so that every model sees the same examples
            narrow = model.dtype not in (torch.float64, torch.float32)
            lm = HFLM(
                pretrained=model,
                tokenizer=tokenizer,
                batch_size=BATCH,
                softmax_dtype="float32" if narrow else None,
                trust_remote_code=False,
            )
            spreads: list[float] = []
            watch = model.register_forward_hook(lambda *call: spreads.append(float(call[-1].logits.double().std())))
            try:
                with forward(model), _no_scripts(), torch.random.fork_rng(devices=[]):
                    torch.manual_seed(SEED)
                    scored = evaluate(lm=lm, task_dict=self._tasks, limit=limit, bootstrap_iters=0, log_samples=True)
            finally:
                watch.remove()
        spread = math.sqrt(sum(s * s for s in spreads) / max(len(spreads), 1))
        return _read(scored, spread)


def _loaded(manager: Any, names: Sequence[str]) -> Any:
    where, tasks, problem = option(tasks=list(names)), None, None
    with _no_scripts() as scripts:
        try:
            tasks = manager.load(list(names))
        except Exception as error:  # a dozen types of the hub, of data sets and of the task's own code
            problem = error
    if scripts:
        what = f"its metric {scripts[0]!r} is a script of the hub"
        raise BadInput(where, what=what, why="grow runs no code from the hub", fix="a task whose metrics are built in")
    if tasks is None:
        raise BadInput(
            where,
            what="cannot be loaded",
            why=f"{type(problem).__name__}: {problem}",
            fix=f"run where the hub can be reached, or {option(tasks=list(OWN))}",
        ) from problem
    for name, task in tasks["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            what = "runs code that the model writes"
            raise BadInput(option(tasks=[name]), what=what, why="grow runs no such code", fix="leave it out")
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
    return tasks


def _read(scored: Any, spread: float) -> Answers:
    scores: dict[str, dict[str, Any]] = {}
    samples: dict[str, dict[str, Answer]] = {}
    for task, logged in scored["samples"].items():
        numbers = {key: value for key, value in scored["results"][task].items() if "," in key and "_stderr" not in key}
        scores[task] = {key.removesuffix(",none"): _plain(value) for key, value in numbers.items()}
        samples[task] = {}
        for sample in logged:
            key = sample["filter"]
            mine = {m if key == "none" else f"{m},{key}": _plain(sample[m]) for m in sample["metrics"]}
            earlier = samples[task].get(str(sample["doc_id"]))
            if earlier:  # the same responses through another filter
                mine = {**earlier.scores, **mine}
            samples[task][str(sample["doc_id"])] = _answer(sample["resps"], mine)
    return Answers(scores, samples, spread)


def _answer(responses: Any, scores: dict[str, Any]) -> Answer:
    """A response is (log-likelihood, is it the greedy text), a log-likelihood or a text."""
    likelihoods: list[float] = []
    choices: list[tuple[Any, float]] = []
    for response in (response for request in responses for response in request):
        if isinstance(response, (tuple, list)):
            likelihoods.append(float(response[0]))
            choices.append((bool(response[1]), math.nan))
        elif isinstance(response, float):
            likelihoods.append(response)
        else:
            choices.append((response, math.nan))
    return Answer(tuple(likelihoods), tuple(choices), scores)


def _plain(value: Any) -> Any:
    """Numpy and torch numbers as Python's."""
    if isinstance(value, (tuple, list)):
        return tuple(map(_plain, value))
    return value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value


@contextlib.contextmanager
def _no_scripts() -> Iterator[list[str]]:
    """Metrics that `evaluate.load` was asked for inside: it would fetch a script and run it, so it raises instead."""
    import evaluate

    scripts: list[str] = []

    def refuse(path: Any, *_: Any, **__: Any) -> Any:
        scripts.append(str(path))
        raise RuntimeError(f"metric {path!r} is a script of the hub")

    kept, evaluate.load = evaluate.load, refuse
    try:
        yield scripts
    finally:
        evaluate.load = kept


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warning, log line or progress bar of the harness: it advises people who run it by hand."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
