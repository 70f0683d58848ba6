"""Rotary frequencies on a longer head: every old pair keeps its own.

Pair i of a head of size d turns with θ^(-2i/d), stored as coordinates i and i + d/2, or as neighbours 2i and 2i + 1.
On size d' = k·d the pair k·i has that frequency at the same θ; on any even d' the first d/2 pairs have it at
θ' = θ^(d'/d). What the
frequencies become is computed here and compared, so that a scaling whose frequencies depend on d in another way
(yarn's rounded range, for one) is refused and not approximated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

from grow.errors import Refused
from grow.notation.rope_parameters import FRACTION_OF_PAIRS, HOMES, SPELLED, rope_of

# θ^(d'/d) is rounded to float64 once; frequencies then agree to a few 1e-16, far below this.
FREQUENCY_TOLERANCE = 1e-12
ALPHA = "alpha"  # what "dynamic" means to stock code that reads an alpha: one θ · alpha^(d/(d-2)) at every length
SAME_THETA = ("default", "linear", "llama3", "longrope", ALPHA)
ANY_SIZE = (*SAME_THETA, "yarn")


@dataclass(frozen=True)
class RopeGrowth:
    """`place[i]` is where old coordinate i of q and k lies; `config` the changed fields; `how` for the plan's table."""

    place: np.ndarray
    config: dict[str, Any]
    how: str


def grow_rope(ropes: Mapping[str, Mapping[str, Any]], d: int, d2: int, style: str) -> RopeGrowth:
    """Rotations on a head grown d -> d2, the same places in every kind of layer.

    ropes  kind of layer -> the config as this kind reads it, "" for a model with one rotation for all
    style  "half" (coordinates i and i + d/2), "pairs" (2i and 2i + 1), "partial" (of the first coordinates alone) or
           "table" (2i and 2i + 1, with angles that no config says)
    """
    if style == "table":
        return grow_table(d, d2)
    if style == "partial":
        grown = {kind: grow_partial(config, d, d2) for kind, config in ropes.items()}
    else:
        alike = len(ropes) == 1 or all(rope_of(config)["rope_type"] in SAME_THETA for config in ropes.values())
        grown = {kind: grow_whole(config, d, d2, style, keep=alike) for kind, config in ropes.items()}
    first = next(iter(grown.values()))
    if "" in grown:
        return first
    changes: dict[str, Any] = {}
    for kind, one in grown.items():
        own = dict(one.config)
        if "rope_parameters" in own:
            changes["rope_parameters"] = {**changes.get("rope_parameters", {}), kind: own.pop("rope_parameters")}
        changes |= own
    how = (
        first.how
        if len({one.how for one in grown.values()}) == 1
        else "; ".join(f"{kind}: {one.how}" for kind, one in grown.items())
    )
    return RopeGrowth(first.place, changes, how)


def pair_by_pair(d: int, style: str) -> np.ndarray:
    """The coordinates of a head that turns as a whole, those of a pair next to each other."""
    return np.arange(d) if style == "pairs" else np.arange(d).reshape(2, d // 2).T.ravel()


def grow_whole(config: Mapping[str, Any], d: int, d2: int, style: str = "half", *, keep: bool = True) -> RopeGrowth:
    """Rotation of whole heads grown d -> d2, both even; `style` as in `grow_rope`.

    keep  θ where d divides d2
    """
    rope = rope_of(config)
    kind = _kind(rope)
    _check_known(rope, kind, d, d2)
    pairs = np.arange(d // 2)
    new = dict(rope)
    if kind == "dynamic":
        step, rest = divmod(d2 - 2, d - 2)
        if rest:
            near = [2 + c * (d - 2) for c in (step, step + 1) if c > 1]
            raise _refused(
                kind,
                d,
                d2,
                "θ depends on d/(d-2) beyond the trained length",
                "head_dim=" + " or ".join(map(str, near)),
            )
        pairs = pairs * step
        new["rope_theta"] = rope["rope_theta"] ** (d2 * (d - 2) / (d * (d2 - 2)))
        how = f"pair i -> {step}i, θ -> {new['rope_theta']:.6g}"
    elif keep and d2 % d == 0 and kind in SAME_THETA:
        step, wanted = d2 // d, d / (d - 2)
        pairs = pairs * step
        how = f"pair i -> {step}i, θ kept"
        _stretch(new, lambda factors: [x for x in factors for _ in range(step)])
    else:
        new["rope_theta"], wanted = float(rope["rope_theta"]) ** (d2 / d), d2 / (d - 2)
        how = f"pairs first, θ -> θ^({d2}/{d}) = {new['rope_theta']:.6g}"
        _stretch(new, lambda factors: [*factors, *[1.0] * (d2 // 2 - len(factors))])
    if kind == ALPHA:
        new["rope_theta"] = new["rope_theta"] * rope["alpha"] ** (wanted - d2 / (d2 - 2))
        how = f"{how.partition(',')[0]}, θ -> {new['rope_theta']:.6g}"
    for long in (False, True):
        before, after = inv_freq(rope, d, config, long=long), inv_freq(new, d2, config, long=long)
        if kind == "dynamic" and long:
            continue  # proved by the equation above; its stock frequencies depend on the length of each input
        worst = float(np.max(np.abs(after[pairs] / before - 1)))
        if not worst <= FREQUENCY_TOLERANCE:
            raise _refused(
                kind,
                d,
                d2,
                f"a frequency of the old pairs would change by {worst:.1e} of itself",
                "keep head_dim",
            )
    halves = np.stack([2 * pairs, 2 * pairs + 1], axis=1) if style == "pairs" else np.stack([pairs, pairs + d2 // 2])
    return RopeGrowth(halves.ravel(), _edited(config, rope, new), how)


def grow_partial(config: Mapping[str, Any], d: int, d2: int) -> RopeGrowth:
    """The rotated width stays, new coordinates pass through: the fraction becomes (rotated + ½) / d2.

    The half keeps int(d2 · fraction) from falling below the width by a rounding of the fraction.
    """
    rope = rope_of(config)
    rotated = int(d * rope.setdefault("partial_rotary_factor", 1.0))
    new = {**rope, "partial_rotary_factor": (rotated + 0.5) / d2}
    if int(d2 * new["partial_rotary_factor"]) != rotated:
        raise _refused(rope["rope_type"], d, d2, "no fraction gives the old rotated width", "another head_dim")
    return RopeGrowth(
        np.arange(d), _edited(config, rope, new), f"{rotated} rotated coordinates kept, new ones pass through"
    )


def grow_table(d: int, d2: int) -> RopeGrowth:
    """Rotation by a table of the checkpoint: old pairs stay in front, and new ones turn as they do."""
    if d2 % 2:
        raise _refused("table", d, d2, "coordinates turn in pairs", f"head_dim={d2 + 1}")
    return RopeGrowth(np.arange(d), {}, "pairs first, new ones turn as the old ones")


def inv_freq(rope: Mapping[str, Any], d: int, config: Mapping[str, Any], *, long: bool = False) -> np.ndarray:
    """(d/2,) float64 frequencies; modeling_rope_utils.py of transformers 5.23, in float64."""
    theta, kind = float(rope["rope_theta"]), _kind(rope)
    if kind == ALPHA:
        theta *= rope["alpha"] ** (d / (d - 2))
    plain: np.ndarray = theta ** -(np.arange(0, d, 2) / d)
    factor: float = rope.get("factor", 1.0)
    if kind == "linear":
        return plain / factor
    if kind == "longrope":
        return plain / np.asarray(rope["long_factor" if long else "short_factor"], dtype=np.float64)
    if kind == "llama3":
        length = rope["original_max_position_embeddings"]
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        smooth = np.clip((length * plain / (2 * math.pi) - low) / (high - low), 0, 1)
        blended: np.ndarray = (1 - smooth) * plain / factor + smooth * plain
        return blended
    if kind == "yarn":
        length = float(rope.get("original_max_position_embeddings") or config["max_position_embeddings"])

        def turns(beta: float) -> float:
            return d * math.log(length / (beta * 2 * math.pi)) / (2 * math.log(theta))

        low, high = turns(rope.get("beta_fast") or 32), turns(rope.get("beta_slow") or 1)
        if rope.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, d - 1)
        ramp = np.clip((np.arange(d // 2) - low) / ((high - low) or 0.001), 0, 1)
        ramped: np.ndarray = plain / factor * ramp + plain * (1 - ramp)
        return ramped
    return plain


def check_positions(config: Mapping[str, Any], p: int, p2: int) -> None:
    """Refused where stock code computes frequencies or the attention factor from `max_position_embeddings`."""
    rope = rope_of(config)
    kind = _kind(rope)
    stated = any("original_max_position_embeddings" in (config.get(home) or {}) for home in HOMES)
    if kind in ("default", "linear", ALPHA, *FRACTION_OF_PAIRS) or (stated and kind in ("llama3", "yarn")):
        return
    raise Refused(
        "max_position_embeddings",
        what=f"{p} -> {p2} with rope_type={kind!r} is not exact",
        why="stock code scales the rotation by it",
        fix=f"leave max_position_embeddings at {p}",
    )


def _kind(rope: Mapping[str, Any]) -> str:
    """The type of a rotation as it computes, see `ALPHA`."""
    return ALPHA if rope["rope_type"] == "dynamic" and rope.get("alpha") else str(rope["rope_type"])


def _check_known(rope: Mapping[str, Any], kind: str, d: int, d2: int) -> None:
    if d % 2 or d2 % 2:
        raise _refused(kind, d, d2, "coordinates turn in pairs", f"head_dim={d2 + 1}")
    if kind not in (*ANY_SIZE, "dynamic"):
        raise _refused(kind, d, d2, f"known rope types: {', '.join((*ANY_SIZE, 'dynamic'))}", "keep head_dim")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise _refused(kind, d, d2, "a partial rotation is not read by this family's stock code", "keep head_dim")


def _stretch(rope: dict[str, Any], change: Callable[[list[float]], list[float]]) -> None:
    for name in ("short_factor", "long_factor"):
        if name in rope:
            rope[name] = change(list(rope[name]))


def _edited(config: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of config.json to change, edited in every place where this config has them."""
    changes: dict[str, Any] = {}
    homes = [name for name in HOMES if config.get(name) not in (None, {})]
    for name, value in new.items():
        if old.get(name) == value:
            continue
        pairs = [dict(zip(SPELLED, pair)) for pair in config.get("rope_spellings", (SPELLED,))]
        spots = [pair[name] for pair in pairs if name in pair and config.get(pair[name]) is not None]
        inside = [home for home in homes if name in config[home]]
        changes |= dict.fromkeys(spots, value)
        if not spots and not inside:
            inside = homes[:1]
        for home in inside:
            changes.setdefault(home, deepcopy(dict(config[home])))[name] = value
        if not spots and not inside:
            if spot := dict(zip(SPELLED, config.get("rope_spelling", SPELLED))).get(name, name):
                changes[spot] = value
            else:  # no field of its own
                changes.setdefault("rope_parameters", {"rope_type": new["rope_type"]})[name] = value
    return changes


def _refused(kind: str, d: int, d2: int, why: str, fix: str) -> Refused:
    return Refused("head_dim", what=f"{d} -> {d2} with rope_type={kind!r} is not exact", why=why, fix=fix)
