"""The modules of a sentence-transformers folder, run by grow and by the library itself."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import torch

from grow.applying.sentence_growth import SENTENCE, TOKENS
from grow.applying.sentence_modules import Module, pooling_modes
from grow.checkpoint.reader import Checkpoint
from grow.files.header import show
from grow.models.true_float64 import quiet
from grow.verification.downstream.encoder_tasks import DATA
from grow.verification.outputs.pair import Pair
from grow.verification.outputs.two_folders import Side

LIBRARY = "sentence_transformers"
ROWS, LENGTH, SENTENCES = 6, 24, 8


class NotRun(Exception):
    """A module whose arithmetic is not known here; the message names it."""


class CannotRunModules(Exception):
    def __init__(self, side: Side, error: Exception) -> None:
        self.side = side
        super().__init__(show(f"{type(error).__name__}: {error}", 200))


def run_by_library(
    pair: Pair, side: Side, checkpoint: Checkpoint, modules: Sequence[Module]
) -> dict[str, torch.Tensor]:
    """What `SentenceTransformer` makes of sentences, without a prompt and with each that the folder has."""
    if find_spec(LIBRARY) is None:
        raise NotRun(f"{LIBRARY} is not installed")
    if not any("tokenizer" in name or name.startswith("vocab") for name in checkpoint.companions):
        raise NotRun("the folder has no tokenizer")
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
        raise CannotRunModules(side, error) from error
    finally:
        log.setLevel(level)


def run_by_grow(pair: Pair, side: Side, checkpoint: Checkpoint, modules: Sequence[Module]) -> dict[str, torch.Tensor]:
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
        raise CannotRunModules(side, error) from error
    vectors = {}
    for name, chain in chains:
        features = {TOKENS: hidden, "attention_mask": mask}
        try:
            for module in chain:
                STEPS[module.kind](checkpoint, module, features)
        except Exception as error:  # weights that do not fit, files that are not there
            raise CannotRunModules(side, error) from error
        vectors[name] = features.get(SENTENCE, features[TOKENS] * mask[..., None])
    return vectors


def _chains(modules: Sequence[Module], name: str = "random tokens") -> Iterator[tuple[str, list[Module]]]:
    """(name, modules) for each route; routers one behind the other multiply."""
    chains: list[tuple[str, list[Module]]] = [(name, [])]
    for module in modules:
        if module.kind == "Router":
            chains = [(f"{n} {r}", [*c, *route]) for n, c in chains for r, route in module.routes.items()]
        else:
            chains = [(n, [*c, module]) for n, c in chains]
    return iter(chains)


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
    """The activation, as the library takes it from the config: a class of torch, or else tanh."""
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
        weights = load_file(file)
    else:
        weights = torch.load(file.with_name("pytorch_model.bin"), map_location="cpu", weights_only=True)
    return {name: value.double() for name, value in weights.items()}


STEPS = {
    "Dense": _dense,
    "Dropout": lambda checkpoint, module, features: None,
    "LayerNorm": _layer_norm,
    "Normalize": _normalize,
    "Pooling": _pool,
}
