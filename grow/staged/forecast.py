"""What each stage of a recipe will come to, before anything runs.

A growth that would be refused is refused here, and so are data of another tokenizer and settings that fit no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

from grow.costs.of_a_model import TRAIN_BYTES
from grow.data import Corpus, Loader
from grow.errors import BadInput, GrowError
from grow.planning.growth_options import GrowthOptions, UpcyclingOptions
from grow.planning.plan import Plan
from grow.planning.target import depth_alone
from grow.spelling import RecipeKeys, caller, spelled
from grow.staged.checkpoint_outline import (
    Outline,
    check_new_entries,
    grown_outline,
    outline_of,
    random_outline,
)
from grow.staged.keys import GROWTHS, KINDS, SETTINGS, TREATED, UNTREATED
from grow.staged.recipe import Recipe, Stage
from grow.training.settings.from_options import continued, settings_of
from grow.training.settings.limits import plateau_of, rewarm_of
from grow.training.settings.run_settings import Settings
from grow.training.text.inputs import Source, check_plateau, is_bundled, parse_sources

STATE_BYTES = 12  # per parameter of a run's checkpoint, beside the stock file: the weight and two moments in float32


@dataclass(frozen=True)
class Forecast:
    """One stage; `outline` is the model that it leaves.

    settings     of a train stage; its steps and tokens are at most these where it may end at a plateau
    train_bytes  of weights, gradients and moments of a train stage, activations not counted
    disk_bytes   of what the stage leaves
    """

    stage: Stage
    outline: Outline
    plan: Plan | None = None
    settings: Settings | None = None
    tokens: int = 0
    flops: float = 0.0
    stateful: bool = False  # moments come along with the weights

    @property
    def steps(self) -> int:
        return self.settings.steps - self.settings.begin if self.settings else 0

    @property
    def parameters(self) -> int:
        return self.outline.parameters

    @property
    def train_bytes(self) -> int:
        return TRAIN_BYTES * self.parameters if self.settings else 0

    @property
    def disk_bytes(self) -> int:
        if self.stage.kind in ("load", "verify"):
            return 0
        copies = self.settings.keep + 1 if self.settings else 1  # one more while it is written
        return copies * (self.outline.disk_bytes + (STATE_BYTES * self.parameters if self.stateful else 0))


def forecast(recipe: Recipe, world: int = 1) -> tuple[list[Forecast], Forecast | None]:
    """(every stage, the baseline or None); GrowError naming the stage that cannot be carried out.

    world  processes that share each batch
    """
    found: list[Forecast] = []
    for number, stage in enumerate(recipe.stages, 1):
        with named(recipe, f"stage {number} ({stage.kind})", stage.kind):
            found.append(_one(stage, found, world))
    if recipe.baseline is None:
        return found, None
    with named(recipe, "[baseline]"):
        flops = sum(one.flops for one in found)
        return found, trained(recipe.baseline, found[-1].outline, world, flops=flops)


def _one(stage: Stage, earlier: list[Forecast], world: int) -> Forecast:
    options, before = stage.options, earlier[-1].outline if earlier else None
    if stage.kind == "init":
        sizes, harmless = options["sizes"], options["assume_harmless"]
        made = random_outline(options["from"], sizes, options["dtype"], options["revision"], harmless)
        _check_class(made)
        return Forecast(stage, made)
    if before is None:
        return Forecast(stage, outline_of(options["from"], options["revision"]))
    if stage.kind in GROWTHS:
        to, planned = growth_arguments(stage)
        made, plan = grown_outline(before, to, planned, options["assume_harmless"])
        return Forecast(stage, made, plan, stateful=options["state"] != "drop" and any(one.settings for one in earlier))
    if stage.kind != "train":
        return Forecast(stage, before)
    last = next((one.settings for one in reversed(earlier) if one.settings), None)
    found = trained(stage, before, world, last=last if options["continues"] else None)
    _check_optimizer(found, earlier)
    return found


def _check_optimizer(made: Forecast, earlier: list[Forecast]) -> None:
    """BadInput where the state that comes along is another optimizer's."""
    for one in reversed([*earlier, made]):
        lossy = one.plan is not None and one.plan.lossy  # the state stays behind
        if lossy or one.stage.options.get("state") == "drop":
            return
        if one is not made and one.settings:
            before, now = one.settings.optimizer, made.settings.optimizer if made.settings else ""
            if before != now:
                raise BadInput(
                    f"optimizer {now}",
                    what=f"the state that comes along from {one.stage.name} is of {before}",
                    why="what one optimizer remembers means nothing to another",
                    fix=f'optimizer = "{before}", or state = "drop" begins with a fresh one',
                )
            return


def growth_arguments(stage: Stage) -> tuple[Any, GrowthOptions]:
    """(target, options) of a growth."""
    options = dict(stage.options)
    if stage.kind == "upcycle":
        options["upcycling"] = {f.name: options[f.name] for f in fields(UpcyclingOptions)}
    return {"layers": options["layers"]} if stage.kind == "deepen" else options["to"], GrowthOptions.among(options)


def train_settings(stage: Stage) -> dict[str, Any]:
    """The settings of a train stage as `grow.train` takes them; what follows from steps and model is left out."""
    options = stage.options
    given = {name: options[name] for name in (*SETTINGS, "seed") if options.get(name) is not None}
    for name, parse in (("rewarm", rewarm_of), ("plateau", plateau_of)):
        if name in given:
            given[name] = parse(given[name])
    return given


def trained(
    stage: Stage, model: Outline, world: int, *, flops: float | None = None, last: Settings | None = None
) -> Forecast:
    """A train stage on this model.

    flops  the budget of a stage that has none of its own
    last   the settings whose schedule it continues
    """
    from grow.training.step.model_and_loss import (
        LONGEST,
        capacity,
        check_documents,
        check_length,
        flops_per_token,
        tokens_for,
    )

    given = train_settings(stage)
    kind, budget = stage.budget if flops is None else ("flops", flops)
    limit = capacity(model.config)
    length = given.get("length", min(limit or LONGEST, LONGEST))
    tokens: int | None = None
    if kind == "steps":
        given["steps"] = budget + (last.steps if last else 0)
    else:
        # an outline has of a checkpoint what is counted here
        tokens = int(budget) if kind == "tokens" else tokens_for(budget, model, length, given, None)  # type: ignore[arg-type]
    settings = continued(last, last.steps, given, tokens, length) if last else settings_of(given, tokens, length)
    check_length(settings.length, limit)
    for name in TREATED:
        if given.get(name) not in UNTREATED:
            check_new_entries(model, name)
    if settings.documents:
        check_documents(SimpleNamespace(**model.config), _objective(model))
    check_data(sources(stage), model, settings, world)
    tokens = (settings.steps - settings.begin) * settings.batch * settings.length
    cost = flops_per_token(model, settings.length) * tokens  # type: ignore[arg-type]
    return Forecast(stage, model, None, settings, tokens, cost, stateful=True)


def sources(stage: Stage) -> list[Source]:
    return parse_sources(stage.options["data"])


def check_data(data: list[Source], model: Outline, settings: Settings, world: int) -> None:
    """BadInput where token files are none, are another tokenizer's, or hold no block of this length."""
    from grow.data.corpus import tokenizer_sha256
    from grow.training.step.model_and_loss import tokenizer_of

    bundled = any(map(is_bundled, data))  # with validation text of their own
    data = [source for source in data if not is_bundled(source)]
    if not data:
        return
    tokenizer = tokenizer_of(model.path)
    rules = tokenizer_sha256(tokenizer) if tokenizer is not None else None
    corpora = [Corpus.open(source.path) for source in data]
    for corpus in corpora:
        corpus.check_model(int(model.config["vocab_size"]), rules, str(model.path))
    weights = [source.weight for source in data if source.weight is not None]
    splits = [corpus.split("train") for corpus in corpora]
    if not bundled:
        check_plateau(settings, sum(corpus.split("val").blocks(settings.length) for corpus in corpora))
    loader = Loader(splits, length=settings.length, batch=settings.batch, weights=weights or None)
    loader.places(0, 0, world)


def _objective(model: Outline) -> str:
    """As far as it matters to a mask of documents."""
    name = (model.config.get("architectures") or ["?"])[0]
    return "causal" if name.endswith(("ForCausalLM", "LMHeadModel")) else name


def _check_class(made: Outline) -> None:
    """BadInput where the stock class refuses the sizes, or cannot compute with them: tried without any memory."""
    import torch

    from grow.models.true_float64 import quiet
    from grow.optimizer.state.parameter_names import bare_model

    try:
        with torch.no_grad(), quiet():
            bare_model(made.path, made.config)(torch.ones((1, 4), dtype=torch.int64, device="meta"))
    except Exception as error:  # its classes raise what they like
        why = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
        raise BadInput("sizes", what="do not make a model of the stock class", why=why, fix="other sizes") from None


@contextmanager
def named(recipe: Recipe, stage: str, kind: str = "") -> Iterator[None]:
    """An error in here says which stage of the recipe it is about; of a growth, in the words of the recipe."""
    try:
        with ExitStack() as stack:
            if kind in GROWTHS:
                stack.enter_context(spelled(RecipeKeys(KINDS[kind], GROWTHS, caller())))
            if kind == "deepen":
                stack.enter_context(depth_alone())
            yield
    except GrowError as error:
        where = f"{recipe.path}: {stage}: {error.where}"
        parts: dict[str, Any] = dict(what=error.what, why=error.why, fix=error.fix, details=error.details)
        raise _again(type(error), where, parts) from None


def _again(kind: type[GrowError], where: str, parts: Mapping[str, Any]) -> GrowError:
    return kind(where, **parts)
