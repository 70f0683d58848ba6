"""The golden file itself: one safetensors file, distrusted when read.

    __metadata__           {"format": "grow-golden", "golden": JSON of `Golden`, "sha256": of all that follows}
    inputs/PROBE/NAME      the input, the smallest integers that hold it
    counted/PROBE          which positions are not padding; encoder_counted/PROBE where an encoder has others
    outputs/PROBE/NAME/…   the parts of a sketch, see `sketch.py`
    hidden/PROBE/LAYER/…   the same of the hidden states

The same content is the same bytes, so a golden file that is recorded again changes in git only where it changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from grow.errors import BadInput
from grow.files.finished import keep
from grow.files.header import open_regular, parse_header, read_exactly, show, strict_json
from grow.files.owned import check_file
from grow.notation.dtypes import FILE_DTYPES
from grow.spelling import command, option
from grow.verification.golden import sketch
from grow.verification.golden.content import SCHEMA, Floor, Golden, Sketches, StoredProbe, pack, unpack
from grow.verification.golden.sketch import Sketch

FORMAT = "grow-golden"
MARKS = (f'{{"__metadata__":{{"format":"{FORMAT}"'.encode(),)  # how the header of each begins
LARGEST = 1 << 26  # bytes; one of the default budgets has 10^5.5


def _record_again() -> str:
    return f"record it again where the source is: {command('record')}"


def check_target(path: Path, overwrite: bool) -> None:
    """What can be refused before a model is loaded."""
    if not path.parent.is_dir():
        raise BadInput(
            show(path), what=f"{show(path.parent)} is not a folder", why="the file is created in it",
            fix=f"mkdir -p {show(path.parent)}",
        )  # fmt: skip
    if path.is_dir() or (os.path.lexists(path) and not path.is_file()):
        raise BadInput(show(path), what="is not a file", why="a golden file is a file", fix="another name")
    if path.exists() and not overwrite:
        raise BadInput(
            show(path),
            what="exists",
            why="it is replaced only where that is asked for",
            fix=f"{option(overwrite=True)}, or another name",
        )
    check_file(
        path, show(path), "a golden file", MARKS, f"{option(overwrite=True)} replaces what {command('record')} wrote"
    )


def write(golden: Golden, *, overwrite: bool = False) -> None:
    """The file is there complete, or as it was before."""
    document, arrays = _document(golden)
    text = json.dumps(document, allow_nan=False, ensure_ascii=False)
    header: dict[str, Any] = {
        "__metadata__": {"format": FORMAT, "golden": text, "sha256": _digest(text, arrays)},
    }
    at = 0
    codes = {kind: code for code, (_, kind) in FILE_DTYPES.items() if kind is not None and code != "BF16"}
    for name, value in sorted(arrays.items()):
        entry = {"dtype": codes[value.dtype], "shape": list(value.shape), "data_offsets": [at, at + value.nbytes]}
        header[name], at = entry, at + value.nbytes
    start = json.dumps(header, separators=(",", ":")).encode()
    start += b" " * (-len(start) % 8)
    partial = golden.path.with_name(f".{golden.path.name[:200]}.grow-partial")
    check_target(golden.path, overwrite)
    try:
        with open(partial, "wb") as file:
            file.write(len(start).to_bytes(8, "little") + start)
            for _, value in sorted(arrays.items()):
                file.write(np.ascontiguousarray(value).tobytes())
            file.flush()
            os.fsync(file.fileno())
        check_target(golden.path, overwrite)
        os.replace(partial, golden.path)
        keep(golden.path)
    except OSError as error:
        why = error.strerror or "the disk"
        raise BadInput(show(golden.path), what="cannot be written", why=why, fix="make room, or another name") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def read(path: str | os.PathLike) -> Golden:
    """The golden file, every part of it checked against the others. BadInput when it is not one, or damaged."""
    path = Path(path)
    where = show(path)
    try:
        fd = open_regular(path)
    except BadInput as error:
        why = error.why or "it holds the answers to compare with"
        raise BadInput(error.where, what=error.what, why=why, fix=_record_again()) from None
    try:
        size = os.fstat(fd).st_size
        if size > LARGEST:
            raise BadInput(
                where, what=f"has {size:,} bytes", why=f"a golden file has at most {LARGEST:,}", fix=_record_again()
            )
        try:
            infos, metadata = parse_header(fd, path)
        except BadInput as error:
            raise BadInput(error.where, what=error.what, why=error.why, fix=_record_again()) from None
        if metadata.get("format") != FORMAT:
            raise BadInput(
                where,
                what="is a safetensors file, not a golden file",
                why=f"its format is not {FORMAT}",
                fix=_record_again(),
            )
        arrays = {}
        for name, info in infos.items():
            kind = FILE_DTYPES[info.dtype][1]
            if kind is None:
                raise BadInput(
                    where,
                    what=f"{show(name)} has dtype {info.dtype}",
                    why="a golden file never has it",
                    fix=_record_again(),
                )
            raw = read_exactly(fd, info.nbytes, info.offset, f"{where}: {show(name)}")
            arrays[name] = np.frombuffer(raw, kind).reshape(info.shape)
    finally:
        os.close(fd)
    text = metadata.get("golden", "")
    document = strict_json(text.encode("utf-8", "surrogatepass"), f"{where}: golden", _record_again())
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise BadInput(
            where, what=f"schema {show(schema, 40)}, this version reads {SCHEMA}",
            why="a newer or an older grow wrote it", fix=f"pip install -U grow-transformers, or {_record_again()}",
        )  # fmt: skip
    if metadata.get("sha256") != _digest(text, arrays):
        raise BadInput(where, what="is damaged", why="its sha256 is not the one that it names", fix=_record_again())
    try:
        return _golden(path, document, arrays)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise BadInput(
            where,
            what="is not a record of a model's answers",
            why=f"{type(error).__name__}: {show(error)}",
            fix=_record_again(),
        ) from None


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name, value in sorted(arrays.items()):
        digest.update(f"\n{name} {value.dtype.str} {value.shape}\n".encode("utf-8", "surrogatepass"))
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _document(golden: Golden) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON document and the arrays of a file."""
    arrays: dict[str, np.ndarray] = {}
    probes: dict[str, dict[str, Any]] = {}
    for probe, one in golden.probes.items():
        arrays[f"counted/{probe}"] = one.counted.astype(np.uint8)
        if one.encoder_counted is not None:
            arrays[f"encoder_counted/{probe}"] = one.encoder_counted.astype(np.uint8)
        probes[probe] = {}
        for name, value in one.inputs.items():
            arrays[f"inputs/{probe}/{name}"], scale = pack(value)
            probes[probe][name] = [value.dtype.name, scale]
    for kind, sketches in (("outputs", golden.outputs), ("hidden", golden.hidden)):
        arrays |= {f"{kind}/{key}/{part}": v for key, kept in sketches.kept.items() for part, v in kept.items()}
    document = {
        "schema": SCHEMA,
        "source": golden.source,
        "seed": golden.seed,
        "asked": probes,
        "skipped": golden.skipped,
        "outputs": {"shapes": golden.outputs.shapes, "std": golden.outputs.std},
        "hidden": {"shapes": golden.hidden.shapes, "std": golden.hidden.std, "none": golden.no_hidden},
        "floors": {dtype: asdict(floor) for dtype, floor in golden.floors.items()},
        "tokenizer": golden.tokenizer,
        "environment": golden.environment,
    }
    return document, arrays


def _golden(path: Path, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Golden:
    """The document and its arrays as one; ValueError and its like where they do not belong together."""
    left = dict(arrays)
    probes = {}
    for probe, inputs in document["asked"].items():
        counted, encoder = left.pop(f"counted/{probe}"), left.pop(f"encoder_counted/{probe}", None)
        for mask in (counted, *([] if encoder is None else [encoder])):
            if mask.dtype != np.uint8 or mask.ndim not in (2, 3) or len(mask) != len(counted) or not mask.any():
                raise ValueError(f"counted/{probe} is {mask.dtype} {mask.shape}")
        values = {
            name: unpack(left.pop(f"inputs/{probe}/{name}"), float(scale), dtype)
            for name, (dtype, scale) in inputs.items()
        }
        if not values or any(value.shape[:1] != counted.shape[:1] for value in values.values()):
            raise ValueError(f"inputs/{probe} has not {len(counted)} rows")
        probes[probe] = StoredProbe(values, counted.astype(bool), None if encoder is None else encoder.astype(bool))
    outputs, hidden = (_sketches(kind, document[kind], probes, left) for kind in ("outputs", "hidden"))
    if left or not outputs.shapes:
        raise ValueError(f"belongs to nothing: {show(min(left))}" if left else "no output")
    source, tokenizer = document["source"], document["tokenizer"]
    floors = {
        str(dtype): Floor(float(floor["outputs"]), {str(k): float(v) for k, v in floor["hidden"].items()})
        for dtype, floor in document["floors"].items()
    }
    if any(floor.hidden.keys() != hidden.std.keys() for floor in floors.values()):
        raise ValueError("floors of other layers")
    if not (
        isinstance(source["config"], dict) and isinstance(source["class"], str) and isinstance(tokenizer, dict | None)
    ):
        raise ValueError("source or tokenizer")
    return Golden(
        path,
        {**source, "name": str(source["name"]), "ignored": [str(name) for name in source["ignored"]]},
        int(document["seed"]),
        probes,
        {str(k): str(v) for k, v in document["skipped"].items()},
        outputs,
        hidden,
        str(document["hidden"]["none"]),
        floors,
        tokenizer,
        dict(document["environment"]),
    )


def _sketches(
    kind: str, stated: Mapping[str, Any], probes: Mapping[str, StoredProbe], left: dict[str, np.ndarray]
) -> Sketches:
    shapes = {str(key): (int(n), int(width)) for key, (n, width) in stated["shapes"].items()}
    std = {str(name): float(value) for name, value in stated["std"].items()}
    kept: dict[str, Sketch] = {}
    for key, (n, width) in shapes.items():
        probe, name = key.rsplit("/", 1)
        if probe not in probes or not std[name] > 0:
            raise ValueError(f"{key} belongs to no probe, or its std is {std[name]}")
        parts = {part: left.pop(f"{kind}/{key}/{part}", None) for part in sketch.PARTS}
        kept[key] = {part: value for part, value in parts.items() if value is not None}
        sketch.check(kept[key], n, width)
    if std.keys() != {key.rsplit("/", 1)[1] for key in shapes}:
        raise ValueError(f"{kind}: std of other outputs")
    return Sketches(shapes, std, kept)
