"""What the defaults behind a growth are worth: a small Llama is trained, doubled and trained on, several ways.

    python tests/benchmarks/bench_defaults.py --seeds 3

Validation loss after 300 steps of WSD, per seed and on average; the source is the same for all. A model of 1/6 million
parameters on 700,000 tokens, none twice, shows directions, not sizes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

import grow
from grow.data import prepare
from grow.zoo import bundled_path

SIZES = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 16}
LARGE = {"hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 6, "num_key_value_heads": 6}
SOURCE: dict[str, Any] = dict(batch=16, length=64, eval_every=30, save_every=10**4, keep=1)
PEAK = 4e-3  # of the source
FRESH: dict[str, Any] = dict(state="drop", warmup=30, rewarm=None)
CARRIED: dict[str, Any] = dict(state="carry", warmup=0, rewarm=None)
ARMS: dict[str, dict[str, Any]] = {
    "fresh optimizer, peak kept": FRESH,
    "fresh optimizer, half the peak": FRESH | {"lr": PEAK / 2},
    "fresh optimizer, a quarter": FRESH | {"lr": PEAK / 4},
    "fresh optimizer, re-warmed": FRESH | {"rewarm": (1.25, 30)},
    "fresh optimizer, mup": FRESH | {"rates": "mup"},
    "moments carried, peak kept": CARRIED,
    "moments carried, half the peak": CARRIED | {"lr": PEAK / 2},
    "moments carried, re-warmed": CARRIED | {"rewarm": (1.25, 30)},
    "moments carried, implied rates": CARRIED | {"rates": "implied"},
}


def source(folder: Path) -> Path:
    """A checkpoint of 400 steps from random weights."""
    config = transformers.AutoConfig.from_pretrained(bundled_path("small"))
    config.update({**SIZES, "num_hidden_layers": 3, "dtype": "float32"})
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder / "init")
    transformers.AutoTokenizer.from_pretrained(bundled_path("small")).save_pretrained(folder / "init")
    prepare(["sotu"], tokenizer="small", out=folder / "tokens", validation=0.05, seed=0)
    options = dict(steps=400, warmup=20, lr=PEAK, seed=9, schedule="constant", **SOURCE)
    return grow.train(folder / "init", folder / "tokens", out=folder / "source", **options).checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grown = grow.widen(source(folder), LARGE, out=folder / "grown", verify=False)
        print("parameters: {:,} -> {:,}".format(*grown.plan.parameters), flush=True)
        for k, (arm, options) in enumerate(ARMS.items()):
            losses = []
            for seed in range(seeds):
                how = {"steps": 300, "decay": 60, "lr": PEAK, **SOURCE, **options, "seed": seed}
                losses.append(grow.train(grown.path, folder / "tokens", out=folder / f"{k}-{seed}", **how).val_loss)
            each = "  ".join(f"{loss:.3f}" for loss in losses)
            print(f"{arm:<32} {statistics.mean(losses):.3f}   ({each})", flush=True)


if __name__ == "__main__":
    main()
