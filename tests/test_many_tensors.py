"""A header with very many tensors is read in a time that is linear in their number, or refused before it is parsed."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest

from grow.errors import BadInput
from grow.files import header
from grow.files.header import MAX_TENSORS, read_header


def write(path: Path, count: int, entry=lambda k: {"dtype": "BF16", "shape": [1], "data_offsets": [2 * k, 2 * k + 2]}):
    text = json.dumps({f"experts.{k}.weight": entry(k) for k in range(count)}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(2 * count))
    return path


@pytest.mark.parametrize("entry", [lambda k: {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}, lambda k: {}])
def test_too_many_are_refused_unparsed(tmp_path, monkeypatch, entry):
    monkeypatch.setattr(header, "strict_json", lambda *_: pytest.fail("parsed"))
    path = write(tmp_path / "model.safetensors", MAX_TENSORS + 1, entry)
    with pytest.raises(BadInput, match=r"lists 262,14\d tensors; at most 262,144 are read"):
        read_header(path)


def test_as_many_as_the_largest_models_have_are_read_with_a_fixed_number_of_looks_at_each(tmp_path, monkeypatch):
    # `show` makes a message, and no message is needed; garbage collections walk every entry that there is
    shown, show = [], header.show
    monkeypatch.setattr(header, "show", lambda *a: shown.append(a) or show(*a))
    path = write(tmp_path / "model.safetensors", 100_000)
    before = sum(s["collections"] for s in gc.get_stats())
    tensors, _ = read_header(path)
    assert len(tensors) == 100_000
    assert len(shown) < 10
    assert sum(s["collections"] for s in gc.get_stats()) - before < 5
    assert gc.isenabled()


def test_the_place_of_a_fault_is_still_named(tmp_path):
    def entry(k):
        return {"dtype": "BF16", "shape": [1], "data_offsets": [2 * k + 2 * (k == 3), 2 * k + 2 + 2 * (k == 3)]}

    with pytest.raises(BadInput, match=r"experts\.\d\.weight: .*(overlaps|gap)"):
        read_header(write(tmp_path / "model.safetensors", 6, entry))
    text = b'{"\\ud800":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(2))
    with pytest.raises(BadInput, match="not Unicode"):
        read_header(tmp_path / "x.safetensors")
