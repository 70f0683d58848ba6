"""`verify`: every rung on one pair, and one verdict.

certificate    the law and W̃·E_in = E_out·W on the stored weights of every tensor, config, sha256
true_float64   outputs agree, with no rounding inside the forward pass; a rounded growth is repeated in float64
               (proof) and agrees to 1e-12, so what remains is storage
runtime_dtype  in the dtype people run, as close as the source is to itself
behaviour      tokenizer, hidden states, loss, cached decoding, generation, kernels and batch shapes, save and reload
trainability   after a few optimizer steps: no dead parameter, no locked twin
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from grow.checkpoint.reader import Checkpoint
from grow.errors import BadInput, Refused, did_you_mean
from grow.families import family_of
from grow.plan import ITEMSIZE
from grow.provenance import read_record
from grow.verify.replay import NoSpace, Replay, config_differences
from grow.verify.result import EXACT, RUNG_OF, RUNGS, Check, Verification
from grow.verify.tokenizer import tokenizers


def verify_folders(
    source: Checkpoint,
    grown: Checkpoint,
    *,
    rungs: Sequence[str] = tuple(RUNGS),
    seed: int = 0,
    names: tuple[str, str] | None = None,
    progress: Callable[[str], None] = lambda check: None,
) -> Verification:
    """The ladder on two open checkpoints; `rungs` may name single checks. BadInput when the two cannot belong
    together."""
    wanted = checks_of(rungs)
    record = read_record(grown.path)
    notes: list[str] = []
    done: list[Check] = []
    replay = None
    if record is None:
        _check_order(source, grown)
        notes.append("no grow.json in the grown checkpoint: no certificate, the outputs decide")
    else:
        replay = Replay(record, source, grown)
    if "certificate" in wanted:
        progress("certificate")
        no_plan = "no grow.json: no plan to check against"
        done.append(replay.certificate() if replay else Check("certificate", "skip", reason=no_plan))
    if wanted - {"certificate"}:
        done.extend(_models(source, grown, replay, wanted, seed, progress))
    if any(check.measured.get("within_storage") for check in done):
        notes.append(
            "the outputs agree as far as rounding the stored weights explains, which may be more than was rounded"
        )
    return Verification(
        *(names or (str(source.path), str(grown.path))),
        tuple(done),
        tuple(notes),
        growth=replay.document() if replay else None,
        config=tuple(config_differences(source.config, grown.config)),
        environment=environment(),
    )


def checks_of(rungs: Sequence[str]) -> set[str]:
    """The checks on the rungs that somebody named; a check may be named itself."""
    found: set[str] = set()
    for name in rungs:
        if name in RUNGS:
            found.update(RUNGS[name])
        elif name in RUNG_OF:
            found.add(name)
        else:
            known = dict.fromkeys([*RUNGS, *RUNG_OF])
            single = ", ".join(check for check in RUNG_OF if check not in RUNGS)
            raise BadInput(
                f"--rung {name}",
                what=f"no such rung {did_you_mean(name, known)}".rstrip(),
                why=f"rungs: {', '.join(RUNGS)}; single checks: {single}",
                fix="--rung certificate",
            )
    if not found:
        raise Refused("--rung", what="nothing to verify", why="at least one rung", fix="leave --rung out")
    return found


def environment() -> dict[str, Any]:
    """What the numbers were measured with."""
    packages = {name: version(name) for name in ("torch", "transformers", "numpy", "safetensors")}
    from grow import __version__

    return {"grow": __version__, "python": platform.python_version(), **packages, "machine": platform.machine()}


def _models(
    source: Checkpoint, grown: Checkpoint, replay: Replay | None, wanted: set[str], seed: int, progress
) -> Iterator[Check]:
    """The checks that run models; torch is imported here and nowhere before."""
    from grow.verify import outputs
    from grow.verify.pair import NoRoom, Pair

    readback = replay.readback if replay else None
    rounded = replay is not None and replay.record.storage == "rounded"
    narrow = sorted({info.dtype for info in grown.tensors.values()}, key=ITEMSIZE.__getitem__)[0]
    needs_proof = rounded and narrow != "F64"
    with Pair(source.path, grown.path, seed=seed) as pair:

        def storage_limit() -> float:
            try:
                return outputs.STORAGE_K * outputs.storage_floor(pair, _NAMES[narrow])
            except NoRoom:
                return math.nan  # every check that needs it is skipped for the same reason

        limit = storage_limit() if needs_proof else EXACT
        if "true_float64" in wanted:
            progress("true_float64")
            found = outputs.true_float64(pair, limit=limit, readback=readback)
            if found.status == "fail" and replay is None and narrow != "F64" and found.measured:
                limit = storage_limit()
                found = outputs.true_float64(pair, limit=limit, readback=readback)
                found = replace(found, measured={**found.measured, "within_storage": found.status == "pass"})
            yield found
        if "proof" in wanted and needs_proof and replay is not None:
            progress("proof")
            pair.release()
            yield _proof(replay, pair)
        if "runtime_dtype" in wanted:
            progress("runtime_dtype")
            yield outputs.runtime_dtype(pair, readback=readback)
        yield from _behaviour(pair, replay, wanted, limit, narrow, progress)
        if "trainability" in wanted:
            from grow.verify.trainability import trainability

            progress("trainability")
            yield trainability(pair, replay.by_name() if replay else None)


def _behaviour(
    pair: Any, replay: Replay | None, wanted: set[str], limit: float, narrow: str, progress
) -> Iterator[Check]:
    from grow.verify import behaviour, generation, hidden, outputs

    readback = replay.readback if replay else None

    def hidden_states() -> Check:
        stream = (lambda final: replay.stream(final=final)) if replay else (lambda final: None)
        if limit == EXACT:
            return hidden.hidden_states(pair, stream=stream)
        floors = hidden.storage_floors(pair, _NAMES[narrow])
        return hidden.hidden_states(pair, stream=stream, floors=floors, factor=outputs.STORAGE_K)

    checks = {
        "tokenizer": lambda: tokenizers(pair.folders["source"], pair.folders["grown"]),
        "hidden_states": hidden_states,
        "loss": lambda: behaviour.loss(pair, limit=limit),
        "cached_decoding": lambda: behaviour.cached_decoding(pair, limit=limit, readback=readback),
        "generation": lambda: generation.generation(pair, limit=limit),
        "sampling": lambda: generation.sampling(pair, limit=limit),
        "kernels": lambda: behaviour.kernels(pair),
        "save_reload": lambda: behaviour.save_reload(pair),
    }
    for name, check in checks.items():
        if name in wanted:
            progress(name)
            yield check()


_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def _proof(replay: Replay, pair: Any) -> Check:
    from grow.verify import outputs

    try:
        with replay.proof_copy() as folder, pair.against(folder) as proof:
            return replace(outputs.true_float64(proof, limit=EXACT, readback=replay.readback), name="proof")
    except NoSpace as error:
        return Check("proof", "skip", reason=str(error))


def _check_order(source: Checkpoint, grown: Checkpoint) -> None:
    """BadInput when the source's grow.json tells of a growth from the other one's sizes."""
    record = read_record(source.path)
    if record is None or record.sizes == record.new_sizes or grown.config.get("model_type") != record.model_type:
        return
    if family_of(record.model_type).sizes_of(grown.config) == record.sizes:
        raise BadInput(
            str(source.path),
            what="was grown from a checkpoint like the one given as its result",
            why="its grow.json says so, and the other has none",
            fix="grow verify SOURCE GROWN, in this order",
        )
