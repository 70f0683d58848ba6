"""Generated text: the settings of both folders, and what both models write with one seed.

generation_config(pair)  ->  the settings that `generate` takes unless it is told otherwise
generation(pair)         ->  the same tokens, or a parting at a tie that the models' difference explains
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from grow.models.true_float64 import forward, quiet
from grow.verification.outputs.compare import RUN_ERRORS
from grow.verification.outputs.forward_passes import guard
from grow.verification.outputs.pair import Pair
from grow.verification.outputs.two_folders import Side
from grow.verification.rungs import EXACT
from grow.verification.verdict import Check

STAMPS = {"transformers_version", "return_dict_in_generate", "use_cache"}
"""Say who wrote the file and how the answer is packed, not what is written."""
ENDS = ("bos_token_id", "eos_token_id", "decoder_start_token_id")
PROMPT = 8
TOKENS = 16  # each reads every weight once per model


@guard
def generation_config(pair: Pair) -> Check:
    """`generate` takes the same settings from both folders: penalties, lengths, end tokens, what is suppressed."""
    limit = "the same settings of `generate`, as stock loading reads them"
    unequal = _unequal_tokens(pair)
    if not pair.can_generate("source"):
        if unequal:  # a classifier's too are read where texts are made for it
            return _of_other_tokens({}, unequal, limit)
        return Check("generation_config", "skip", limit=limit, reason="the class does not generate")
    try:
        wanted = effective(pair.folders["source"])
    except Exception as error:  # what the source's own file says cannot be known
        reason = f"the source's does not load: {type(error).__name__}: {error}"
        return Check("generation_config", "skip", limit=limit, reason=reason)
    check = same_settings(wanted, pair.folders["grown"], limit)
    return check if check.status == "fail" or not unequal else _of_other_tokens(check.measured, unequal, limit)


def _of_other_tokens(measured: Mapping[str, Any], unequal: Mapping[str, tuple[Any, Any]], limit: str) -> Check:
    differences = "; ".join(f"config.json: {name} is {b!r}, wanted {a!r}" for name, (a, b) in unequal.items())
    return Check("generation_config", "fail", {**measured, "unequal": list(unequal)}, limit, differences)


def _unequal_tokens(pair: Pair) -> dict[str, tuple[Any, Any]]:
    """The ids that config.json gives to the ends of a text, where they differ: who serves a model reads them there."""
    wanted, found = (pair.config(side).get_text_config() for side in ("source", "grown"))
    ids = {name: tuple(getattr(config, name, None) for config in (wanted, found)) for name in ENDS}
    return {name: (a, b) for name, (a, b) in ids.items() if _several(a) != _several(b)}


def _several(ids: Any) -> Any:
    """One id is a list of one."""
    return [ids] if isinstance(ids, int) else ids


def same_settings(wanted: Mapping[str, Any], grown: Path, limit: str) -> Check:
    """Whether the folder's settings are those that are wanted."""
    try:
        found = effective(grown)
    except Exception as error:
        reason = f"does not load: {type(error).__name__}: {error}"
        return Check("generation_config", "fail", limit=limit, reason=reason)
    names = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    measured = {"settings": len(wanted), "unequal": names}
    if names:
        differences = "; ".join(f"{name} is {_stated(found, name)}, wanted {_stated(wanted, name)}" for name in names)
        gone = "" if (grown / "generation_config.json").is_file() else " (there is no generation_config.json)"
        return Check("generation_config", "fail", measured, limit, differences + gone)
    return Check("generation_config", "pass", measured, limit)


def _stated(settings: Mapping[str, Any], name: str) -> str:
    return repr(settings[name])[:80] if name in settings else "at its default"


def effective(folder: Path) -> dict[str, Any]:
    """What `generate` uses of a folder: its generation_config.json, or without one what config.json says. Settings at
    their defaults are left out, and so are stamps of versions; JSON-ready."""
    config = transformers.GenerationConfig
    with quiet():
        if (folder / "generation_config.json").is_file():
            stated = config.from_pretrained(folder, local_files_only=True)
        else:
            stated = config.from_pretrained(
                folder, config_file_name="config.json", _from_model_config=True, local_files_only=True
            )
    usual = {**config().to_dict(), **config()._get_default_generation_params()}
    values = {name: usual.get(name) if value is None else value for name, value in stated.to_dict().items()}
    kept = {k: v for k, v in values.items() if not k.startswith("_") and k not in STAMPS and v != usual.get(k)}
    return dict(json.loads(json.dumps(kept, default=str, sort_keys=True)))


@guard
def generation(pair: Pair, *, limit: float = EXACT) -> Check:
    """Greedy decoding picks the same tokens. Where two tokens are closer than the models are, either may come first.

    limit  how far the logits may be apart, relative to their std, as in `true_float64`
    """
    return _written("generation", pair, limit, sample=False)


@guard
def sampling(pair: Pair, *, limit: float = EXACT) -> Check:
    """Sampling from the full distribution with one seed draws the same tokens.

    A rounded growth moves the distribution by its rounding, and with it now and then a draw: then this is skipped, and
    `generation` has to do.
    """
    if limit > EXACT:
        return Check("sampling", "skip", reason="rounded weights may move a draw across a boundary")
    return _written("sampling", pair, limit, sample=True)


def _written(name: str, pair: Pair, limit: float, *, sample: bool) -> Check:
    if pair.streaming:
        return Check(name, "skip", reason="its weights come from disk once per token, which is too slow")
    if not pair.can_generate("source"):
        return Check(name, "skip", reason="the class does not generate")
    probe = next((probe for probe in pair.probes if probe.name == "random" and "input_ids" in probe.inputs), None)
    if probe is None:
        return Check(name, "skip", reason="the class does not continue a text")
    a, b = (text_of(pair, side, probe, sample) for side in ("source", "grown"))
    if isinstance(a, str) or isinstance(b, str):
        return Check(name, "skip", reason=str(a if isinstance(a, str) else b))
    same = (a.sequences == b.sequences).all(0)
    measured: dict[str, Any] = {
        "prompt": PROMPT,
        "tokens": int(a.sequences.shape[1]) - a.prompt,
        "rows": len(a.sequences),
        "agree": int(same[a.prompt :].sum()),
    }
    how = f"sampled with seed {pair.seed}" if sample else "greedy"
    claim = f"the same {measured['tokens']} tokens, {how}" + (", among the old tokens" if pair.more_tokens else "")
    if bool(same.all()):
        return Check(name, "pass", measured, claim)
    step = int((~same).nonzero()[0])
    row = int((a.sequences[:, step] != b.sequences[:, step]).nonzero()[0])
    pick, other = int(a.sequences[row, step]), int(b.sequences[row, step])
    logits = a.logits[step - a.prompt][row]
    gap = abs(float(logits[pick] - logits[other])) / float(logits.std())
    measured |= {"parted_at": step - a.prompt, "row": row, "source": pick, "grown": other, "gap": gap}
    if not sample and gap <= 2 * limit:
        return Check(name, "pass", measured, f"{claim}, or a tie (here at token {step - a.prompt}, gap {gap:.1e})")
    reason = f"token {step - a.prompt} of row {row}: {other} instead of {pick}, {gap:.3g} std apart"
    return Check(name, "fail", measured, claim, reason)


class _Text:
    def __init__(self, sequences: torch.Tensor, logits: tuple[torch.Tensor, ...]) -> None:
        self.sequences, self.logits = sequences, logits
        self.prompt = sequences.shape[1] - len(logits)


def text_of(pair: Pair, side: Side, probe: Any, sample: bool) -> _Text | str:
    """What one side writes, or why it does not; asked once."""
    return pair.once(("text", sample, side), lambda: _write(pair, side, probe, sample))


def _write(pair: Pair, side: Side, probe: Any, sample: bool) -> _Text | str:
    model = pair.model(side, "float64")
    ids = probe.inputs["input_ids"][:, :PROMPT]
    config = pair.config("source").get_text_config()
    most = (getattr(config, "max_position_embeddings", None) or PROMPT + TOKENS) - ids.shape[1]
    if getattr(config, "is_encoder_decoder", False):
        most = TOKENS
    if most < 1:
        return "the model has too few positions to continue a prompt"
    pad = next((t for t in (_id(config, "pad"), _id(config, "eos")) if t is not None), 0)
    settings = transformers.GenerationConfig(
        max_new_tokens=min(TOKENS, most),
        do_sample=sample,
        top_k=0 if sample else None,
        pad_token_id=pad,
        eos_token_id=None,  # to the end, whatever is written
        bos_token_id=_id(config, "bos"),
        decoder_start_token_id=_id(pair.config("source"), "decoder_start"),
        return_dict_in_generate=True,
        output_logits=True,
    )
    chosen = transformers.LogitsProcessorList([_First(config.vocab_size)] if pair.more_tokens else [])
    before = model.generation_config
    model.generation_config = settings  # the folder's own may sample, penalise or stop
    try:
        torch.manual_seed(pair.seed)
        with forward(model), quiet():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), generation_config=settings, logits_processor=chosen
            )
    except RUN_ERRORS as error:
        if side == "source":
            return f"the source does not generate: {error}"
        raise pair.blame(side, f"generate: {error}") from error
    finally:
        model.generation_config = before
    return _Text(out.sequences, out.logits)


class _First(transformers.LogitsProcessor):
    """Only the tokens that both models have, so that one seed draws alike from both."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores[:, : self.count]


def _id(config: Any, name: str) -> int | None:
    token = getattr(config, f"{name}_token_id", None)
    return token if isinstance(token, int) else None
