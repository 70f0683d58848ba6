"""The bundled checkpoints and the texts that they were trained and measured on.

    small       Llama        small-gpt2  GPT-2        small-bert  BERT, masked LM

Each is a folder that stock transformers loads offline: config.json, model.safetensors (bfloat16) and a
byte-level tokenizer of 2048 tokens. recipes/small_models.py trained them on the State of the Union addresses;
the speeches of `heldout_text()` were kept from the models and from the tokenizer, and `results()` holds what
was measured on them.
"""

import json
import lzma
from difflib import get_close_matches
from pathlib import Path
from typing import Any

BUNDLED: dict[str, str] = {
    "small": "Llama, 1.4M parameters: 6 layers, hidden 128, 4 heads over 2 kv_heads, 256 positions",
    "small-gpt2": "GPT-2, 1.5M parameters: 6 layers, hidden 128, 4 heads, 256 positions",
    "small-bert": "BERT masked LM, 1.1M parameters: 4 layers, hidden 128, 4 heads, 256 positions",
}

TEXTS: dict[str, str] = {
    "sotu": "State of the Union addresses, 10.5 MB, what the bundled models and their tokenizer were trained on",
    "sotu-heldout": "five of these addresses, 0.3 MB, that neither has seen",
}

_HERE = Path(__file__).parent


def bundled_path(name: str) -> Path:
    """The checkpoint folder of a bundled name; a KeyError that lists the names otherwise."""
    if name not in BUNDLED:
        near = get_close_matches(name, BUNDLED, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise KeyError(f"{name!r} is not a bundled model ({', '.join(BUNDLED)}){hint}")
    return _HERE / name


def heldout_text() -> str:
    """Whole speeches that no bundled model or tokenizer has seen, blank lines between them (about 300 kB)."""
    return bundled_text("sotu-heldout")


def bundled_text(name: str) -> str:
    """One of `TEXTS`: whole speeches, blank lines between them."""
    file = {"sotu": "sotu.txt.xz", "sotu-heldout": "heldout.txt.xz"}[name]
    return lzma.decompress((_HERE / file).read_bytes()).decode()


def results() -> dict[str, Any]:
    """What was measured of each bundled model, by name: held-out scores, cost, command, date, samples."""
    loaded: dict[str, Any] = json.loads((_HERE / "results.json").read_text(encoding="utf-8"))
    return loaded
