"""The largest size of each axis that grow accepts, whether from a file or from a user.

A size may be a false claim of a file or a slip of a finger, so it is compared with this table before anything of that
size is made. Each cap is far above every known model, and a plan of that size takes some hundred megabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from grow.errors import BadInput

WIDE = 1 << 20
CAPS: Mapping[str, tuple[int, str]] = {
    "hidden": (1 << 17, "18,432"),
    "embed": (1 << 17, "18,432"),
    "heads": (1 << 14, "144"),
    "kv_heads": (1 << 14, "144"),
    "head_dim": (1 << 12, "576"),
    "ffn": (WIDE, "73,728"),
    "expert_ffn": (WIDE, "32,768"),
    "shared_ffn": (WIDE, "32,768"),
    "experts": (1 << 13, "2,048"),
    "layers": (10_000, "1,000"),
    "layer_groups": (10_000, "1"),
    "vocab": (1 << 24, "1,000,002"),
    "positions": (1 << 27, "10,485,760"),
    "types": (1 << 16, "16"),
    "buckets": (1 << 16, "512"),
    "places": (1 << 16, "1,024"),
    "task_types": (1 << 16, "16"),
    "head_width": (1 << 17, "1,664"),
    "pooler": (1 << 17, "1,536"),
    "labels": (1 << 24, "21,843"),
}
"""Axis -> (the largest size that is read, the largest one that is known of a published model)."""
UNITS = CAPS["ffn"]  # of any other axis
ROWS = 1 << 22  # of a learned table of positions; the largest known one has 16,386
HEADS_WIDTH = 1 << 19  # heads times head_dim; the largest known is 49,152
TENSORS = 1 << 18  # of a checkpoint; the largest known has some 90,000


def cap_of(axis: str, *, table: bool = False) -> int:
    """The largest size of an axis; `table`: a learned table has a row for each position."""
    return ROWS if axis == "positions" and table else CAPS.get(axis, UNITS)[0]


def fault(axis: str, size: int, *, table: bool = False) -> str:
    """Why grow does not accept a size; "" when it does."""
    cap = cap_of(axis, table=table)
    if 1 <= size <= cap:
        return ""
    known = "16,386" if cap == ROWS else CAPS.get(axis, UNITS)[1]
    return f"{axis} is from 1 to {cap:,}: the largest of a known model is {known}, and a plan is made in memory"


Written = Callable[[str, int], str]
"""A config field and its size -> the option that says so, as its caller writes it."""


def check_caps(
    sizes: Mapping[str, int], fields: Mapping[str, str], written: Written | None, *, table: bool, tensors: int
) -> None:
    """BadInput for the first size, or product of sizes, that is larger than grow looks at.

    fields   axis -> config field
    written  by whom the sizes were given; None: by config.json
    tensors  how many tensors the model has
    """

    def where(axis: str) -> str:
        name = fields.get(axis, axis)
        return written(name, sizes[axis]) if written else f"config.json: {name}"

    for axis, size in sizes.items():
        if why := fault(axis, size, table=table):
            cap, name = cap_of(axis, table=table), fields.get(axis, axis)
            fix = f"{name} from 1 to {cap}"
            if written:
                fix = f"at least {written(name, 1)}" if size < 1 else f"at most {written(name, cap)}"
            raise BadInput(where(axis), what=f"{short(size)} is out of range", why=why, fix=fix)
    if (wide := sizes.get("heads", 1) * sizes.get("head_dim", 1)) > HEADS_WIDTH:
        raise BadInput(
            where("heads"),
            what=f"{sizes['heads']:,} heads of {sizes['head_dim']:,} are {wide:,} coordinates",
            why=f"at most {HEADS_WIDTH:,} are looked at: the largest known model has 49,152",
            fix="fewer or smaller heads",
        )
    if tensors > TENSORS:
        raise BadInput(
            where("layers"),
            what=f"{sizes['layers']:,} layers"
            + (f" of {sizes['experts']:,} experts" if "experts" in sizes else "")
            + f" are {tensors:,} tensors",
            why=f"at most {TENSORS:,} are looked at: the largest known model has some 90,000",
            fix="fewer layers" + (" or experts" if "experts" in sizes else ""),
        )


def short(size: int) -> str:
    """A number of any length, readable."""
    bits = size.bit_length()
    return f"{size:,}" if bits < 100 else f"a number of about 10^{round(bits * 0.30103)}"
