"""`verify`: every rung on one pair, and one verdict.

certificate     the law and W̃·E_in = E_out·W on the stored weights of every tensor, config, sha256
true_float64    outputs agree, with no rounding inside the forward pass
proof           a rounded growth, repeated in float64: agrees to 1e-12, so what remains is storage
runtime_dtype   in the dtype people run, as close as the source is to itself
cached_decoding token by token with the KV cache, the same
save_reload     save_pretrained and from_pretrained change nothing
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from grow.checkpoint.reader import Checkpoint
from grow.errors import BadInput, Refused, did_you_mean
from grow.families import family_of
from grow.plan import ITEMSIZE
from grow.provenance import read_record
from grow.verify.replay import NoSpace, Replay
from grow.verify.result import EXACT, Rung, Verification

RUNGS = ("certificate", "true_float64", "proof", "runtime_dtype", "cached_decoding", "save_reload")


def verify_folders(
    source: Checkpoint,
    grown: Checkpoint,
    *,
    rungs: Sequence[str] = RUNGS,
    seed: int = 0,
    names: tuple[str, str] | None = None,
    progress: Callable[[str], None] = lambda rung: None,
) -> Verification:
    """The ladder on two open checkpoints. BadInput when they cannot belong together."""
    _check_names(rungs)
    record = read_record(grown.path)
    notes: list[str] = []
    done: list[Rung] = []
    plan = None
    if record is None:
        _check_order(source, grown)
        notes.append("no grow.json in the grown checkpoint: no certificate, the outputs decide")
    else:
        plan = Replay(record, source, grown)
    if "certificate" in rungs:
        progress("certificate")
        done.append(
            plan.certificate() if plan else Rung("certificate", "skip", reason="no grow.json: no plan to check against")
        )
    if any(name in rungs for name in RUNGS[1:]):
        done.extend(_models(source, grown, plan, rungs, seed, progress))
    if any(rung.measured.get("within_storage") for rung in done):
        notes.append(
            "the outputs agree as far as rounding the stored weights explains, which may be more than was rounded"
        )
    shown = names or (str(source.path), str(grown.path))
    return Verification(*shown, tuple(done), tuple(notes))


def _models(source: Checkpoint, grown: Checkpoint, plan: Replay | None, wanted, seed: int, progress) -> Iterator[Rung]:
    """The rungs that run models; torch is imported here and nowhere before."""
    from grow.verify import rungs
    from grow.verify.pair import NoRoom, Pair

    readback = plan.readback if plan else None
    rounded = plan is not None and plan.record.storage == "rounded"
    narrow = sorted({info.dtype for info in grown.tensors.values()}, key=ITEMSIZE.__getitem__)[0]
    needs_proof = rounded and narrow != "F64"
    with Pair(source.path, grown.path, seed=seed) as pair:

        def storage_limit() -> float:
            try:
                return rungs.STORAGE_K * rungs.storage_floor(pair, _NAMES[narrow])
            except NoRoom:
                return math.nan  # every rung that needs it is skipped for the same reason

        limit = storage_limit() if needs_proof else EXACT
        if "true_float64" in wanted:
            progress("true_float64")
            found = rungs.true_float64(pair, limit=limit, readback=readback)
            if found.status == "fail" and plan is None and narrow != "F64" and found.measured:
                limit = storage_limit()
                found = rungs.true_float64(pair, limit=limit, readback=readback)
                found = replace(found, measured={**found.measured, "within_storage": found.status == "pass"})
            yield found
        if "proof" in wanted and needs_proof and plan is not None:
            progress("proof")
            pair.release()
            yield _proof(plan, pair)
        if "runtime_dtype" in wanted:
            progress("runtime_dtype")
            yield rungs.runtime_dtype(pair, readback=readback)
        if "cached_decoding" in wanted:
            progress("cached_decoding")
            yield rungs.cached_decoding(pair, limit=limit, readback=readback)
        if "save_reload" in wanted:
            progress("save_reload")
            yield rungs.save_reload(pair)


_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def _proof(plan: Replay, pair: Any) -> Rung:
    from grow.verify import rungs

    try:
        with plan.proof_copy() as folder, pair.against(folder) as proof:
            return replace(rungs.true_float64(proof, limit=EXACT, readback=plan.readback), name="proof")
    except NoSpace as error:
        return Rung("proof", "skip", reason=str(error))


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


def _check_names(rungs: Sequence[str]) -> None:
    for name in rungs:
        if name not in RUNGS:
            raise BadInput(
                f"--rung {name}",
                what=f"no such rung {did_you_mean(name, RUNGS)}".rstrip(),
                why="rungs: " + ", ".join(RUNGS),
                fix="--rung certificate",
            )
    if not rungs:
        raise Refused("--rung", what="nothing to verify", why="at least one rung", fix="leave --rung out")
