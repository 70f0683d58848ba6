"""What each stage of a recipe will come to, before anything runs.

A growth that would be refused is refused here. So are data of another tokenizer and settings that do not fit the model.
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
from grow.spelling import RecipeKeys, caller, option, spelled
from grow.staged.checkpoint_outline import (
    Outline,
    check_new_entries,
    grown_outline,
    outline_of,
    random_outline,
)
from grow.staged.keys import BASELINE, GROWTHS, KINDS, SETTINGS, TREATED, UNTREATED
from grow.staged.recipe import Recipe, Stage
from grow.training.settings.from_options import continued, settings_of
from grow.training.settings.limits import plateau_of, rewarm_of
from grow.training.settings.run_settings import Settings
from grow.training.text.inputs import Source, check_plateau, is_bundled, parse_sources

STATE_BYTES = 12  # per parameter of a run's checkpoint, beside the stock file: the weight and two moments in float32


@dataclass(frozen=True)
class Forecast:
    """What one stage comes to; `outline` is the model that it leaves.

    settings     those of a train stage; where it may end at a plateau, its steps and tokens are at most these
    train_bytes  memory of the weights, gradients and moments of a train stage, without activations
    disk_bytes   what the stage leaves on disk
    """

    stage: Stage
    outline: Outline
    plan: Plan | None = None
    settings: Settings | None = None
    tokens: int = 0
    flops: float = 0.0
    stateful: bool = False  # whether moments come along with the weights

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
        copies = self.settings.keep + 1 if self.settings else 1  # one more exists while it is written
        return copies * (self.outline.disk_bytes + (STATE_BYTES * self.parameters if self.stateful else 0))


def forecast(recipe: Recipe, world: int = 1) -> tuple[list[Forecast], Forecast | None]:
    """(every stage, the baseline or None); GrowError naming the stage that cannot be carried out.

    world  processes that share each batch
    """
    forecasts: list[Forecast] = []
    for number, stage in enumerate(recipe.stages, 1):
        with named(recipe, f"stage {number} ({stage.kind})", stage.kind):
            forecasts.append(_one(stage, forecasts, world))
    if recipe.baseline is None:
        return forecasts, None
    with named(recipe, "[baseline]"):
        flops = sum(one.flops for one in forecasts)
        return forecasts, trained(recipe.baseline, forecasts[-1].outline, world, flops=flops)


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
    result = trained(stage, before, world, last=last if options["continues"] else None)
    _check_optimizer(result, earlier)
    return result


def _check_optimizer(made: Forecast, earlier: list[Forecast]) -> None:
    """BadInput where the optimizer state that comes along belongs to another optimizer."""
    for one in reversed([*earlier, made]):
        lossy = one.plan is not None and one.plan.lossy  # then the state is left behind
        if lossy or one.stage.options.get("state") == "drop":
            return
        if one is not made and one.settings:
            before, now = one.settings.optimizer, made.settings.optimizer if made.settings else ""
            if before != now:
                raise BadInput(
                    option(optimizer=now),
                    what=f"the optimizer state that comes along from {one.stage.name} belongs to {before}",
                    why="what one optimizer remembers means nothing to another",
                    fix=f"{option(optimizer=before)}, or {option(state='drop')} begins with a fresh one",
                )
            return


def growth_arguments(stage: Stage) -> tuple[Any, GrowthOptions]:
    """(target, options) of a growth stage."""
    options = dict(stage.options)
    if stage.kind == "upcycle":
        options["upcycling"] = {f.name: options[f.name] for f in fields(UpcyclingOptions)}
    return {"layers": options["layers"]} if stage.kind == "deepen" else options["to"], GrowthOptions.among(options)


def train_settings(stage: Stage) -> dict[str, Any]:
    """The settings of a train stage as `grow.train` takes them, without those that follow from steps and model."""
    options = stage.options
    given = {name: options[name] for name in (*SETTINGS, "seed") if options.get(name) is not None}
    for name, parse in (("rewarm", rewarm_of), ("plateau", plateau_of)):
        if name in given:
            given[name] = parse(given[name])
    return given


def trained(
    stage: Stage, model: Outline, world: int, *, flops: float | None = None, last: Settings | None = None
) -> Forecast:
    """What a train stage comes to on this model.

    flops  the budget of a stage that has no budget of its own
    last   the settings whose schedule the stage continues
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
        # an outline has what this counts of a checkpoint
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
    """BadInput where a folder holds no token files, those of another tokenizer, or no block of this length."""
    from grow.data.corpus import tokenizer_sha256
    from grow.training.step.model_and_loss import tokenizer_of

    bundled = any(map(is_bundled, data))  # bundled texts have validation text of their own
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
    """The objective, as far as a mask of documents depends on it."""
    name = (model.config.get("architectures") or ["?"])[0]
    return "causal" if name.endswith(("ForCausalLM", "LMHeadModel")) else name


def _check_class(made: Outline) -> None:
    """BadInput where the stock class refuses the sizes, or cannot compute with them; tried on the meta device."""
    import torch

    from grow.models.true_float64 import quiet
    from grow.optimizer.state.parameter_names import bare_model

    try:
        with torch.no_grad(), quiet():
            bare_model(made.path, made.config)(torch.ones((1, 4), dtype=torch.int64, device="meta"))
    except Exception as error:  # stock classes raise errors of any type
        why = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
        what = "no model of the stock class has these sizes"
        raise BadInput(option("sizes"), what=what, why=why, fix="other sizes") from None


@contextmanager
def named(recipe: Recipe, stage: str, kind: str = "") -> Iterator[None]:
    """Errors in here name the stage of the recipe, and spell options as its keys."""
    try:
        with ExitStack() as stack:
            stack.enter_context(spelled(RecipeKeys(KINDS[kind] if kind else BASELINE, GROWTHS, caller())))
            if kind == "deepen":
                stack.enter_context(depth_alone())
            yield
    except GrowError as error:
        where = f"{recipe.path}: {stage}: {error.where}"
        parts: dict[str, Any] = dict(what=error.what, why=error.why, fix=error.fix, details=error.details)
        raise _again(type(error), where, parts) from None


def _again(kind: type[GrowError], where: str, parts: Mapping[str, Any]) -> GrowError:
    return kind(where, **parts)
