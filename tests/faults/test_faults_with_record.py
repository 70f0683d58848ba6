"""With `grow.json` a damaged tensor of every row of every family, swapped layers and changed fields are named."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import tiny
from damaged_checkpoints import (
    ANY,
    BOTH,
    CERTIFICATE,
    CERTIFIED,
    CONFIGURED,
    FIELDS,
    GROWTHS,
    SWAPPED,
    TABLES,
    Change,
    Pair,
    Raw,
    damaged,
    forget,
    of_two_names,
    reversed_,
)
from drawn_targets import exact_factor

import grow
from grow.architectures import FAMILIES
from grow.architectures.architecture import Architecture
from grow.notation.axes import GAIN, READ, SHIFT, WRITE
from grow.notation.maps import MEAN
from grow.notation.numbers import narrow
from grow.notation.origins import Read
from grow.planning.tensor import TensorPlan
from grow.verification.verdict import Verification


def zeroed(raw: Raw) -> None:
    raw[...] = 0


def two_ulp_at(place: tuple[int, ...]) -> Change:
    """Away from zero: the bits of a float, read as an integer, are in the order of its size."""

    def two_ulp(raw: Raw) -> None:
        raw.view("<u4")[place] += 2

    return two_ulp


# With grow.json: the certificate alone, on every row of every table


def target(name: str, growth: str) -> Any:
    """What a table grows to: twice everything (or four times, where that rounds), or a size that rounds weights."""
    config = TABLES[name].config
    if growth == "2x":
        return exact_factor(config["model_type"])
    facts = FAMILIES[config["model_type"]]
    source = Architecture(facts, config)
    old, derived, plain = source.sizes, "head_dim" in source.followed, source.hidden_context == "plain"
    if plain and (derived or facts.norm.writes_stream == "always"):
        # whole multiples only; a head twice as wide scales its scores by √2
        return {"hidden": 2 * old["hidden"]}
    if derived and facts.attention.whole_norm:
        return {"hidden": old["hidden"] + 2 * old["heads"]}
    if derived:
        more = facts.shares.get("heads", 2)
        return {"hidden": old["hidden"] + more * old["head_dim"], "heads": old["heads"] + more}
    if plain:
        return {"head_dim": old["head_dim"] + 2}
    return {"hidden": old["hidden"] + old.get("heads", 7)}


def from_table(name: str, folder: Path) -> Path:
    """A checkpoint with all the tensors that a table's config allows, N(0, 1): the certificate runs no model."""
    config = TABLES[name].config
    facts = FAMILIES[config["model_type"]]
    sizes, draw = {**models.FOUND, **Architecture(facts, config).sizes}, np.random.default_rng(0)
    shapes = {tensor: row.signature.shape(sizes) for tensor, row in Architecture(facts, config).tensors.items()}
    folder.mkdir(parents=True)
    tiny.write_json(folder / "config.json", config)
    tensors = {n: tiny.Tensor("F32", narrow(draw.standard_normal(shape), "F32")) for n, shape in shapes.items()}
    tiny.write_tensors(folder, tensors)
    return folder


def grow_table(name: str, growth: str, folder: Path) -> Pair:
    source = from_table(name, folder / "source")
    grown = folder / "grown"
    return Pair(source, grown, grow.widen(source, target(name, growth), out=grown, verify=False).plan)


def last_copied(t: TensorPlan) -> tuple[int, ...]:
    """The last place of a grown tensor that comes from the old one."""
    return tuple(n - 1 if m is None else int(np.flatnonzero(m.source >= 0)[-1]) for m, n in zip(t.maps, t.new_shape))


def of_the_first(t: TensorPlan) -> tuple[int, ...]:
    """Where the first old coordinates are, which the certificate compares first."""
    first = (0 if m is None else int(np.flatnonzero(m.source == 0)[0]) for m in t.maps)
    return tuple(first)[: len(t.new_shape)]  # a number of a whole layer has no dim


def both_sides(t: TensorPlan, old: Raw, new: Raw) -> tuple[Raw, Raw]:
    """What W̃·E_in = E_out·W says at every place of the grown tensor: (found, wanted), by dense products.

    Along an axis that is read, or shared in front of a tied head, copies are summed, and the sum stands at each.
    """
    found, wanted = new.astype(np.float64) + t.offset, old.astype(np.float64) + t.offset
    wanted = wanted * (t.origin.factor if isinstance(t.origin, Read) else 1)
    for axis, (m, role) in enumerate(zip(t.maps, t.roles)):
        if m is None:
            continue
        found, wanted = np.moveaxis(found, axis, -1), np.moveaxis(wanted, axis, -1)
        copied = m.source >= 0
        spread = np.zeros((*wanted.shape[:-1], m.m))
        spread[..., copied] = wanted[..., m.source[copied]]
        if role == READ or t.tied:
            factor = {GAIN: m.write**2, SHIFT: m.write}.get(role, m.gain * m.write)
            embedding = np.zeros((m.m, m.n))
            embedding[copied, m.source[copied]] = factor[copied]
            found = np.where(copied, (found @ embedding)[..., np.maximum(m.source, 0)], found)
        else:
            spread[..., m.source == MEAN] = wanted.mean(-1, keepdims=True)
            spread *= {GAIN: m.gain, SHIFT: np.ones(m.m)}.get(role, m.write)
        found, wanted = np.moveaxis(found, -1, axis), np.moveaxis(spread, -1, axis)
    return found, wanted


def certify(pair: Pair, tensor: str, damage: str) -> tuple[Verification | None, tuple[float, float]]:
    """The certificate of the pair with one tensor damaged (None where that changes nothing), and what the equation says
    at the damaged place: found and wanted."""
    t = next(t for t in pair.plan.tensors if t.name == tensor)
    place = last_copied(t) if damage == "2 ulp" else of_the_first(t)
    change = {"2 ulp": two_ulp_at(place), "reversed": reversed_, "zeroed": zeroed}[damage]
    old, before = tiny.read_tensors(pair.source)[t.source].raw, tiny.read_tensors(pair.grown)[tensor].raw
    with damaged(pair.grown, {tensor: change}):
        after = tiny.read_tensors(pair.grown)[tensor].raw
        if after.tobytes() == before.tobytes():
            return None, (0.0, 0.0)
        found, wanted = both_sides(t, old, after)
        return grow.verify(pair.source, pair.grown, rungs=CERTIFICATE), (found[place], wanted[place])


def test_the_tables_below_have_every_row_of_every_family():
    for family, facts in FAMILIES.items():
        # of two tables that a config ties, and of what no class that grows has
        rows = {(row.name, row.when) for row in facts.rows if not {"apart", "never"} & {*row.when.split()}}
        rows = {(name, when) for name, when in rows if name not in of_two_names(facts)}
        seen = set()
        for table in (table for name, table in TABLES.items() if name.split()[0] == family):
            found = Architecture(facts, table.config).tensors
            seen |= {(found[tensor].name, found[tensor].when) for tensor in table.tensors}
        # a second name of a tied bias, which stock classes no longer write: tests/test_layouts.py stores it alone
        twins = facts.tie.biases[1:] if facts.tie else ()
        assert rows - seen <= {(name, when) for name, when in rows if name in twins and when.endswith("optional")}
        assert seen <= rows


def test_every_tensor_has_every_growth_and_every_damage():
    """The certificate looks at a tensor's maps and numbers alone, so neighbours stand for the triples that are not."""
    for name, table in TABLES.items():
        faults = [fault[1:] for fault in CERTIFIED if fault[0] == name]
        assert {(growth, tensor) for growth, tensor, _ in faults} == set(itertools.product(GROWTHS, table.tensors))
        assert {(tensor, damage) for _, tensor, damage in faults} >= set(itertools.product(table.tensors, ANY))
    assert {fault[1::2] for fault in CERTIFIED} >= set(itertools.product(GROWTHS, ANY))


def same_sides(fault: dict[str, Any], sides: tuple[float, float], offset: float) -> bool:
    """Of gains that are stored without their offset the certificate names what is stored: the differences are equal."""
    named = fault["found"], fault["wanted"]
    if not offset:
        return np.allclose(named, sides, rtol=1e-12, atol=0)
    return np.allclose(named[0] - named[1], sides[0] - sides[1], rtol=1e-9, atol=1e-15)  # 1 + w rounds


@pytest.mark.parametrize("growth", GROWTHS)
@pytest.mark.parametrize("name", TABLES)
def test_the_certificate_names_a_damaged_tensor_of_every_row_with_both_numbers(name, growth, tmp_path):
    pair = grow_table(name, growth, tmp_path)
    assert pair.plan.storage == ("bit-exact" if growth == "2x" else "rounded")
    assert grow.verify(pair.source, pair.grown, rungs=CERTIFICATE).verdict == "certified"
    wrong, rows = {}, Architecture(FAMILIES[TABLES[name].config["model_type"]], TABLES[name].config).tensors
    for _, _, tensor, damage in (fault for fault in CERTIFIED if fault[:2] == (name, growth)):
        found, sides = certify(pair, tensor, damage)
        if found is None or (found.verdict, found.exit_code) != ("different", 1):
            wrong[tensor, damage] = found and found.verdict
        elif found.first["tensor"] != tensor:
            wrong[tensor, damage] = found.first
        elif growth == "rounded" and damage == "2 ulp" and found.first["index"] is None:
            # less than the rounding of a sum: the equation cannot tell, the hash does
            if not found.first["rule"].startswith("sha256 is not grow.json's"):
                wrong[tensor, damage] = found.first
        elif not same_sides(found.first, sides, rows[tensor].signature.dims[0].offset):
            wrong[tensor, damage] = found.first, sides
    assert wrong == {}
    assert grow.verify(pair.source, pair.grown, rungs=CERTIFICATE).verdict == "certified"  # every repair was complete


@pytest.mark.parametrize("family", FAMILIES)
def test_the_certificate_points_at_the_place_or_at_another_copy_of_it(family, tmp_path):
    name = next(iter(name for name in TABLES if name.split()[0] == family))
    pair, wrong = grow_table(name, "2x", tmp_path), {}
    for t in (t for t in pair.plan.tensors if t.name in TABLES[name].tensors):
        found, place = certify(pair, t.name, "2 ulp")[0].first["index"], last_copied(t)
        for m, role, i, j in zip(t.maps, t.roles, found, place):
            same = i == j if m is None or role in (WRITE, GAIN, SHIFT) else m.source[i] == m.source[j]
            if not same:
                wrong[t.name] = found, place
    assert wrong == {}


def swap_layers(folder: Path) -> list[str]:
    """The names of all tensors of layer 0 that others have, too, after each has changed place with that of the next
    layer of its kind."""
    tensors = tiny.read_tensors(folder)
    layer = re.compile(r"^((?:(?!\d+\.)[^.]+\.)+)0\.")  # the first index; experts have a second one
    names = [name for name in tensors if layer.match(name)]
    names = [name for name in names if any(layer.sub(rf"\g<1>{k}.", name) in tensors for k in (1, 2))]
    twin = next(k for k in (1, 2) if all(layer.sub(rf"\g<1>{k}.", name) in tensors for name in names))
    for name in names:
        other = layer.sub(rf"\g<1>{twin}.", name)
        tensors[name], tensors[other] = tensors[other], tensors[name]
    tiny.write_tensors(folder, tensors)
    return names


@pytest.mark.parametrize(("variant", "way"), SWAPPED)
def test_swapped_layers_are_found(variant, way, made, tmp_path):
    source = made(variant)
    folder = Path(shutil.copytree(source if way == "same shapes" else made(variant, to="2x"), tmp_path / "swapped"))
    names = swap_layers(folder)
    if way == "outputs alone":
        forget(folder)
    found = grow.verify(source, folder, rungs=CERTIFICATE if way == "grow.json" else BOTH)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert ".0." in found.first["module"]
    if way != "outputs alone":
        assert found.first["tensor"] in names
        assert found.checks[0].measured["faulty"] == 2 * len(names)


@pytest.mark.parametrize(("variant", "field", "to"), CONFIGURED)
def test_a_changed_field_is_named(variant, field, to, made, tmp_path):
    folder = Path(shutil.copytree(made(variant, to=to), tmp_path / "changed"))
    tiny.edit_json(folder / "config.json", lambda config: config.update({field: FIELDS[variant][field]}))
    found = grow.verify(made(variant), folder, rungs=CERTIFICATE if to else BOTH)
    assert (found.verdict, found.exit_code) == ("different", 1)
    assert (found.first["field"], found.first["found"]) == (field, FIELDS[variant][field])


TIED = {variant: not models.VARIANTS[variant].fields.get("tie_word_embeddings") for variant in ("llama", "llama-tied")}


@pytest.mark.parametrize("variant", TIED)
def test_with_grow_json_a_changed_tie_is_named(variant, made, tmp_path):
    folder = Path(shutil.copytree(made(variant, to="2x"), tmp_path / "changed"))
    tiny.edit_json(folder / "config.json", lambda config: config.update(tie_word_embeddings=TIED[variant]))
    found = grow.verify(made(variant), folder, rungs=CERTIFICATE)
    assert (found.verdict, found.first["field"]) == ("different", "tie_word_embeddings")


@pytest.mark.parametrize("variant", TIED)
def test_without_grow_json_a_changed_tie_is_no_identical_config(variant, made, tmp_path):
    folder = Path(shutil.copytree(made(variant), tmp_path / "changed"))
    tiny.edit_json(folder / "config.json", lambda config: config.update(tie_word_embeddings=TIED[variant]))
    found = grow.verify(made(variant), folder, rungs=CERTIFICATE)
    assert found.verdict != "lossless"  # without its head the tied one does not even load
    assert "tie_word_embeddings" in found.checks[0].reason
