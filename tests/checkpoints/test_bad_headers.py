"""Every malformed safetensors header ends in one message that names the culprit and a way out."""

import json
import random
import tracemalloc
from pathlib import Path

import pytest
from malformed import GOOD, check_message, entry, framed, write_single

from grow.checkpoint.reader import SINGLE, open_checkpoint
from grow.errors import BadInput
from grow.files.header import read_header

pytestmark = pytest.mark.quick


def nothing(path: Path) -> None:
    pass


W = {"w": entry()}
DATA = bytes(32)
TWICE = '{"w": %s, "w": %s}' % (json.dumps(entry()), json.dumps(entry()))  # noqa: UP031

HEADER_FAULTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "seven-bytes": (b"\0" * 7, "7 bytes are too short"),
    "length-only": (b"\2" + b"\0" * 7, "8 bytes are too short"),
    "length-zero": (framed("", DATA), "header begins with"),
    "length-huge": (b"\xff" * 8 + b"{}", "claims a header of 18,446,744,073,709,551,615 bytes"),
    "length-over-100MB": ((10**8 + 1).to_bytes(8, "little") + b"{}", "at most 100,000,000"),
    "length-beyond-file": ((1000).to_bytes(8, "little") + b"{}", "truncated: 10 of at least 1,008 bytes"),
    "not-utf8": (framed(b'{"\xff\xfe": 1}'), "is not UTF-8 at byte 2"),
    "not-json": (framed("{w: 1}"), "is not JSON"),
    "bom": (framed(b"\xef\xbb\xbf{}"), "header begins with"),
    "padded-front": (framed(" {}"), "header begins with"),
    "nul-padding": (framed("{}\0\0"), "is not JSON"),
    "two-values": (framed("{}{}"), "is not JSON"),
    "deep": (framed('{"w":' + "[" * 500_000 + "]" * 500_000 + "}"), "nested"),
    "deepish": (framed('{"w":' + "[" * 100 + "]" * 100 + "}"), "nested"),
    "long-integer": (framed('{"w": {"shape": [%s]}}' % ("9" * 10_000)), "thousands of digits"),
    "nan": (framed('{"w": {"shape": [NaN]}}'), "the number NaN"),
    "infinite": (framed('{"w": {"shape": [1e999]}}'), "the number 1e999"),
    "duplicate-tensor": (framed(TWICE, DATA), "key 'w' occurs twice"),
    "duplicate-field": (framed('{"w": {"dtype": "F32", "dtype": "F16"}}'), "key 'dtype' occurs twice"),
    "metadata-not-strings": (framed({"__metadata__": {"n": 1}}), "__metadata__"),
    "metadata-list": (framed({"__metadata__": []}), "__metadata__"),
    "entry-list": (framed({"w": []}), "w: wanted dtype, shape, data_offsets"),
    "entry-field-missing": (framed({"w": {"dtype": "F32"}}), "w: wanted dtype, shape, data_offsets"),
    "entry-field-unknown": (framed({"w": {**entry(), "stride": 1}}, DATA), "stride"),
    "name-empty": (framed({"": entry()}, DATA), "empty or not Unicode"),
    "name-surrogate": (framed(b'{"\\ud800": 1}'), "\\ud800: the name of a tensor is empty or not Unicode"),
    "dtype-unknown": (framed({"w": entry(dtype="F37")}, DATA), "w: dtype 'F37' is not supported"),
    "dtype-near": (framed({"w": entry(dtype="BF15")}, DATA), "did you mean 'BF16'?"),
    "dtype-list": (framed({"w": entry(dtype=["F32"])}, DATA), "is not supported"),
    "shape-overflow": (framed({"w": entry((2**62, 8))}, DATA), "overflows"),
    "shape-overflow-zero": (framed({"w": entry((2**62, 8, 0), (0, 0))}), "overflows"),
    "shape-beyond-int64": (framed({"w": entry((2**63,))}, DATA), "w: shape [9223372036854775808]"),
    "shape-negative": (framed({"w": entry((-2, -4))}, DATA), "w: shape [-2, -4]"),
    "shape-float": (framed({"w": entry((2.0, 4))}, DATA), "w: shape [2.0, 4]"),
    "shape-bool": (framed({"w": entry((True, 8))}, DATA), "w: shape [True, 8]"),
    "shape-number": (framed({"w": {**entry(), "shape": 8}}, DATA), "w: shape 8"),
    "shape-of-100000-axes": (framed({"w": entry((2**62,) * 100_000)}, DATA), "up to 32 integers"),
    "offsets-three": (framed({"w": entry(offsets=(0, 16, 32))}, DATA), "w: data_offsets [0, 16, 32]"),
    "offsets-negative": (framed({"w": entry(offsets=(-32, 0))}, DATA), "w: data_offsets [-32, 0]"),
    "offsets-reversed": (framed({"w": entry(offsets=(32, 0))}, DATA), "span -32 bytes"),
    "offsets-wrong-size": (framed({"w": entry(offsets=(0, 16))}, DATA), "span 16 bytes; F32 [2, 4] takes 32"),
    "offsets-out-of-range": (framed({"w": entry((2**40,), (0, 2**42))}, DATA), "truncated: "),
    "overlap": (framed({"a": entry(), "b": entry(offsets=(16, 48))}, bytes(48)), "b: overlaps a"),
    "same-place": (framed({"a": entry(), "b": entry()}, DATA), "overlaps"),
    "gap": (framed({"a": entry(), "b": entry(offsets=(40, 72))}, bytes(72)), "b: leaves a gap of 8 bytes"),
    "gap-at-start": (framed({"a": entry(offsets=(8, 40))}, bytes(40)), "a: leaves a gap of 8 bytes"),
    "truncated": (GOOD[:-5], f"truncated: {len(GOOD) - 5} of {len(GOOD)} bytes"),
    "trailing": (GOOD + b"PK\3\4", "4 trailing bytes"),
    "zip": (b"PK\3\4\x14" + bytes(60), "a zip archive as torch.save writes it (a pickle)"),
    "pickle": (b"\x80\x02}q\0(X\5\0\0\0" + bytes(60), "a pickle, not safetensors"),
    "gguf": (b"GGUF\3\0\0\0" + bytes(60), "a GGUF file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(60), "an HDF5 file"),
    "lfs-pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
    "html": (b"<!DOCTYPE html><html><body>404", "HTML"),
}


@pytest.mark.parametrize("fault", HEADER_FAULTS)
def test_header_fault_is_named_and_costs_nothing(fault, tmp_path):
    raw, what = HEADER_FAULTS[fault]
    path = write_single(tmp_path) / SINGLE
    path.write_bytes(raw)
    with pytest.raises(BadInput) as direct:
        read_header(path)
    check_message(direct.value, str(path), what)
    tracemalloc.start()
    with pytest.raises(BadInput) as found:
        open_checkpoint(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(found.value) == str(direct.value)
    assert peak < 100_000 + 60 * len(raw)


def random_fault(rng: random.Random) -> bytes:
    """A sound file with a few bytes flipped, cut, inserted, or its length replaced."""
    raw = bytearray(GOOD)
    end = 8 + int.from_bytes(GOOD[:8], "little")
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(min(end, len(raw)) or 1)
        match rng.randrange(5):
            case 0:
                raw[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                raw[at : at + 1] = rng.choice(b'{}[]",:0123456789eE-. \\').to_bytes(1, "little")
            case 2:
                del raw[at:]
            case 3:
                raw[at:at] = rng.randbytes(rng.randint(1, 4))
            case 4:
                raw[:8] = rng.getrandbits(rng.randint(1, 64)).to_bytes(8, "little")
    return bytes(raw)


def test_random_damage_of_the_header_is_survived(tmp_path):
    rng, path, refused = random.Random(0), tmp_path / "x.safetensors", 0
    tracemalloc.start()
    for _ in range(250):
        raw = random_fault(rng)
        path.write_bytes(raw)
        try:
            tensors, _ = read_header(path)
        except BadInput as error:
            refused += 1
            check_message(error, str(path), "")
        else:
            assert sum(info.nbytes for info in tensors.values()) == len(raw) - min(
                (info.offset for info in tensors.values()), default=len(raw)
            )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > 180
    assert peak < 1_000_000
