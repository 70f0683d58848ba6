"""What takes long is tried with one of each construction; no fact that a table states is left out by that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from models import LONG, VARIANTS

import grow
from grow.architectures.family import Family
from grow.notation.axes import Concatenation, Fixed, Product, Space

pytestmark = pytest.mark.quick


def facts(family: Family) -> set[object]:
    """What a table and its facts state, without names and sizes."""
    attention, norm, experts = family.attention, family.norm, family.experts
    stated: set[object] = {(norm.kind, norm.writes_stream, norm.affine != "always")}
    stated |= {("rope", attention.rope, attention.rotated != "")}
    stated |= {("q and k", attention.whole_norm, attention.turned_norm)}
    stated |= {("scores", attention.scaled != "always", attention.index_scaled != "never")}
    stated |= {
        *(("follows", axis, str(law), law.when) for axis, laws in family.size_laws.items() for law in laws),
        *((type(listed), listed.needed) for listed in family.layer_lists),
    }
    stated |= {("attends", family.attends), ("scored", len(family.scored))}
    stated |= {("kinds of RoPE", len(family.rope_kinds)), ("bare", norm.bare == "always")}
    stated |= {("tie", family.tie is not None and len(family.tie.norms))}
    if experts:
        stated |= {
            (
                "experts",
                bool(experts.shared),
                experts.layers and tuple(map(bool, vars(experts.layers).values())),
                experts.normed == "always",
            )
        }
    for row in family.rows:
        stated |= {("root", row.root), ("stacked", row.signature.stacked)}
        for dim in row.signature.dims:
            stated |= {(dim.role, dim.offset, dim.behind), *shape(dim.space), *(label.side for label in dim.labels)}
    return stated


def shape(space: Space) -> Iterator[object]:
    """How a dimension is put together."""
    if isinstance(space, Fixed):
        yield "fixed rows"
    elif isinstance(space, (Product, Concatenation)):
        inner = space.factors if isinstance(space, Product) else space.parts
        yield type(space), tuple(type(part) for part in inner)
        for part in inner:
            yield from shape(part)


def test_every_fact_is_in_the_list():
    every, listed = (
        {fact for kind in kinds for fact in facts(grow.families[kind])}
        for kinds in (grow.families, {VARIANTS[variant].model_type for variant in LONG})
    )
    assert every - listed == set()
