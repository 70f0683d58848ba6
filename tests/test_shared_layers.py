"""Layers that share their weights: what they cost, and that none is inserted between them."""

from __future__ import annotations

import models
import pytest

import grow
from grow.costs.of_a_model import cost_of
from grow.errors import Refused

pytestmark = pytest.mark.quick


def test_every_layer_costs_what_one_of_its_own_would(tmp_path):
    shared, apart = (
        cost_of(grow.plan(models.save("albert-mlm-shared", tmp_path / str(n), num_hidden_groups=n), "2x"))
        for n in (1, 3)
    )
    assert [cost.flops for cost in shared] == [cost.flops for cost in apart]
    assert all(few.parameters < many.parameters for few, many in zip(shared, apart))


def test_layers_that_share_their_weights_get_no_company(tmp_path):
    source = models.save("albert-mlm-shared", tmp_path / "source")
    with pytest.raises(Refused, match="layers share their weights") as caught:
        grow.deepen(source, 4, out=tmp_path / "grown")
    assert all((caught.value.where, caught.value.why, caught.value.fix))
    assert not (tmp_path / "grown").exists()
    apart = grow.plan(models.save("albert-mlm", tmp_path / "apart"), {"layers": 4})
    assert apart.config_changes == {"num_hidden_layers": (2, 4), "num_hidden_groups": (2, 4)}
