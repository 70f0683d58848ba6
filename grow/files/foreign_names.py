"""Tensor names and layouts of checkpoints that `save_pretrained` did not write.

`told` finds the reason and what to do about it: quantised weights, adapters that were not merged, wrappers around the
model. None of these is a damaged download.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


class Reason(NamedTuple):
    """Why names or dtypes are those of no stock class: `what` is wrong, `why` that matters and the `fix`."""

    what: str
    why: str
    fix: str


WRAPPERS = {
    "_orig_mod.": ("torch.compile", "model._orig_mod"),
    "module.": ("DistributedDataParallel, DataParallel or DeepSpeed", "model.module"),
    "_fsdp_wrapped_module.": ("FullyShardedDataParallel", "accelerator.unwrap_model(model)"),
    "_checkpoint_wrapped_module.": ("activation checkpointing", "what is inside of the wrapped blocks"),
}
"""What a wrapper puts into names -> whose it is, and what it wraps."""

ADAPTER = re.compile(
    r"(^|\.)(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|base_layer|modules_to_save)(\.|$)|_adapter\."
)
QUANTISED = re.compile(
    r"\.(qweight|qzeros|g_idx|scales|weight_scale|weight_scale_inv|input_scale|weight_packed|weight_shape|SCB|absmax|"
    r"quant_map|nested_absmax|nested_quant_map|quant_state\.[\w.]+)$|_(blocks|scales)$"
)
NARROW = re.compile(r"F[468](_\w{1,12})?|[IU][48]")
UNQUANTISED = """use the checkpoint that it was made from or, where the quantiser's library is installed:
python -c "import transformers as t; c = t.AutoConfig.from_pretrained('SRC')
getattr(t, c.architectures[0]).from_pretrained('SRC').dequantize().save_pretrained('DST')\""""
CAST = """use the checkpoint that it was made from. Where these numbers are the weights, stock code stores them so:
python -c "import transformers as t; c = t.AutoConfig.from_pretrained('SRC')
getattr(t, c.architectures[0]).from_pretrained('SRC', dtype='{dtype}').save_pretrained('DST')\""""
MERGE = """merge the adapter into its base model with merge_and_unload:
python -c "import transformers as t; from peft import PeftModel; m = t.{cls}.from_pretrained('{base}')
PeftModel.from_pretrained(m, '{adapter}').merge_and_unload().save_pretrained('DST')\""""
UNMERGED = "model.merge_and_unload().save_pretrained('DST') where it was trained; or with its adapter's folder: " + (
    MERGE.partition(":\n")[2].format(cls="AutoModelForCausalLM", base="BASE", adapter="ADAPTER")
)
PLAIN = re.compile(r"[\w./@:+~ =,-]{1,300}")
"""Paths and names that can stand in a command as they are."""
RENAME = """{inside}.save_pretrained('DST') where it was trained, or take the word out of the names in each file:
python -c "from safetensors.torch import load_file, save_file; f = 'SRC/model.safetensors'
save_file({{k.replace('{word}', ''): v for k, v in load_file(f).items()}}, f, {{'format': 'pt'}})\""""


def in_command(path: object, unknown: str = "SRC") -> str:
    """A path as it may stand in a command that people copy; a word in its place where a shell would read more in it."""
    return str(path) if PLAIN.fullmatch(str(path)) else unknown


def told(names: Iterable[str], dtypes: Iterable[str] = (), where: str = "SRC") -> Reason | None:
    """The reason why `names` are not those of a model, or `dtypes` no floating point; None for no such reason.

    where  the folder, for commands
    """
    where = in_command(where)
    names, narrow = [_printable(name) for name in names], sorted({dtype for dtype in dtypes if NARROW.fullmatch(dtype)})
    for name in names:
        if hit := QUANTISED.search(name):
            why = f"{hit[0]} belongs to integers or 8-bit floats that stand for weights; growth is exact for plain ones"
            return Reason(f"has quantised weights ({name})", why, UNQUANTISED.replace("SRC", where))
    if narrow:
        kind = "8-bit floats" if narrow[0].startswith("F8") else "narrow numbers"
        fix = CAST.format(dtype="bfloat16") if narrow[0].startswith("F8") else UNQUANTISED
        return Reason(
            f"has quantised weights ({', '.join(narrow)})",
            f"growth is exact only for plain weights; {kind} mostly mean something together with scales alone",
            fix.replace("SRC", where),
        )
    for name in names:
        if ADAPTER.search(name) or name.startswith("base_model.model."):
            return Reason(
                f"is a PEFT model whose adapter was not merged ({name})",
                "an adapter is a difference to a base model; growth needs the sum",
                UNMERGED,
            )
    for name in names:
        if word := wrapper_in(name):
            who, inside = WRAPPERS[word]
            return Reason(
                f"has names with {word!r} in them, which {who} leaves there ({name})",
                "stock loading knows no such name: it leaves these tensors out and begins with random weights",
                RENAME.format(word=word, inside=inside).replace("SRC", where),
            )
    return None


def _printable(name: str) -> str:
    return (name if name.isprintable() else ascii(name)[1:-1])[:200]


def wrapper_in(name: str) -> str:
    """What a wrapper has put into a name, "" where none has."""
    if name.startswith("module."):
        return "module."
    return next((word for word in WRAPPERS if word != "module." and re.search(rf"(^|\.){re.escape(word)}", name)), "")
