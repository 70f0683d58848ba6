"""What computes the same function is called lossless: every family, dtype, kind of target, operator and split, and
pairs that stock code has read and written since.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny as files
import transformers
from drawn_targets import context, exact_factor, grows, own
from models import KINDS, LONG, VARIANTS

import grow
from grow.architectures import FAMILIES
from grow.architectures.architecture import Architecture
from grow.models.true_float64 import quiet
from grow.verification.verdict import Verification
from grow.zoo import bundled_path

RUNGS = ("certificate", "true_float64", "hidden_states")
OUTPUTS = ("certificate", "true_float64")
DTYPES = ("float32", "bfloat16", "float16", "float64")
COPIES = {"operators": {"ffn": "copies", "heads": "copies"}}
EACH_FFN = {"operators": {"ffn": "copies"}}


def targets(variant: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    """name -> (target, options): each axis alone, all at once, and every operator and split."""
    facts = FAMILIES[VARIANTS[variant].model_type]
    source = Architecture(facts, VARIANTS[variant].fields)
    old, derived = source.sizes, "head_dim" in source.followed
    if not facts.attends:
        return {
            "2x": ("2x", {}),
            "3x, shared evenly": ("3x", {"split": "even"}),
            "2x, every copy": ("2x", {"operators": dict.fromkeys(facts.units, "copies"), "seed": 7}),
            "units": ({axis: 2 * old[axis] + 3 for axis in facts.units}, {}),
            "any hidden": ({"hidden": old["hidden"] + 5}, {"seed": 3}),
        }
    n, h, k, d, f = (old[axis] for axis in ("hidden", "heads", "kv_heads", "head_dim", "ffn"))
    found: dict[str, tuple[Any, dict[str, Any]]] = {
        "2x": ("2x", {}),
        "3x, shared evenly": ("3x", {"split": "even"}),
        "ffn": (own(variant, {"ffn": 2 * f + 3}) or "2x", {"operators": {"ffn": "copies"}}),
        "2x, every copy": ("2x", {**(EACH_FFN if source.alibi else COPIES), "seed": 7}),
    }
    plain = context(variant) == "plain"
    if plain and not derived:  # whole copies
        return found | {
            "heads": ({"heads": 2 * h, "kv_heads": 2 * k}, {}),
            "head_dim": ({"head_dim": 2 * d}, {}),
            "any hidden": ({"hidden": 5 * n}, {"seed": 3}),
        }
    if facts.attention.whole_norm:
        more = {"heads": 2 * h, "kv_heads": 2 * k, "hidden": 2 * n}
        return found | {"heads": (more, {}), "any hidden": ({"hidden": n + 2 * h}, {"seed": 3})}
    if not derived:
        heads = {"heads": h + h // k, "kv_heads": k + 1}
        # Llama's config wants heads that divide hidden
        hidden = next(m for m in range(n + 1, 4 * n) if m % heads["heads"] == 0 and m % n)
        wide = {"head_dim": 2 * d} if grows(variant, "head_dim") else {"hidden": 2 * n, "ffn": f + 1}
        return found | {
            "heads": (heads | {"hidden": hidden // heads["heads"] * heads["heads"]}, {}),
            "head_dim": (wide, {}),
            "any hidden": ({"hidden": n + h}, {"seed": 3}),
        }
    heads = own(variant, {"heads": 2 * h, "hidden": 2 * n, "ffn": f + 1})
    found |= {"heads": (heads, {}), "head_dim": ({"hidden": 2 * n}, {})}
    if plain:
        return found | {"4x": ("4x", {"seed": 3})}
    more = facts.shares.get("heads", 2)
    return found | {"any hidden": ({"hidden": n + more * d, "heads": h + more}, {"seed": 3})}


LADDER = ("2x", "2x, every copy")
WHOLE = [  # every two of variant, dtype and target meet, and for some variants all three
    (variant, dtype, name)
    for i, variant in enumerate(LONG)
    for j, dtype in enumerate(("float32", "bfloat16"))
    for k, name in enumerate(LADDER)
    if (i + j + k) % 2 == 0 or i % 3 == 0
]
NUMBERED = {
    (variant, dtype, name): i + j + k
    for i, variant in enumerate(KINDS)
    for j, dtype in enumerate(DTYPES)
    for k, name in enumerate(name for name in targets(variant) if name not in LADDER[1:])
}
# A half and a quarter of the product, in each of which every two of variant, dtype and target meet.
FEW = ("units",)  # targets of so few variants that every pair of them stands in the list
PAIRS = [case for case, number in NUMBERED.items() if number % 2 == 0 or case[2] in FEW]
LOOKED_INTO = [case for case in PAIRS if NUMBERED[case] % 4 == 0 or case[2] in ("4x", *FEW)]
SEEDS = [(variant, seed) for seed, variant in enumerate(LONG, 1)]
SAVED = [(variant, shard) for variant in LONG for shard in ("5GB", "20KB")]


def alarms(
    source: Path, folder: Path, cases: Mapping[str, tuple[Any, dict[str, Any]]], verify: Callable[..., Verification]
) -> dict[str, Any]:
    """Target -> what is wrong, for the growths that are not called lossless."""
    found = {}
    for name, (to, options) in cases.items():
        grown = grow.widen(source, to, out=folder / "grown", verify=False, overwrite=True, **options).path
        result = verify(source, grown)
        if (result.verdict, result.exit_code) != ("lossless", 0):
            found[name] = result.verdict, [f"{c.name}: {c.reason}" for c in result.checks if c.status == "fail"]
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", KINDS)
def test_every_growth_is_lossless(variant, dtype, tiny, tmp_path):
    """Hidden states are compared for half of the growths, in which every two of variant, dtype and target meet too."""
    for rungs, pairs in ((RUNGS, LOOKED_INTO), (OUTPUTS, [case for case in PAIRS if case not in LOOKED_INTO])):
        cases = {name: targets(variant)[name] for v, d, name in pairs if (v, d) == (variant, dtype)}
        assert alarms(tiny(variant, dtype), tmp_path, cases, partial(grow.verify, rungs=rungs)) == {}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("variant", KINDS)
def test_the_whole_ladder_passes(variant, dtype, tiny, tmp_path):
    cases = {name: targets(variant)[name] for v, d, name in WHOLE if (v, d) == (variant, dtype)}
    assert alarms(tiny(variant, dtype), tmp_path, cases, grow.verify) == {}


@pytest.mark.parametrize(("variant", "to"), [("qwen3", "head_dim=24"), ("roberta-mlm", "4x")])
def test_twins_that_part_slowly_are_not_locked(variant, to, tiny, tmp_path):
    grown = grow.widen(tiny(variant), to, out=tmp_path / "grown", verify=False).path
    found = grow.verify(tiny(variant), grown, rungs=("trainability",))
    assert (found.trainable, found.exit_code) == (True, 0)


def reached(variant: str, factor: str) -> str | dict[str, int]:
    """That factor; without heads where one bucket is that of no distance: nothing else tells a new head's bias.

    Heads four times as wide scale their scores by 2, which rounds nothing.
    """
    fields = VARIANTS[variant].fields
    old = Architecture(FAMILIES[VARIANTS[variant].model_type], fields).sizes
    return {axis: int(factor[:-1]) ** 2 * old[axis] for axis in ("hidden", "ffn")} if "buckets" in old else factor


@pytest.mark.parametrize(("variant", "seed"), SEEDS)
def test_other_probes_find_nothing_either(variant, seed, tiny, tmp_path):
    grown = grow.widen(tiny(variant), reached(variant, "2x"), out=tmp_path / "grown", verify=False).path
    found = grow.verify(tiny(variant), grown, rungs=("true_float64", "hidden_states"), seed=seed)
    assert (found.verdict, found.exit_code) == ("lossless", 0)


@pytest.mark.parametrize("variant", KINDS)
def test_without_grow_json_a_bit_exact_growth_is_lossless(variant, tiny, tmp_path):
    to = reached(variant, exact_factor(VARIANTS[variant].model_type))
    grown = grow.widen(tiny(variant), to, out=tmp_path / "grown", verify=False).path
    (grown / "grow.json").unlink()
    found = grow.verify(tiny(variant), grown, rungs=OUTPUTS)
    assert (found.verdict, found.exit_code) == ("lossless", 0)


@pytest.mark.parametrize("variant", ["llama-base", "gpt2-base", "bert-base"])
def test_without_grow_json_hidden_outputs_of_another_width_are_not_called_different(variant, tiny, tmp_path):
    grown = grow.widen(tiny(variant), "2x", out=tmp_path / "grown", verify=False).path
    assert grow.verify(tiny(variant), grown, rungs=OUTPUTS).verdict == "lossless"
    (grown / "grow.json").unlink()
    assert grow.verify(tiny(variant), grown, rungs=OUTPUTS).verdict == "lossless"


def saved_again(folder: Path, to: Path, **options: Any) -> Path:
    """What stock code writes after reading a checkpoint, with the grow.json of that."""
    with quiet():
        config = transformers.AutoConfig.from_pretrained(folder)
        getattr(transformers, config.architectures[0]).from_pretrained(folder).save_pretrained(to, **options)
    shutil.copy(folder / "grow.json", to)
    return to


@pytest.mark.parametrize(("variant", "shard"), SAVED)
def test_a_growth_that_stock_code_saved_again_is_lossless(variant, shard, tiny, tmp_path):
    grown = grow.widen(tiny(variant), "2x", out=tmp_path / "grown", verify=False).path
    again = saved_again(grown, tmp_path / "again", max_shard_size=shard)
    assert (again / "model.safetensors.index.json").exists() == (shard == "20KB")
    found = grow.verify(tiny(variant), again, rungs=OUTPUTS)
    assert (found.verdict, found.exit_code) == ("lossless", 0)


def sparse(folder: Path, to: Path, variant: str) -> Path:
    """The same checkpoint with a config that leaves defaults out, as those of the hub do."""
    shutil.copytree(folder, to)
    keep = {*VARIANTS[variant].fields, "model_type", "architectures", "dtype"}
    keep |= {*FAMILIES[VARIANTS[variant].model_type].synonyms.values()}
    whole = files.read_json(folder / "config.json")
    files.write_json(to / "config.json", {name: value for name, value in whole.items() if name in keep})
    return to


@pytest.mark.parametrize("variant", KINDS)
def test_a_default_that_one_config_spells_out_is_no_difference(variant, tiny, tmp_path):
    short = sparse(tiny(variant), tmp_path / "short", variant)
    for pair in ((tiny(variant), short), (short, tiny(variant))):
        found = grow.verify(*pair, rungs=OUTPUTS)
        assert (found.verdict, found.exit_code) == ("lossless", 0)


@pytest.mark.parametrize("variant", KINDS)
def test_with_grow_json_a_default_that_stock_code_spells_out_is_no_difference(variant, tiny, tmp_path):
    short = sparse(tiny(variant), tmp_path / "short", variant)
    grown = grow.widen(short, "2x", out=tmp_path / "grown", verify=False).path
    assert grow.verify(short, grown, rungs=OUTPUTS).verdict == "lossless"
    assert grow.verify(short, saved_again(grown, tmp_path / "again"), rungs=OUTPUTS).verdict == "lossless"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: None, id="white space"),
        pytest.param(
            lambda t: t["model"].update(merges=[" ".join(pair) for pair in t["model"]["merges"]]), id="merges"
        ),
        pytest.param(lambda t: t["model"].update(vocab=dict(sorted(t["model"]["vocab"].items()))), id="order"),
        pytest.param(lambda t: t.update(truncation=None, padding=None), id="batching"),
    ],
)
def test_another_spelling_of_the_same_tokenizer_is_no_difference(change, tmp_path):
    source = bundled_path("small")
    other = Path(shutil.copytree(source, tmp_path / "other"))
    files.edit_json(other / "tokenizer.json", change)
    check = grow.verify(source, other, rungs=("tokenizer",)).check("tokenizer")
    assert (check.status, check.measured["identical"]) == ("pass", False)


def test_every_two_of_variant_dtype_and_target_meet():
    product = {(v, d, name) for v in KINDS for d in DTYPES for name in targets(v) if name != "2x, every copy"}
    for i, j in itertools.combinations(range(3), 2):
        pairs = {(case[i], case[j]) for case in product}
        assert {(case[i], case[j]) for case in PAIRS} == {(case[i], case[j]) for case in LOOKED_INTO} == pairs
        whole = {(v, d, name) for v in LONG for d in ("float32", "bfloat16") for name in LADDER}
        assert {(case[i], case[j]) for case in WHOLE} == {(case[i], case[j]) for case in whole}


def test_at_least_300_pairs_are_tried_and_40_of_them_on_the_whole_ladder():
    assert all(len(set(cases)) == len(cases) for cases in (PAIRS, WHOLE, SEEDS, SAVED))
    assert len(PAIRS) + len(WHOLE) + len(SEEDS) + len(SAVED) >= 300
    assert len(WHOLE) >= 40


def test_hidden_states_that_are_the_same_everywhere_are_their_own_size(tmp_path):
    source = files.checkpoint(tmp_path / "source", "llama")
    files.edit_tensor(source, "model.embed_tokens.weight", lambda raw: raw.__setitem__(..., 0.5))
    grown = grow.widen(source, "2x", out=tmp_path / "grown", verify=False).path
    check = grow.verify(source, grown, rungs=RUNGS).check("hidden_states")
    assert check.status == "pass", check.reason
    assert check.measured["differences"][0] == [0.0] * len(check.measured["probes"])
    files.edit_tensor(grown, "model.embed_tokens.weight", lambda raw: raw.__setitem__((7, 3), 0.25))
    assert grow.verify(source, grown, rungs=("hidden_states",)).check("hidden_states").status == "fail"
