"""The Python API: one function per command, with typed results.

One file, long as it is: here stand the signatures and their docstrings, and the work is done elsewhere.

import grow
grown = grow.widen("small", "2x", out="base")          # a Growth; raises GrowError on bad input
grown.verification.verdict                             # "lossless"
bigger = grow.widen(model, {"hidden_size": 512}).model # in memory: a stock PreTrainedModel
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grow.architectures.family import Family
from grow.architectures.match import Match
from grow.architectures.named_family import named_family
from grow.checkpoint.pickled import open_readable
from grow.errors import BadInput
from grow.files.header import show
from grow.files.locate import locate
from grow.growth.file_options import SHARD_SIZE, FileOptions
from grow.growth.from_files import LINE, plan_files, widen_files
from grow.growth.opened import opened
from grow.growth.results import Growth
from grow.planning.growth_options import GrowthOptions
from grow.planning.methods import DEFAULT
from grow.planning.plan import Plan
from grow.planning.target import depth_alone
from grow.plotting.savings import Curves
from grow.spelling import check_flags, check_functions, check_path, check_text, option
from grow.training.run_options import RunOptions
from grow.training.settings.run_settings import Training
from grow.verification.ladder import verify_folders
from grow.verification.rungs import LADDER
from grow.verification.verdict import Verification

if TYPE_CHECKING:
    from grow.deriving.derivation import Derived


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint is, as far as growth is concerned."""

    path: Path
    family: Family
    config: dict[str, Any]
    sizes: dict[str, int]
    match: Match
    notes: tuple[str, ...]


def inspect(src: str | os.PathLike, *, revision: str | None = None, assume_harmless: Sequence[str] = ()) -> Inspection:
    """Read a checkpoint's config and headers; no weight is read."""
    with opened(src, revision=revision, assume_harmless=assume_harmless) as (checkpoint, matched):
        return Inspection(
            checkpoint.path,
            matched.family,
            dict(matched.config),
            dict(matched.architecture.sizes),
            matched,
            tuple(checkpoint.notes),
        )


def plan(
    src: Any,
    to: Any,
    *,
    operators: Mapping[str, str] | None = None,
    split: str | None = None,
    seed: int = 0,
    dtype: str = "auto",
    deepen: bool = False,
    place: str | Sequence[int] = "spread",
    fill: str = "copy",
    new_tokens: str = "blend",
    method: str = DEFAULT,
    allow_lossy: bool = False,
    upcycling: Mapping[str, Any] | None = None,
    revision: str | None = None,
    assume_harmless: Sequence[str] = (),
    trial: bool = False,
    family: Family | str | os.PathLike | None = None,
) -> Plan:
    """What `widen` with the same arguments would do; nothing is written. See `widen`.

    trial  also build the stock class with the grown config, without weights, and grow a tiny random model of the same
           pattern; what was found is a note of the plan. Refused, or `Different`, where the plan promises too much
    """
    options, files = GrowthOptions.among(locals()), FileOptions.among(locals())
    check_flags(trial=trial)
    with named_family(family):
        if _is_model(src):
            from grow.growth.in_memory import plan_model

            the_plan = plan_model(src, to, options)
        else:
            the_plan = plan_files(src, to, options, files)
        if trial:
            from grow.growth.trial import try_plan

            return replace(the_plan, notes=(*the_plan.notes, try_plan(the_plan, options).note))
        return the_plan


def widen(
    src: Any,
    to: Any,
    *,
    out: str | os.PathLike | None = None,
    operators: Mapping[str, str] | None = None,
    split: str | None = None,
    seed: int = 0,
    dtype: str = "auto",
    deepen: bool = False,
    place: str | Sequence[int] = "spread",
    fill: str = "copy",
    new_tokens: str = "blend",
    method: str = DEFAULT,
    allow_lossy: bool = False,
    optimizer: Any = None,
    state: str | None = None,
    trust_checkpoint: bool = False,
    upcycling: Mapping[str, Any] | None = None,
    max_shard_size: str | int = SHARD_SIZE,
    overwrite: bool = False,
    verify: bool = True,
    world: int | None = None,
    revision: str | None = None,
    assume_harmless: Sequence[str] = (),
    family: Family | str | os.PathLike | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    on_rung: Callable[[str], None] = lambda rung: None,
) -> Growth:
    """Enlarge a checkpoint so that every output stays as it was (a function-preserving growth).

    src        folder, hub id, bundled name (`small`) or a `PreTrainedModel`; also a folder of
               torch.distributed.checkpoint with a config.json in or around it
    to         size name, factor ("2x"), fields ("hidden_size=960,heads=15" or a dict), folder or config
    out        the new folder; default: NAME-TARGET here. For a model in memory: nothing is written
    operators  axis -> operator, for hidden, ffn and heads; see `grow.notation.operators`
    split      "exact" (unless the method has another): shares drawn per weight that sum bit for bit; "even": equal
               ones; "noisy": equal up to noise that cancels; "diagonal": each copy reads one copy
    dtype      "auto" keeps the stored dtype of a bit-exact plan and writes a rounded one as float32
    deepen     take the number of layers from a size name or a config, too; a field that names it always counts
    place      where new layers go: "spread", "top", "after:K", or a list of the old layers that they follow
    fill       what new layers hold: copies of their neighbours ("copy") or fresh weights; they compute the identity
    new_tokens the logits of new tokens: "blend" (between the old ones), "zero", "low" (by the head's bias)
    method     one of `grow.planning.methods`: "default", or one of the literature, such as "lemon"
    allow_lossy  accept a method that is not exact: the result is kept, and what it loses is measured
    optimizer  the optimizer of a model in memory, or a list of them: `.optimizer` of the result continues it
    state      what becomes of the optimizer state, in memory or in a run's checkpoint: "fresh-new" (the default: new
               entries start at 0), "carry" (copies share it) or "drop"; to name it where there is none is an error
    trust_checkpoint  read the state, or the sharded weights, of a run although its files belong to another user
    upcycling  experts, top_k, granularity, every and route, as `upcycle` says
    world      the number of processes (torchrun) that share the work, all of which call this; None: one process
    family     a `Family`, or a file of Python that holds one (see `derive`): the file is run, and what it says of its
               model type counts for this call instead of what grow knows
    progress   called with (bytes written, bytes in all) of this process

    Raises BadInput, Refused: nothing was written. Different: verification failed, nothing was kept.
    """
    options, files = GrowthOptions.among(locals()), FileOptions.among(locals())
    check_functions(progress=progress, on_rung=on_rung)
    if _is_model(src):
        from grow.growth.in_memory import widen_model

        if out is not None:
            raise BadInput(
                option("out"),
                what="must be left out for a model in memory",
                why="the grown model is returned",
                fix="grown.model.save_pretrained(out)",
            )
        with named_family(family):
            return widen_model(src, to, options, verify=verify, optimizer=optimizer, state=state)
    if optimizer is not None:
        raise BadInput(
            "optimizer",
            what="given for a checkpoint on disk",
            why="its parameters are those of a model in memory",
            fix="model = AutoModel….from_pretrained(src), then grow.widen(model, to, optimizer=optimizer)",
        )
    with named_family(family):
        return widen_files(src, to, options, files, progress=progress, on_rung=on_rung)


def deepen(src: Any, layers: int, **options: Any) -> Growth:
    """Insert layers until there are `layers` of them; every output stays as it was.

    The new ones compute the identity at first and train: `place` and `fill` say where they stand and what they hold.
    Options, result and errors are those of `widen`, which grows depth too where its target names `layers`.
    """
    with depth_alone():
        return widen(src, {"layers": layers}, **options)


def upcycle(
    src: Any,
    experts: int,
    *,
    top_k: int | None = None,
    granularity: int = 1,
    every: int = 1,
    route: str = "routed",
    to: Any = None,
    **options: Any,
) -> Growth:
    """Turn a dense model into one with experts that computes the same; see `grow.upcycle`.

    experts      the number of experts in a layer of the result, all slices counted
    top_k        the number of experts that a token is sent to; 2 · granularity unless given
    granularity  the number of slices of the FFN: experts are smaller, and a token is sent to whole groups of slices
    every        put experts into every `every`-th layer
    route        "routed": the routed experts carry the old FFN; "shared": the shared one does
    to           a target as for `widen`, in the field names of the new family, where sizes grow as well

    Options, result and errors are those of `widen`.
    """
    how = {"experts": experts, "top_k": top_k, "granularity": granularity, "every": every, "route": route}
    return widen(src, to, upcycling=how, **options)


def verify(
    src: str | os.PathLike,
    grown: str | os.PathLike,
    *,
    rungs: Sequence[str] = LADDER,
    tasks: Sequence[str] | None = None,
    samples: int | None = None,
    report: str | os.PathLike | None = None,
    seed: int = 0,
    revision: str | None = None,
    family: Family | str | os.PathLike | None = None,
    on_rung: Callable[[str], None] = lambda rung: None,
) -> Verification:
    """Check that two checkpoints compute the same function. Does not raise when they do not: see `.verdict`.

    rungs    rungs of the ladder, or single checks; the default leaves out `downstream` and `recover`
    tasks    downstream tasks for both: names of lm-evaluation-harness, or () for those that come with grow
    samples  the largest number of samples of each task
    report   the HTML page to write
    family   as for `widen`: the table by which the weights are certified, where it is none of grow's own
    """
    options: dict[str, Any] = dict(rungs=rungs, tasks=tasks, samples=samples, seed=seed, progress=on_rung)

    def compare() -> Verification:
        with open_readable(locate(src, revision=revision)) as a, open_readable(locate(grown)) as b:
            return verify_folders(a, b, names=(show(src, LINE), show(grown, LINE)), **options)

    with named_family(family):
        return _reported(compare, report)


def derive(model_type: str, out: str | os.PathLike | None = None) -> Derived:
    """The family of a stock model type, derived from its classes alone: `.family`, `.axes` with what proves or refuses
    each, `.text`.

    Tiny random models of the type are grown along every axis, in true float64, under every value of each fact; what is
    kept is exact, and no other value is.

    out  a file of Python for `family` of `widen`, `plan`, `deepen` and `verify`

    Raises BadInput for a type that transformers does not have, Refused for one of which nothing can be described.
    """
    from grow.deriving.file_of_a_family import derive as derived

    return derived(model_type, out)


def record(
    src: str | os.PathLike,
    path: str | os.PathLike,
    *,
    seed: int = 0,
    revision: str | None = None,
    overwrite: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Write what `src` answers into a golden file, for `verify_against`; returns what was recorded, JSON-ready."""
    from grow.verification.golden import record as write

    return write(src, path, seed=seed, revision=revision, overwrite=overwrite, progress=on_step).summary()


def verify_against(
    golden: str | os.PathLike,
    grown: str | os.PathLike,
    *,
    rungs: Sequence[str] | None = None,
    report: str | os.PathLike | None = None,
    on_rung: Callable[[str], None] = lambda rung: None,
) -> Verification:
    """Check `grown` against a golden file instead of its source. Does not raise when they differ: see `.verdict`."""
    from grow.verification.golden import against

    names = show(golden, LINE), show(grown, LINE)
    return _reported(lambda: against(golden, grown, rungs=rungs, names=names, progress=on_rung), report)


def train(
    src: str | os.PathLike | None = None,
    data: str | os.PathLike | Sequence[str | os.PathLike] = (),
    *,
    out: str | os.PathLike,
    tokens: int | None = None,
    flops: float | None = None,
    resume: bool = False,
    trust_checkpoint: bool = False,
    world: int | None = None,
    source: str | os.PathLike | None = None,
    source_tokens: int | None = None,
    state: str | None = None,
    continue_schedule: bool = False,
    revision: str | None = None,
    quiet: bool = True,
    **settings: Any,
) -> Training:
    """Continue pretraining; `out` holds stock checkpoints `step-…` that a run can continue from, bit for bit.

    src       checkpoint: folder, hub id or bundled name; a resumed run has its own
    data      folders of `grow.data.prepare`, "FOLDER:WEIGHT" of several; none: the bundled text
    tokens    the number of tokens to train on, instead of `steps`
    flops     the number of FLOPs to spend, instead of `steps`; counted for training steps, as in metrics.jsonl
    resume    continue the run in `out`; its settings must be the same, but for those that change nothing
    world     refuse to run on another number of processes than this
    source    what `src` grew from: stop unless both have the same validation loss before the first step
    source_tokens  tokens that the source was trained on, for a warning where growth is not expected to pay; needed
              only where no run has recorded them
    state     the optimizer state beside `src`: "carry" (an error where there is none) or "drop"; None carries it
              where there is one
    continue_schedule  count steps, rates, masks and dropout on from the state's step
    settings  fields of `grow.training.settings.run_settings.Settings`: steps, batch, length, lr, schedule, rewarm, …

    SIGTERM ends it behind the step it is in, with a checkpoint: `.stopped` of the result. Raises GrowError.
    """
    options = RunOptions.among(locals())
    from grow.training.run import train as run

    return run(src, data, options, settings)


def plot(
    runs: str | os.PathLike | Sequence[str | os.PathLike],
    out: str | os.PathLike | None = None,
    *,
    baseline: str | None = None,
    overwrite: bool = False,
) -> Curves:
    """What runs cost and what they saved: loss against FLOPs, tokens and seconds.

    runs      folders of `grow.train` or of recipes, "NAME=FOLDER" where the folder's name is not the name
    out       a picture, .png, .svg or .pdf; needs matplotlib
    baseline  the name of the run with which the others are compared; the last one unless given

    Raises BadInput where losses cannot be compared; `.savings` and `.document()` have the numbers.
    """
    from grow.plotting.curves import named, read_curve
    from grow.plotting.picture import check_picture, write_picture
    from grow.plotting.savings import compare

    several = [runs] if isinstance(runs, (str, os.PathLike)) else runs
    if not isinstance(several, Sequence):
        check_path("runs", several, "it is the folder of a run, or a list of these")
    for run in several:
        check_path("runs", run, "each of them is the folder of a run")
    if baseline is not None:
        check_text("baseline", baseline, "it is the name of a run", "NAME")
    check_flags(overwrite=overwrite)
    if out is not None:
        check_path("out", out, "the picture is a file")
        check_picture(Path(out), overwrite)
    folders = [named(os.fspath(run)) for run in several]
    curves = compare([read_curve(folder, name) for name, folder in folders], baseline)
    if out is None:
        return curves
    write_picture(curves, Path(out), overwrite=overwrite)
    return replace(curves, out=Path(out))


def _reported(compare: Callable[[], Verification], report: str | os.PathLike | None) -> Verification:
    """What `compare` finds, written to the HTML page `report` too; BadInput, before it runs, where that cannot be."""
    if report is None:
        return compare()
    from grow.verification.report import check_place, write_report

    check_place(Path(report))
    verification = compare()
    write_report(verification.to_dict(), Path(report))
    return verification


def _is_model(src: Any) -> bool:
    return hasattr(src, "state_dict")
