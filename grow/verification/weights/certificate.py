"""The certificate: a proof from the files alone that a checkpoint is the growth that grow.json records.

The law holds on every axis, the equation of `tensor_equation` on every tensor, config.json is what the growth makes of
the source's, and every tensor has the sha256 that was recorded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from grow.errors import BadInput, GrowError, listing
from grow.files.header import show
from grow.notation.dtypes import BITS
from grow.notation.origins import Read
from grow.planning.expert_slices import uncovered
from grow.planning.tensor import TensorPlan
from grow.verification.verdict import Check
from grow.verification.weights.record_check import known_source, map_faults
from grow.verification.weights.recorded_growth import Replay
from grow.verification.weights.tensor_equation import check_tensor
from grow.verification.weights.tensor_faults import Fault, TensorCheck


def certificate(replay: Replay) -> Check:
    """The proof of a growth on weights, config and digests; or, of a lossy one, that its files are as written."""
    record = replay.record
    if record.lossy:
        return _files_as_written(replay)
    faults = [*_law_faults(replay), *_config_faults(replay), *_missing_or_misshapen(replay)]
    worst = 0.0
    first = None
    if not faults:
        # numpy lets go of the interpreter in its loops, so two tensors are proved in the time of one
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            checked = pool.map(partial(_checked, replay), replay.tensors)
            for t, (check, digest) in zip(replay.tensors, checked):
                worst = max(worst, check.worst)
                faults.extend(map(str, check.faults[:1]))
                first = first or (check.faults[0] if check.faults else None)
                if not check.faults and digest != record.tensors.get(t.name):
                    less = " or by less than the rounding of what is stored" if check.unit else ""
                    cast = " in its dtype," if t.dtype != t.old.dtype else ""
                    rule = f"sha256 is not grow.json's: differs{cast} in entries that no output reads{less}"
                    faults.append(f"{t.name}: {rule}")
                    first = first or Fault(t.name, None, None, None, 0, rule)
        faults = faults or [*_storage_faults(replay)]
    measured = {
        "tensors": len(replay.tensors),
        "largest_residual": worst,
        "faults": faults[:20],
        "faulty": len(faults),
        "first": first and first.document(),
    }
    limit = "W̃·E_in = E_out·W on every tensor, " + (
        "within the rounding of what is stored" if replay.rounded else "exactly"
    )
    return Check("certificate", "fail" if faults else "pass", measured, limit, "; ".join(faults[:3]))


def _files_as_written(replay: Replay) -> Check:
    """A growth that is not exact has no proof, only files that are the ones that were written."""
    limit = "the tensors that grow.json tells of; a method that is not exact has no certificate"
    faults = [*_config_faults(replay), *_missing_or_misshapen(replay)]
    if not faults:
        names = [t.name for t in replay.tensors]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            digests = pool.map(lambda name: replay.grown.sha256(replay.grown.tensors[name]), names)
            changed = [name for name, digest in zip(names, digests) if digest != replay.record.tensors.get(name)]
        faults = [f"{name}: sha256 is not grow.json's" for name in changed]
    measured = {"tensors": len(replay.tensors), "faults": faults[:20], "faulty": len(faults)}
    reason = "; ".join(faults[:3]) or f"declared lossy, by {replay.record.method}: {replay.record.lossy}"
    return Check("certificate", "fail" if faults else "skip", measured, limit, reason)


def _checked(replay: Replay, t: TensorPlan) -> tuple[TensorCheck, str]:
    """The equation on one tensor, and its sha256 where it holds."""
    check = check_tensor(t, replay.source, replay.grown, replay.record.split)
    among = t.origin.among if isinstance(t.origin, Read) else ()
    if check.faults and among and _as_written(replay, t.name):
        # the experts that share with it are at fault: those that are not what was written
        others = [name for name, _ in among if not _as_written(replay, name)]
        check.faults = [] if others else check.faults
    return check, "" if check.faults else replay.grown.sha256(replay.grown.tensors[t.name])


def _as_written(replay: Replay, name: str) -> bool:
    """Whether a tensor still has the bytes that were written."""
    return replay.grown.sha256(replay.grown.tensors[name]) == replay.record.tensors.get(name)


def _law_faults(replay: Replay) -> Iterator[str]:
    """Where the tensors leave part of a source unread, or the maps break the law."""
    record = replay.record
    yield from uncovered(replay.tensors, {name: info.shape for name, info in replay.source.tensors.items()})
    yield from map_faults(replay.architecture, replay.change, record.new_sizes)


def _storage_faults(replay: Replay) -> Iterator[str]:
    """Where the weights are not stored as grow.json says, rounded or not."""
    storage = "rounded" if replay.rounded else "bit-exact"
    if storage != replay.record.storage:
        why = f": {replay.rounded[0]}" if replay.rounded else ""
        yield f"grow.json: storage: found {replay.record.storage!r}, what is stored is {storage}{why}"


def _config_faults(replay: Replay) -> Iterator[str]:
    """Where the source's config is not the recorded one, or the grown config differs from it in more than this growth
    changes."""
    record, source = replay.record, replay.matched.config
    if not known_source(source, replay.grown.config, record.config_changes, record.source_config_sha256):
        where = f"config.json of the source, {show(replay.source.path, 200)}"
        yield f"{where}: was edited since it grew: its sha256 is not the one in grow.json"
    try:
        wanted = replay.config
    except GrowError as error:
        yield f"grow.json: no such growth: {error.where}: {error.what}"
        return
    recorded = {**source, **record.config_changes}
    recorded |= {name: wanted[name] for name in ("dtype", "torch_dtype") if name in wanted}  # of what is stored now
    for name in replay.differing_fields(wanted, recorded):
        if name not in record.config_changes:
            yield f"grow.json: config_changes: {name}: missing, this growth makes it {_show(wanted, name)}"
        elif wanted.get(name, None) == source.get(name, None):
            yield f"grow.json: config_changes: {name}: no growth changes it"
        else:
            yield f"grow.json: config_changes: {name}: found {recorded[name]!r}, wanted {_show(wanted, name)}"
    for field in replay.fields():
        yield f"config.json: {field['field']}: found {field['grown']!r}, wanted {field['source']!r}"
    try:
        sizes = replay.architecture.with_config(replay.grown.config).sizes
    except BadInput as error:
        yield str(error).splitlines()[0]
    else:
        for axis in sorted(record.new_sizes):
            if sizes.get(axis) != record.new_sizes[axis]:
                yield f"config.json: {axis} is {sizes.get(axis)}, grow.json says {record.new_sizes[axis]}"


def fault_of(replay: Replay, t: TensorPlan) -> dict[str, Any] | None:
    """The first element of a tensor that breaks its equation."""
    info = replay.grown.tensors.get(t.name)
    if info is None or info.shape != t.new_shape:
        return None
    faults = _checked(replay, t)[0].faults
    return faults[0].document() if faults else None


def _missing_or_misshapen(replay: Replay) -> Iterator[str]:
    """Tensors that are missing or too many, or that have another shape than the growth gives them."""
    wanted = {t.name: t for t in replay.tensors}
    missing, extra = sorted(wanted.keys() - replay.grown.tensors.keys()), sorted(replay.grown.tensors.keys() - wanted)
    if missing:
        yield f"{listing(missing)}: missing"
    if extra:
        yield f"{listing(extra)}: not written by grow"
    for name in sorted(set(wanted) & set(replay.grown.tensors)):
        shape = replay.grown.tensors[name].shape
        dtype = replay.grown.tensors[name].dtype
        if dtype not in BITS:
            yield f"{name}: has dtype {dtype}, wanted {wanted[name].dtype}"
        if shape != wanted[name].new_shape:
            yield f"{name}: has shape {shape}, wanted {wanted[name].new_shape}"


def _show(config: Mapping[str, Any], name: str) -> str:
    return repr(config[name]) if name in config else "absent"
