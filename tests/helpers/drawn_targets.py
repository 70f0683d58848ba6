"""Targets and options of a growth, drawn per variant from a fixed seed, and how exact its outputs must be."""

from __future__ import annotations

import math

from models import VARIANTS, seeded

import grow
from grow.architectures.architecture import Architecture

# 40 roundings of 2^-53 in a row, on outputs of order 1, and some: measured 2e-15 to 4e-14.
EXACT = 1e-12
# One rounding to float32 per weight, 2^-24, through two layers: measured up to 6e-7.
FLOAT32 = 1e-5

WHOLE = ("olmo2", "olmo3", "flex_olmo", "minimax_m2")  # one norm over all heads: whole copies
UNITS = ("copies", "unread")


def free(variant: str) -> bool:
    """Whether head_dim is a size of its own, and not hidden / heads."""
    kind, _, fields, _ = VARIANTS[variant]
    source = Architecture(grow.families[kind], fields)
    return source.family.attends and "head_dim" not in source.followed


def context(variant: str) -> str:
    """What sits on the hidden axis: "rms" or "layernorm", or "plain" where it grows by whole multiples alone."""
    kind, auto, fields, _ = VARIANTS[variant]
    return Architecture(grow.families[kind], fields).of_class(auto.removeprefix("AutoModel")).hidden_context


def rooted(kind: str) -> bool:
    """Whether stock code of a model type multiplies a table by √hidden, which rounds unless hidden grows by 4^k."""
    return any(row.root for row in grow.families[kind].rows)


def exact_factor(kind: str) -> str:
    """The smallest whole factor by which all widths grow without rounding."""
    return "4x" if rooted(kind) else "2x"


def divides(variant: str) -> bool:
    """Whether the stock config wants hidden % heads == 0, although head_dim is a field."""
    return grow.families[VARIANTS[variant].model_type].divides


def grows(variant: str, axis: str) -> bool:
    """Whether a model has this axis, and its family lets it grow on its own, if only by whole multiples."""
    kind, _, fields, _ = VARIANTS[variant]
    source = Architecture(grow.families[kind], fields)
    refused = {refusal.axis for refusal in source.refusals if not refusal.multiples}
    return axis in source.sizes and axis not in {*source.followed, *refused}


def step_of_heads(variant: str) -> int:
    """The step in which head_dim grows: some norms of q and k want whole multiples."""
    kind, _, fields, _ = VARIANTS[variant]
    source = Architecture(grow.families[kind], fields)
    return source.sizes["head_dim"] if any(r.axis == "head_dim" and r.multiples for r in source.refusals) else 1


def stays(variant: str, axis: str) -> bool:
    """Whether its family does not let an axis of a model grow, not even as it follows from others."""
    kind, _, fields, _ = VARIANTS[variant]
    return axis in {refusal.axis for refusal in Architecture(grow.families[kind], fields).refusals}


def own(variant: str, to: dict) -> dict:
    """The target without sizes that follow from the others."""
    kind, _, fields, _ = VARIANTS[variant]
    followed = Architecture(grow.families[kind], fields).followed
    return {axis: size for axis, size in to.items() if axis not in followed}


def alibi(variant: str) -> bool:
    """Whether each head has a slope of its own, so that none can be another one's copy."""
    kind, _, fields, _ = VARIANTS[variant]
    return Architecture(grow.families[kind], fields).alibi


def followed(variant: str) -> set[str]:
    """The axes of a model whose sizes follow from others."""
    kind, _, fields, _ = VARIANTS[variant]
    return set(Architecture(grow.families[kind], fields).followed)


def sizes_of(variant: str) -> dict[str, int]:
    kind, _, fields, _ = VARIANTS[variant]
    return Architecture(grow.families[kind], fields).sizes


def draw_free(variant: str) -> dict[str, tuple[dict, dict]]:
    """name -> (target, options) for the families whose axes are independent."""
    r, old = seeded(variant), sizes_of(variant)
    n, h, k, d, f = (old[a] for a in ("hidden", "heads", "kv_heads", "head_dim", "ffn"))
    g = h // k

    plain, fresh = context(variant) == "plain", "mean" if context(variant) == "layernorm" else "silent"

    def fitting(heads: int, hidden: int = n) -> int:
        """The next hidden that some configs want to be hidden % heads == 0, and some norms a whole multiple."""
        step = math.lcm(heads if divides(variant) else 1, n if plain else 1)
        return -(-hidden // step) * step

    def other(hidden: int, heads: int = h) -> int:
        hidden = fitting(heads, hidden)
        return hidden if hidden % n or plain else fitting(heads, hidden + 1)

    def heads(h2: int, k2: int) -> dict:
        return {"heads": h2, "kv_heads": k2, "hidden": fitting(h2)}

    any_dim = d + 2 * r.randint(1, 3)
    if variant == "llama-dynamic":
        any_dim = 2 + 3 * (d - 2)
    any_dim = -(-any_dim // step_of_heads(variant)) * step_of_heads(variant)
    wide, more, new_kv = g + r.randint(1, 3), r.randint(1, 2), k + r.randint(1, 3)
    exact, even = {"split": "exact"}, {"split": "even"}
    cases = {
        "hidden-2x": ({"hidden": 2 * n}, exact),
        "hidden-3x": ({"hidden": 3 * n}, even),
        f"hidden-2x-{fresh}": ({"hidden": 2 * n}, {"operators": {"hidden": fresh}}),
        f"hidden-any-{fresh}": ({"hidden": other(n + r.randint(1, n - 1))}, {}),
        "hidden-any-copies": ({"hidden": other(n + r.randint(1, 2 * n))}, {"operators": {"hidden": "copies"}}),
        "bigger-groups": (heads(k * wide, k), exact),
        "bigger-groups-copies": (heads(k * wide, k), {"operators": {"heads": "copies"}}),
        "new-groups": (heads(new_kv * g, new_kv), even),
        "new-groups-copies": (heads(new_kv * g, new_kv), {"operators": {"heads": "copies"}}),
        "repeat-kv": (heads(2 * h, 2 * h) if h == k else heads(h, h), exact),
        "smaller-groups": (heads(2 * k * -(-g // 2), k * -(-g // 2)), exact),
        "head_dim-any": ({"head_dim": any_dim}, {}),
        "ffn-any": ({"ffn": f + r.randint(1, 2 * f)}, exact),
        "ffn-any-copies": ({"ffn": f + r.randint(1, 2 * f)}, {"operators": {"ffn": "copies"}, "split": "even"}),
    }
    if "kv_heads" in followed(variant):  # each head has k and v of its own
        cases = {name: case for name, case in cases.items() if "groups" not in name}
        cases["heads-any"] = (heads(h + r.randint(1, h), 0), {"operators": {"heads": r.choice(UNITS)}})
        del cases["heads-any"][0]["kv_heads"], cases["repeat-kv"]
    if variant == "llama-dynamic":
        cases["head_dim-2x"] = ({"head_dim": 2 + 2 * (d - 2)}, {})
    else:
        cases["head_dim-2x"] = ({"head_dim": 2 * d}, {})
        cases["head_dim-3x"] = ({"head_dim": 3 * d}, {})
    for axis in ("expert_ffn", "shared_ffn"):
        if axis in old:
            cases[f"{axis}-any"] = ({axis: old[axis] + r.randint(1, 9)}, {"operators": {axis: r.choice(UNITS)}})
    if grows(variant, "experts"):
        cases["experts-2x"] = ({"experts": 2 * old["experts"]}, exact)
        cases["experts-3x"] = ({"experts": 3 * old["experts"], "hidden": fitting(h, 2 * n), "ffn": f + 3}, even)
    if "kv_heads" not in grow.families[VARIANTS[variant].model_type].axes:  # every head has keys of its own
        cases = {name: case for name, case in cases.items() if not name.startswith(("bigger", "repeat", "smaller"))}
        wide, g = 1, 1
    if VARIANTS[variant].model_type in WHOLE:
        copies = {"heads": 2 * h, "kv_heads": 2 * k}
        cases = {name: case for name, case in cases.items() if not case[0].keys() & {"hidden", "heads"}}
        cases |= {
            "hidden-2x": ({"hidden": 2 * n}, exact),
            "hidden-3x": ({"hidden": 3 * n}, even),
            "heads-2x": (copies, exact),
            "repeat-kv": ({"heads": h, "kv_heads": h}, even),
            "together-0": (copies | {"hidden": 3 * n, "head_dim": any_dim, "ffn": f + 5}, exact),
        }
        return cases
    for i in range(2):
        h2, k2 = (k + more) * wide, k + more
        target = {"heads": h2, "kv_heads": k2, "hidden": other(n + r.randint(1, 2 * n), h2)}
        if "kv_heads" in followed(variant):
            del target["kv_heads"]
        target |= {"ffn": f + r.randint(1, f), "head_dim": any_dim}
        operators = {"ffn": r.choice(("copies", "unread")), "heads": r.choice(("copies", "unread"))}
        if i:
            target["hidden"] = fitting(h2, 2 * n)
            operators["hidden"] = r.choice(("copies", fresh)) if not plain else "copies"
        cases[f"together-{i}"] = (target, {"operators": operators, "split": r.choice(("exact", "even"))})
    if fresh == "mean":  # copies in unequal numbers have another mean
        del cases["hidden-any-copies"]
    if plain:
        cases = {k: case for k, case in cases.items() if not k.startswith((f"hidden-2x-{fresh}", "hidden-any"))}
    if not grows(variant, "head_dim"):
        for target, _ in cases.values():
            target.pop("head_dim", None)
        cases = {name: case for name, case in cases.items() if case[0]}
    return {name: (own(variant, to), how) for name, (to, how) in cases.items() if own(variant, to)}


def draw_derived(variant: str) -> dict[str, tuple[dict, dict]]:
    """name -> (target, options) where head_dim = hidden / heads."""
    r, old = seeded(variant), sizes_of(variant)
    n, h, k, d, f = (old[a] for a in ("hidden", "heads", "kv_heads", "head_dim", "ffn"))
    family, found = grow.families[VARIANTS[variant].model_type], context(variant)
    whole, halves = h if family.attention.whole_norm else 1, family.attention.rope in ("half", "pairs")

    source = Architecture(family, VARIANTS[variant].fields)
    own_kv = "kv_heads" not in source.followed and k > 1

    def grown(heads: int, dim: int) -> dict[str, int]:
        """Groups of query heads stay as large as they are."""
        kv = {"kv_heads": heads * k // h} if own_kv else {}
        return {"heads": heads, "hidden": heads * dim, **kv}

    def pick(accept) -> dict[str, int]:
        step = math.lcm(whole, h // k if own_kv else 1, family.shares.get("heads", 1))
        shapes = [(a, b) for a in range(h, 3 * h + 1) for b in range(d, 3 * d + 1) if accept(a * b, a, b)]
        return grown(
            *r.choice(
                [
                    (a, b)
                    for a, b in shapes
                    if a % step == 0 and not (halves and b % 2) and b % step_of_heads(variant) == 0
                ]
            )
        )

    exact, even = {"split": "exact"}, {"split": "even"}
    copied = "unread" if source.alibi else "copies"  # no two heads have one slope
    mixed = {"split": r.choice(("exact", "even")), "operators": {"ffn": "copies", "heads": copied}}
    cases = {
        "heads-2x": (grown(2 * h, d), exact),
        f"heads-3x-{copied}": (grown(3 * h, d), {"operators": {"heads": copied}}),
        "head_dim-2x": ({"hidden": 2 * n}, even),
        "head_dim-3x": ({"hidden": 3 * n, "ffn": f + r.randint(1, f)}, mixed),
        "ffn-any": ({"ffn": f + r.randint(1, 2 * f)}, exact),
        "ffn-any-copies": ({"ffn": f + r.randint(1, 2 * f)}, {"operators": {"ffn": "copies"}, "split": "even"}),
        "both": (pick(lambda m, a, b: m % n == 0 and a > h and b > d), mixed),
    }
    if k != h and own_kv:
        cases["repeat-kv"] = ({"kv_heads": h}, exact)
    if grows(variant, "experts"):
        cases["experts-2x"] = ({"experts": 2 * old["experts"]}, exact)
        cases["experts-3x"] = ({"experts": 3 * old["experts"], "hidden": 2 * n, "ffn": f + 3}, even)
    if found != "plain" and whole == 1:
        cases["heads-any"] = (pick(lambda m, a, b: m % n and a > h and b == d), exact)
    if found != "plain":
        cases |= {
            "head_dim-any": (pick(lambda m, a, b: m % n and a == h), even),
            "together": (pick(lambda m, a, b: m % n and a > h and b > d) | {"ffn": f + r.randint(1, f)}, mixed),
            "mean-2x": ({"hidden": 2 * n}, {"operators": {"hidden": "mean" if found == "layernorm" else "silent"}}),
        }
    if "ffn" in source.followed:
        cases = {name: ({a: m for a, m in to.items() if a != "ffn"}, how) for name, (to, how) in cases.items()}
    if stays(variant, "head_dim"):  # then hidden grows with the heads alone
        cases = {name: (to, how) for name, (to, how) in cases.items() if to.get("hidden", n) == to.get("heads", h) * d}
    return {name: (to, how) for name, (to, how) in cases.items() if to}


def draw_headless(variant: str) -> dict[str, tuple[dict, dict]]:
    """name -> (target, options) of a family without attention."""
    r, old, family = seeded(variant), sizes_of(variant), grow.families[VARIANTS[variant].model_type]
    n, units = old["hidden"], [axis for axis in family.units if grows(variant, axis)]
    widths = [*units, *(axis for axis in family.scored if grows(variant, axis))]
    found = Architecture(family, VARIANTS[variant].fields).contexts
    exact, even = {"split": "exact"}, {"split": "even"}
    cases = {
        "hidden-2x": ({"hidden": 2 * n}, exact),
        "hidden-3x": ({"hidden": 3 * n}, even),
        "hidden-2x-silent": ({"hidden": 2 * n}, {"operators": {"hidden": "silent"}}),
        "hidden-any-silent": ({"hidden": n + r.randint(1, n - 1)}, {}),
        "hidden-any-copies": ({"hidden": n + r.randint(1, n - 1)}, {"operators": {"hidden": "copies"}}),
    }
    cases |= {f"{axis}-any": ({axis: old[axis] + r.randint(1, 2 * old[axis])}, exact) for axis in widths}
    cases |= {
        f"{axis}-any-copies": ({axis: old[axis] + r.randint(1, 2 * old[axis])}, {"operators": {axis: "copies"}, **even})
        for axis in units
    }
    for i in range(2):
        target = {axis: old[axis] + r.randint(1, old[axis]) for axis in ("hidden", *widths)}
        operators = {axis: r.choice(UNITS if found[axis] == "elementwise" else ("copies", "silent")) for axis in units}
        cases[f"together-{i}"] = (target, {"operators": operators, "split": r.choice(("exact", "even"))})
    return cases


def draw(variant: str) -> dict[str, tuple[dict, dict]]:
    """Every kind of growth for a head over the vocabulary; two of them for the other heads of the same trunk."""
    attends = grow.families[VARIANTS[variant].model_type].attends
    drawn = draw_headless if not attends else draw_free if free(variant) else draw_derived
    cases = drawn(variant)
    if VARIANTS[variant].auto not in ("AutoModelForCausalLM", "AutoModelForMaskedLM"):
        exact = next(c for c in ("together-0", "together", "both") if c in cases)
        return {"hidden-2x": ({"hidden": 2 * sizes_of(variant)["hidden"]}, {}), exact: cases[exact]}
    return cases
