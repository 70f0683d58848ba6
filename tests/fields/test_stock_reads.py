"""What stock code reads is told alike however it is asked, and each of its files is parsed once."""

from __future__ import annotations

from collections import Counter

import pytest

from grow.architectures import stock_reads
from grow.architectures.stock_source import root_of_transformers

NAMES = ["clip_qkv", "mlp_bias", "logits_scaling", "no_such_field", "rope_no_such_field"]


@pytest.fixture
def parses(monkeypatch) -> Counter:
    """File -> how often it was parsed since the test began."""
    counted, parsed = Counter(), stock_reads.parsed

    def count(path):
        counted[path] += 1
        return parsed(path)

    monkeypatch.setattr(stock_reads, "parsed", count)
    stock_reads._source_file.cache_clear()
    return counted


def test_a_field_is_read_or_not_whatever_else_is_asked_and_no_file_is_parsed_twice(parses):
    root = root_of_transformers()
    for kind in ("llama", "granitemoe"):
        together = stock_reads.search(root, kind, NAMES)
        assert {name: stock_reads.search(root, kind, [name])[name] for name in NAMES} == together
        assert together["mlp_bias"].at_all == (kind == "llama")
        assert together["logits_scaling"].at_all == (kind == "granitemoe")
        assert not together["no_such_field"].at_all
    assert root / "configuration_utils.py" in parses
    assert root / "models/llama/configuration_llama.py" in parses
    assert max(parses.values()) == 1
