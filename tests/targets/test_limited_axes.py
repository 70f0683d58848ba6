"""An axis that a family says keeps its size, or grows by whole multiples alone, is refused with the reason."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from target_configs import LLAMA

from grow.architectures import FAMILIES
from grow.architectures.architecture import Architecture
from grow.architectures.facts import Refusal
from grow.architectures.match import match
from grow.errors import Refused
from grow.planning.nearest_sizes import reachable
from grow.planning.plan import plan_for

pytestmark = pytest.mark.quick

LIMITED = replace(
    FAMILIES["llama"],
    refusals=(
        Refusal("layers", "layers take turns"),
        Refusal("positions", "a table of its own"),
        Refusal("head_dim", "each layer has a θ of its own", multiples=True),
        Refusal("ffn", "units lie in groups", multiples=True),
    ),
)


def plan(to):
    source = Architecture(LIMITED, LLAMA)
    stored = {
        name: SimpleNamespace(dtype="F32", shape=row.signature.shape(source.sizes))
        for name, row in source.tensors.items()
    }
    return plan_for(match(source, stored, "here"), to)


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ({"layers": LLAMA["num_hidden_layers"] + 1}, "layers take turns"),
        ({"positions": LLAMA["max_position_embeddings"] + 1}, "a table of its own"),
        ({"head_dim": LLAMA["head_dim"] + 2}, "each layer has a θ of its own"),
        ({"ffn": LLAMA["intermediate_size"] + 1}, "units lie in groups"),
    ],
)
def test_the_reason_is_told_and_what_is_suggested_is_accepted(to, why):
    with pytest.raises(Refused) as caught:
        plan(to)
    assert caught.value.why == why
    for field, value in re.findall(r"(\w+)=(\d+)", caught.value.fix):
        plan({field: int(value)})
    source = Architecture(LIMITED, LLAMA)
    assert not reachable(source, {**source.sizes, **to})


def test_what_is_not_limited_grows():
    source = Architecture(LIMITED, LLAMA)
    to = {
        "hidden": 2 * source.sizes["hidden"],
        "ffn": 3 * source.sizes["ffn"],
        "head_dim": 2 * source.sizes["head_dim"],
    }
    assert plan(to).new_sizes == {**source.sizes, **to}
