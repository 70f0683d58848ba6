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
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from grow.checkpoint.reader import Checkpoint
from grow.checkpoint.writer import ShardWriter, write_json
from grow.engine import FileSource, write_plan
from grow.errors import BadInput, Refused, did_you_mean, listing
from grow.families import family_of
from grow.family import COMMON_FIELDS, WIDTHS, Family
from grow.match import match
from grow.plan import ITEMSIZE, Plan, assemble
from grow.provenance import Record, read_record, whole_maps
from grow.verify.result import Rung

RUNGS = ("certificate", "true_float64", "proof", "runtime_dtype", "cached_decoding", "save_reload")
EXACT = 1e-12
CHANGED = {"dtype", "torch_dtype", "tie_word_embeddings"}  # by a growth, apart from widths and positions
# Fields that change no output; the others are compared although some families read them nowhere.
NEUTRAL = COMMON_FIELDS - {"architectures", "model_type", "is_decoder", "pad_token_id", "dtype", "torch_dtype"}


@dataclass(frozen=True)
class Verification:
    """What was found. `verdict` is "lossless", "different" or, when nothing failed but too little ran, "unproved".

    lossless needs the outputs compared (true_float64, and proof where weights were rounded) or, where the models
    do not fit into memory, the certificate.
    """

    source: str
    grown: str
    rungs: tuple[Rung, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def verdict(self) -> str:
        status = {rung.name: rung.status for rung in self.rungs}
        if "fail" in status.values():
            return "different"
        loose = any(rung.measured.get("within_storage") for rung in self.rungs)
        proved = "pass" in (status.get("true_float64"), status.get("certificate")) and not loose
        return "lossless" if proved else "unproved"

    @property
    def lossless(self) -> bool:
        return self.verdict == "lossless"

    @property
    def exit_code(self) -> int:
        """0 lossless, 1 different or unproved."""
        return 0 if self.lossless else 1

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; numbers that JSON cannot hold become null."""
        return _finite(
            {
                "schema": 1,
                "source": self.source,
                "grown": self.grown,
                "verdict": self.verdict,
                "rungs": [asdict(rung) for rung in self.rungs],
                "notes": list(self.notes),
            }
        )


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
        plan = _Replay(record, source, grown)
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


class _Replay:
    """The growth that grow.json describes, laid over the two checkpoints."""

    def __init__(self, record: Record, source: Checkpoint, grown: Checkpoint) -> None:
        self.record, self.source, self.grown = record, source, grown
        self.family: Family = family_of(record.model_type)
        if source.config.get("model_type") != record.model_type or self._sizes() != record.sizes:
            raise BadInput(
                str(source.path),
                what="is not the checkpoint that grow.json names as the source",
                why=f"it was {record.model_type} with {record.sizes}",
                fix="grow verify SOURCE GROWN, in this order",
            )
        self.maps = whole_maps(record, self.family)
        self.matched = match(self.family, source.config, source.tensors, str(source.path))
        stored = {name: info.dtype for name, info in grown.tensors.items()}
        dtypes = {t.name: stored.get(t.name, t.dtype) for t in self.matched.tensors}
        self.tensors, _ = assemble(self.family, self.matched, self.maps, dtypes)

    def _sizes(self) -> dict[str, int] | None:
        try:
            return self.family.sizes_of(self.source.config)
        except BadInput:
            return None

    @property
    def readback(self) -> tuple[np.ndarray, np.ndarray] | None:
        """How to read an output of hidden size: behind the last norm every copy is the old coordinate."""
        hidden = self.maps["hidden"]
        return None if hidden.is_identity else (np.maximum(hidden.source, -1), hidden.gain * hidden.write)

    def certificate(self) -> Rung:
        from grow.verify.certificate import check_tensor, sha256

        record = self.record
        faults = [*self._law(), *self._config(), *self._set()]
        worst = 0.0
        if not faults:
            for t in self.tensors:
                check = check_tensor(t, self.source, self.grown, record.split)
                worst = max(worst, check.worst)
                faults.extend(map(str, check.faults[:1]))
                if not check.faults and sha256(self.grown, self.grown.tensors[t.name]) != record.tensors.get(t.name):
                    less = " or by less than the rounding of what is stored" if check.unit else ""
                    faults.append(f"{t.name}: sha256 is not grow.json's: differs in entries that no output reads{less}")
        measured = {
            "tensors": len(self.tensors),
            "largest_residual": worst,
            "faults": faults[:20],
            "faulty": len(faults),
        }
        limit = "W̃·E_in = E_out·W on every tensor, " + (
            "exactly" if record.storage == "bit-exact" else "within the rounding of what is stored"
        )
        return Rung("certificate", "fail" if faults else "pass", measured, limit, "; ".join(faults[:3]))

    def _law(self) -> Iterator[str]:
        for space, axis_map in self.maps.items():
            # shares and square roots are rounded a few times each; a wrong factor is off by far more
            off = float(np.abs(axis_map.law() - 1).max(initial=0.0))
            if not off <= EXACT:
                yield f"grow.json: the law fails on {space} by {off:.3g}"
            if axis_map.m != self.record.new_sizes[space.split(".")[0]]:
                yield f"grow.json: the map of {space} does not reach the size {self.record.new_sizes}"

    def _config(self) -> Iterator[str]:
        """The grown config is the source's but for fields that a growth may change, and says the new sizes."""
        family, changes = self.family, self.record.config_changes
        may_change = {family.axes[axis] for axis in (*WIDTHS, "embed") if axis in family.axes} | family.reads | CHANGED
        for name in sorted(set(changes) - may_change):
            yield f"grow.json: config_changes: {name}: no growth changes it"
        wanted, found = _one_dtype({**self.matched.config, **changes}), _one_dtype(self.grown.config)
        for name in sorted((set(wanted) | set(found)) - NEUTRAL):
            a, b = family.get(wanted, name), family.get(found, name)
            if a != b and not (_unset(a) and _unset(b)):
                yield f"config.json: {name}: found {b!r}, wanted {a!r}"
        try:
            sizes = family.sizes_of(self.grown.config)
        except BadInput as error:
            yield str(error).splitlines()[0]
        else:
            for axis in sorted(self.record.new_sizes):
                if sizes.get(axis) != self.record.new_sizes[axis]:
                    yield f"config.json: {axis} is {sizes.get(axis)}, grow.json says {self.record.new_sizes[axis]}"

    def _set(self) -> Iterator[str]:
        wanted = {t.name: t for t in self.tensors}
        missing, extra = (
            sorted(set(wanted) - set(self.grown.tensors)),
            sorted(set(self.grown.tensors) - set(wanted)),
        )
        if missing:
            yield f"{listing(missing)}: missing"
        if extra:
            yield f"{listing(extra)}: not written by grow"
        for name in sorted(set(wanted) & set(self.grown.tensors)):
            shape = self.grown.tensors[name].shape
            if shape != wanted[name].new_shape:
                yield f"{name}: has shape {shape}, wanted {wanted[name].new_shape}"

    @contextmanager
    def proof_copy(self) -> Iterator[Path]:
        """The same growth in float64, in a temporary folder."""
        tensors, _ = assemble(
            self.family, self.matched, self.maps, dict.fromkeys((t.name for t in self.matched.tensors), "F64")
        )
        record = self.record
        config = {
            **self.source.config,
            **record.config_changes,
            "architectures": self.matched.config["architectures"],
        }
        config.pop("torch_dtype", None)
        config["dtype"] = "float64"
        plan = Plan(
            self.family,
            self.matched.config,
            config,
            record.sizes,
            record.new_sizes,
            self.maps,
            {},
            tensors,
            split=record.split,
            seed=record.seed,
            rounded=(),
        )
        folder = Path(tempfile.mkdtemp(prefix="grow-proof-"))
        try:
            free = shutil.disk_usage(folder).free
            if plan.nbytes > free:
                raise NoSpace(f"a float64 copy needs {plan.nbytes / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free")
            writer = ShardWriter(folder, tensors, 5 * 10**9)
            try:
                write_plan(plan, FileSource(self.source), writer)
                writer.close()
            finally:
                writer.abandon()
            write_json(folder / "config.json", config)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class NoSpace(Exception):
    """There is no room for a temporary copy; the rung is skipped with this reason."""


def _models(source: Checkpoint, grown: Checkpoint, plan: _Replay | None, wanted, seed: int, progress) -> Iterator[Rung]:
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


def _proof(plan: _Replay, pair: Any) -> Rung:
    from grow.verify import rungs

    try:
        with plan.proof_copy() as folder, pair.against(folder) as proof:
            return replace(rungs.true_float64(proof, limit=EXACT, readback=plan.readback), name="proof")
    except NoSpace as error:
        return Rung("proof", "skip", reason=str(error))


def _unset(value: Any) -> bool:
    return value is None or value is False


def _one_dtype(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with its dtype under one name, whatever its generation called it."""
    found = dict(config)
    older = found.pop("torch_dtype", None)
    return {**found, "dtype": found.get("dtype") or older}


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


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, (np.integer, np.floating)):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
