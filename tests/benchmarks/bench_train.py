"""Tokens per second of `grow.train` against a bare PyTorch loop on the same model and the same batches.

    python tests/benchmarks/bench_train.py                       small, 8 sequences of 256 tokens
    python tests/benchmarks/bench_train.py --from base --steps 20

does     trains in turn with grow.train and with the shortest loop that does the same arithmetic (forward, cross
         entropy, backward, AdamW with the same groups, clipping), each several times; no evaluation, one checkpoint
gives    median tokens per second of the steps behind the first three, and their ratio; a table on stderr, JSON on
         stdout
gave     measured 2026-11-23, small, 2 CPU cores that others used too, one thread: 4,446 and 3,829 tokens per second,
         ratio 1.16; of the five pairs 0.97, 0.96, 1.14, 1.22, 1.20
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch
import transformers

import grow
from grow.data import Corpus, Loader, prepare
from grow.files.locate import locate
from grow.training.step.parameter_groups import BETAS, decayed

FIRST = 3  # steps in which memory is found and caches fill


def bare(folder: Path, tokens: Path, steps: int, batch: int, length: int) -> float:
    """Tokens per second of a loop as one writes it by hand."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    decay = decayed(model)
    named = dict(model.named_parameters())
    groups = [
        {"params": [p for n, p in named.items() if decay[n] is on], "weight_decay": 0.1 * on} for on in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=BETAS)
    loader = Loader([Corpus.open(tokens).split("train")], length=length, batch=batch)
    times = []
    for step in range(steps):
        began = time.perf_counter()
        ids = torch.from_numpy(loader.batch(step).ids)
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        times.append(time.perf_counter() - began)
    return batch * length / statistics.median(times[FIRST:])


def ours(folder: Path, tokens: Path, run: Path, steps: int, batch: int, length: int) -> float:
    """The same of grow.train, from its own metrics."""
    options = dict(steps=steps, batch=batch, length=length, lr=1e-4, eval_every=10**6, save_every=10**6)
    grow.train(folder, tokens, out=run, **options)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(line["tokens_per_second"] for line in lines[1 + FIRST :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="src", default="small", help="checkpoint")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    folder, rates = locate(given.src), {"grow.train": [], "bare loop": []}
    sizes = given.steps, given.batch, given.length
    with tempfile.TemporaryDirectory(prefix="grow-bench-") as text:
        tokens = Path(text) / "tokens"
        prepare(["sotu-heldout"], tokenizer=folder, out=tokens, validation=0.05)
        for k in range(given.runs):
            rates["grow.train"].append(ours(folder, tokens, Path(text) / f"run-{k}", *sizes))
            rates["bare loop"].append(bare(folder, tokens, *sizes))
            print(f"{k}: " + ", ".join(f"{name} {r[-1]:,.0f}" for name, r in rates.items()), file=sys.stderr)
    found = {name: statistics.median(r) for name, r in rates.items()}
    document = {
        "date": str(date.today()),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "source": given.src,
        **{k: getattr(given, k) for k in ("steps", "batch", "length", "runs")},
        "tokens_per_second": {name: round(value, 1) for name, value in found.items()},
        "ratio": round(found["grow.train"] / found["bare loop"], 3),
    }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
