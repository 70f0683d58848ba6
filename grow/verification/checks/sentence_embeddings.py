"""The sentence embeddings of a sentence-transformers folder must be the source's.

The modules run here, on the transformer's last hidden state in true float64. Where sentence-transformers is installed
and the folder has a tokenizer, it loads both folders itself and reads sentences, with each prompt, as its users do.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from grow.applying.sentence_growth import SENTENCE, TOKENS, Followed, follow
from grow.applying.sentence_modules import SETTINGS, Module, pooling_modes, read_modules
from grow.applying.sentence_vectors import vectors
from grow.checkpoint.reader import Checkpoint
from grow.errors import GrowError
from grow.files.header import show
from grow.files.locate import inside
from grow.files.regular import MAX_BESIDE, read_file
from grow.models.true_float64 import TrueFloat64, quiet
from grow.planning.readback import fold
from grow.verification.outputs.pair import Differs, NoRoom, Pair, Side
from grow.verification.verdict import Check
from grow.verification.weights.recorded_growth import Replay

NAME = "embeddings"
LIBRARY = "sentence_transformers"
ROWS, LENGTH, SENTENCES = 6, 24, 8
# A module's weight that is multiplied by a root is rounded to float32 once, by 6e-8 of itself; an embedding sums a
# width of such errors, of either sign, and its own numbers are not smaller than their standard deviation by more.
ROUNDED = 16 * 2.0**-24
FIELDS: dict[str, Any] = {
    "prompts": {},
    "default_prompt_name": None,
    "similarity_fn_name": "cosine",
    "truncate_dim": None,
}
TEXT_FIELDS: dict[str, Any] = {"max_seq_length": None, "do_lower_case": False}


class NotRun(Exception):
    """A module whose arithmetic is not known here; the message names it."""


def has_modules(source: Checkpoint, grown: Checkpoint) -> bool:
    return any("modules.json" in side.companions for side in (source, grown))


def embeddings(pair: Pair, source: Checkpoint, grown: Checkpoint, replay: Replay | None, *, limit: float) -> Check:
    """The embeddings of both folders agree to `limit` of their standard deviation, read back where they are wider."""
    claim = "the embeddings behind all modules are the source's"
    try:
        before = read_modules(source)
    except GrowError as error:
        return Check(NAME, "skip", limit=claim, reason=f"the source's modules cannot be read: {error.what}")
    if not before:
        return Check(NAME, "skip", limit=claim, reason="only the grown folder has modules behind its transformer")
    try:
        after = read_modules(grown)
    except GrowError as error:
        return Check(NAME, "fail", limit=claim, reason=f"sentence-transformers cannot load it: {error.what}")
    if not after:
        return Check(NAME, "fail", limit=claim, reason="the grown folder has lost modules.json")
    if unequal := _unequal_settings(source, grown):
        return Check(NAME, "fail", limit=claim, reason=unequal)
    try:
        followed = _followed(source, before, replay)
    except GrowError as error:
        return Check(NAME, "fail", limit=claim, reason=error.what)
    if followed.rounded or (replay is None and before != after):
        limit = max(limit, ROUNDED)
    measured: dict[str, Any] = {"modules": [module.kind for module in after], "run_by": []}
    reasons = []
    for name, run in {"grow": _by_hand, LIBRARY: _by_library}.items():
        try:
            with torch.no_grad(), TrueFloat64():
                both = run(pair, "source", source, before), run(pair, "grown", grown, after)
        except NotRun as error:
            reasons.append(str(error))
            continue
        except NoRoom as error:
            reasons.append(str(error))
            continue
        except _Broken as error:
            if error.side == "grown":
                return Check(NAME, "fail", measured, claim, f"{name} cannot run the grown modules: {error}")
            reasons.append(f"{name} cannot run the source's modules: {error}")
            continue
        except Differs as error:
            return Check(NAME, "fail", measured, claim, str(error))
        measured["run_by"].append(name)
        relative, wrong = _apart(both[0], both[1], followed, known=replay is not None)
        measured["relative"] = max(relative, measured.get("relative", 0.0))
        if wrong or not relative <= limit:
            return Check(NAME, "fail", measured, claim, wrong or f"embeddings differ by {relative:.2e} of their std")
    if measured["run_by"]:
        return Check(NAME, "pass", measured, f"{claim}, to {limit:.1e} of their std")
    if before == after and followed.end is None and _same_files(source, grown):
        return Check(NAME, "pass", {**measured, "identical": True}, claim)
    return Check(NAME, "skip", {**measured, "unseen": ["modules"]}, claim, f"the modules were not run: {reasons[0]}")


class _Broken(Exception):
    def __init__(self, side: Side, error: Exception) -> None:
        self.side = side
        super().__init__(show(f"{type(error).__name__}: {error}", 200))


def _followed(source: Checkpoint, modules: Sequence[Module], replay: Replay | None) -> Followed:
    if replay is None:
        return Followed()
    record = replay.record
    start = vectors(replay.matched.architecture, record.change.maps, record.split)
    changed = frozenset(axis for axis, size in record.sizes.items() if size != record.new_sizes[axis])
    return follow(source, modules, start, changed)


def _unequal_settings(source: Checkpoint, grown: Checkpoint) -> str:
    """The first thing beside the modules that changes what a text becomes."""
    for a, b, fields, name in (
        (_settings(source, SETTINGS), _settings(grown, SETTINGS), FIELDS, SETTINGS),
        (_transformer(source), _transformer(grown), TEXT_FIELDS, "the transformer's settings"),
    ):
        for field, default in fields.items():
            old, new = (_stated(side.get(field), default) for side in (a, b))
            if old != new:
                return f"{name}: {field} is {show(repr(new), 80)}, wanted {show(repr(old), 80)}"
    return ""


def _stated(value: Any, default: Any) -> Any:
    if isinstance(default, dict):  # an empty prompt is none
        return {k: v for k, v in value.items() if v} if isinstance(value, dict) else default
    return default if value is None else value


def _settings(checkpoint: Checkpoint, name: str) -> Mapping[str, Any]:
    if name not in checkpoint.companions:
        return {}
    found = checkpoint._json(inside(checkpoint.path, name))
    return found if isinstance(found, dict) else {}


def _transformer(checkpoint: Checkpoint) -> Mapping[str, Any]:
    names = sorted(n for n in checkpoint.companions if n.startswith("sentence_") and n.endswith("_config.json"))
    return _settings(checkpoint, names[0]) if names else {}


def _same_files(source: Checkpoint, grown: Checkpoint) -> bool:
    def files(side: Checkpoint) -> dict[str, bytes]:
        inner = [name for name in side.companions if "/" in name]
        return {name: read_file(side.path / name, most=MAX_BESIDE) for name in inner}

    return files(source) == files(grown)


def _apart(
    a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor], followed: Followed, *, known: bool
) -> tuple[float, str]:
    """(largest difference, relative to the source's standard deviation; what is wrong beside it)."""
    worst = 0.0
    for name, before in a.items():
        x, y = (t.double().numpy().reshape(-1, t.shape[-1]) for t in (before, b[name]))
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            return math.inf, f"{name}: embeddings are not finite"
        end = followed.end
        if end is not None:
            y, apart, wrong = fold(y, end.n, np.maximum(end.source, -1), end.factor, end.shares)
            if wrong:
                return math.inf, wrong
            worst = max(worst, apart / (x.std() or 1.0))
        elif x.shape != y.shape:
            if known:
                return math.inf, f"{name}: embeddings have {y.shape[1]} numbers, wanted {x.shape[1]}"
            x, y = _cosines(x), _cosines(y)
        if not np.array_equal(x.shape, y.shape):
            return math.inf, f"{name}: {len(y)} embeddings, wanted {len(x)}"
        worst = max(worst, float(np.abs(x - y).max(initial=0.0)) / (x.std() or 1.0))
    return worst, ""


def _cosines(x: np.ndarray) -> np.ndarray:
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
    return unit @ unit.T


def _by_library(pair: Pair, side: Side, checkpoint: Checkpoint, modules: Sequence[Module]) -> dict[str, torch.Tensor]:
    """What `SentenceTransformer` makes of sentences, without a prompt and with each that the folder has."""
    if find_spec(LIBRARY) is None:
        raise NotRun(f"{LIBRARY} is not installed")
    if not any("tokenizer" in name or name.startswith("vocab") for name in checkpoint.companions):
        raise NotRun("the folder has no tokenizer")
    from grow.verification.downstream.encoders import DATA

    sentences = (DATA / "sentences.txt").read_text(encoding="utf-8").splitlines()[:SENTENCES]
    pair.room(side, "float64", whole=True)
    log = logging.getLogger(LIBRARY)
    level = log.level
    try:
        import sentence_transformers

        log.setLevel(logging.ERROR)
        with quiet():
            model = sentence_transformers.SentenceTransformer(
                str(pair.folders[side]),
                device="cpu",
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": torch.float64, "attn_implementation": "eager"},
            )
            model.double().eval()
            prompts = [None, *(name for name, text in (model.prompts or {}).items() if text)]
            options: dict[str, Any] = {"convert_to_tensor": True, "show_progress_bar": False}
            return {
                f"prompt {name}" if name else "sentences": model.encode(sentences, prompt_name=name, **options)
                for name in prompts
            }
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever the library raises, it does not load or run
        raise _Broken(side, error) from error
    finally:
        log.setLevel(level)


def _by_hand(pair: Pair, side: Side, checkpoint: Checkpoint, modules: Sequence[Module]) -> dict[str, torch.Tensor]:
    """The arithmetic of the modules on the last hidden state of random tokens, padded on the right."""
    first, rest = modules[0], modules[1:]
    if (
        first.kind != "Transformer"
        or first.config.get("transformer_task", "feature-extraction") != "feature-extraction"
    ):
        raise NotRun(f"{show(first.kind)} hands on no hidden states")
    chains = list(_chains(rest))
    for module in (m for _, chain in chains for m in chain):
        if module.kind not in STEPS:
            raise NotRun(f"the arithmetic of {show(module.kind)} is not known here, and {LIBRARY} is not installed")
    model = pair.model(side, "float64").base_model
    draw = torch.Generator().manual_seed(pair.seed)
    vocab = int(pair.config("source").get_text_config().vocab_size)
    length = min(LENGTH, pair.length)
    ids = torch.randint(0, vocab, (ROWS, length), generator=draw)
    mask = (torch.arange(length) < torch.linspace(length // 3, length, ROWS).long()[:, None]).long()
    try:
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    except Exception as error:
        raise _Broken(side, error) from error
    found = {}
    for name, chain in chains:
        features = {TOKENS: hidden, "attention_mask": mask}
        try:
            for module in chain:
                STEPS[module.kind](checkpoint, module, features)
        except Exception as error:  # weights that do not fit, files that are not there
            raise _Broken(side, error) from error
        found[name] = features.get(SENTENCE, features[TOKENS] * mask[..., None])
    return found


def _chains(modules: Sequence[Module], name: str = "random tokens") -> Iterator[tuple[str, list[Module]]]:
    """(name, modules) for each route; routers one behind the other multiply."""
    found: list[tuple[str, list[Module]]] = [(name, [])]
    for module in modules:
        if module.kind == "Router":
            found = [(f"{n} {r}", [*c, *route]) for n, c in found for r, route in module.routes.items()]
        else:
            found = [(n, [*c, module]) for n, c in found]
    return iter(found)


Features = dict[str, torch.Tensor]


def _pool(checkpoint: Checkpoint, module: Module, features: Features) -> None:
    tokens, mask = features[TOKENS], features["attention_mask"]
    weight = mask[..., None].double()
    places = torch.arange(1, mask.shape[1] + 1)[None, :, None] * weight
    total = (tokens * weight).sum(1)
    last = mask.sum(1) - 1
    pooled = {
        "cls": lambda: tokens[:, 0],
        "max": lambda: tokens.masked_fill(weight == 0, -math.inf).amax(1),
        "mean": lambda: total / weight.sum(1),
        "mean_sqrt_len_tokens": lambda: total / weight.sum(1).sqrt(),
        "weightedmean": lambda: (tokens * places).sum(1) / places.sum(1),
        "lasttoken": lambda: tokens[torch.arange(len(tokens)), last],
    }
    features[SENTENCE] = torch.cat([pooled[mode]() for mode in pooling_modes(module.config)], dim=-1)


def _normalize(checkpoint: Checkpoint, module: Module, features: Features) -> None:
    name, to = _names(module)
    features[to] = torch.nn.functional.normalize(features[name], dim=-1)


def _dense(checkpoint: Checkpoint, module: Module, features: Features) -> None:
    name, to = _names(module)
    weights, x = _weights(checkpoint, module), features[name]
    bias = weights.get("linear.bias") if module.config.get("bias", True) else None
    out = _activation(module)(torch.nn.functional.linear(x, weights["linear.weight"], bias))
    if module.config.get("use_residual"):
        out = out + (x @ weights["residual.weight"].T if "residual.weight" in weights else x)
    features[to] = out


def _activation(module: Module) -> Any:
    """As the library takes it from the config: a class of torch, or else tanh."""
    stated = module.config.get("activation_function", "torch.nn.modules.activation.Tanh")
    kind = (
        getattr(torch.nn, str(stated).rpartition(".")[2], None) if str(stated).startswith("torch.") else torch.nn.Tanh
    )
    if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
        raise NotRun(f"no activation {show(str(stated))} in torch")
    return kind()


def _layer_norm(checkpoint: Checkpoint, module: Module, features: Features) -> None:
    weights, x = _weights(checkpoint, module), features[SENTENCE]
    features[SENTENCE] = torch.nn.functional.layer_norm(
        x, x.shape[-1:], weights["norm.weight"], weights["norm.bias"], eps=1e-5
    )


def _names(module: Module) -> tuple[str, str]:
    name = module.config.get("module_input_name") or SENTENCE
    return name, module.config.get("module_output_name") or name


def _weights(checkpoint: Checkpoint, module: Module) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    file = checkpoint.path / module.path / "model.safetensors"
    if file.is_file():
        found = load_file(file)
    else:
        found = torch.load(file.with_name("pytorch_model.bin"), map_location="cpu", weights_only=True)
    return {name: value.double() for name, value in found.items()}


STEPS = {
    "Dense": _dense,
    "Dropout": lambda checkpoint, module, features: None,
    "LayerNorm": _layer_norm,
    "Normalize": _normalize,
    "Pooling": _pool,
}
