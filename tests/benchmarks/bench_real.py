"""Time and memory of the README's first example: Qwen3-0.6B to the shape of Qwen3-1.7B, plan, growth and default check.

    python tests/benchmarks/bench_real.py                    28 layers, bfloat16: 1.2 GB in, 3.4 GB out, 9 GB of disk
    python tests/benchmarks/bench_real.py --layers 2 --vocab 8000

does     writes a Qwen3 checkpoint of random bfloat16 weights, then runs, each in a process of its own: `grow plan`,
         `grow widen --no-verify`, `grow widen` with its default check, and as a baseline what one does by hand:
         both checkpoints loaded by stock transformers in float32, one pass each on 2 rows of 64 tokens
gives    seconds, CPU seconds, the largest anonymous memory (RssAnon, seen 50 times a second) and the largest resident
         set with the pages of files (wait4), and how many baselines each command costs; a table on stderr, a JSON
         document on stdout
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path

import bench_widen
from bench_widen import RSS_UNIT, write_source

TO = "hidden_size=2048,intermediate_size=6144"
PLAIN = """
import sys, torch, transformers
ids = torch.randint(1000, (2, 64), generator=torch.Generator().manual_seed(0))
for folder in sys.argv[1:]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    with torch.no_grad():
        model(input_ids=ids)
    del model
"""


def config_of(args: argparse.Namespace) -> dict:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_hidden_layers": args.layers,
        "vocab_size": args.vocab,
        "max_position_embeddings": 40960,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }


def tensors_of(config: dict) -> dict[str, tuple[int, ...]]:
    """Those of a Llama, norms of queries and keys, and no head of its own."""
    shapes = bench_widen.tensors_of(config)
    del shapes["lm_head.weight"]
    norms = (f"model.layers.{i}.self_attn.{x}_norm.weight" for i in range(config["num_hidden_layers"]) for x in "qk")
    return shapes | dict.fromkeys(norms, (config["head_dim"],))


def watched(command: list[str], env: dict[str, str]) -> dict[str, float]:
    """What a process that must succeed took."""
    os.sync()
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env)
    anonymous, done = 0, threading.Event()

    def watch() -> None:
        nonlocal anonymous
        while not done.wait(0.02):
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:
                return
            anonymous = max([anonymous, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))])

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_anonymous_bytes": anonymous,
        "peak_rss_bytes": used.ru_maxrss * RSS_UNIT,
    }


def measure(work: Path, args: argparse.Namespace) -> dict:
    here = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths}
    source, out = work / "source", work / "grown"
    print("writing the source", file=sys.stderr)
    subprocess.run([sys.executable, __file__, "--make", str(source), *sys.argv[1:]], check=True)
    grow = [sys.executable, "-m", "grow"]
    widen = [*grow, "widen", "--from", str(source), "--to", TO, "--out", str(out)]
    commands = {
        "plan": [*grow, "plan", "--from", str(source), "--to", TO],
        "widen --no-verify": [*widen, "--no-verify"],
        "plain float32": [sys.executable, "-c", PLAIN, str(source), str(out)],
        "widen": [*widen, "--overwrite"],
    }
    found = {}
    for name, command in commands.items():
        print(f"{name} ...", file=sys.stderr)
        found[name] = watched(command, env)
    plain = found["plain float32"]
    return {
        "schema": 1,
        "measured": date.today().isoformat(),
        "machine": {"system": platform.system(), "cpu": platform.machine(), "cores": os.cpu_count()},
        "load": os.getloadavg(),
        "source_bytes": sum(p.stat().st_size for p in source.iterdir()),
        "output_bytes": sum(p.stat().st_size for p in out.iterdir()),
        "commands": {
            name: {**took, "cpu_in_baselines": round(took["cpu_seconds"] / plain["cpu_seconds"], 2)}
            for name, took in found.items()
        },
    }


def show(found: dict) -> None:
    sizes = " -> ".join(f"{found[name] / 1e9:.2f} GB" for name in ("source_bytes", "output_bytes"))
    lines = [f"{sizes}; load {found['load'][0]:.1f} on {found['machine']['cores']} cores"]
    lines.append(f"  {'':<20}{'seconds':>9}{'CPU s':>9}{'baselines':>11}{'anonymous':>12}{'resident':>11}")
    for name, took in found["commands"].items():
        memory = [f"{took[key] / 1e9:.2f} GB" for key in ("peak_anonymous_bytes", "peak_rss_bytes")]
        times = f"{took['seconds']:>9.1f}{took['cpu_seconds']:>9.1f}{took['cpu_in_baselines']:>11.2f}"
        lines.append(f"  {name:<20}{times}{memory[0]:>12}{memory[1]:>11}")
    print("\n".join(lines), file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"layers": 28, "vocab": 151_936}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"[{default}]")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="on the disk to measure [here]")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        write_source(args.make, config_of(args), tensors_of(config_of(args)))
        return
    wide = {**config_of(args), "hidden_size": 2048, "intermediate_size": 6144}
    sizes = [2 * sum(_count(shape) for shape in tensors_of(config).values()) for config in (config_of(args), wide)]
    needed, free = 1.05 * (sizes[0] + 2 * sizes[1]), shutil.disk_usage(args.dir).free
    if needed > free:
        parser.error(f"needs {needed / 1e9:.1f} GB in {args.dir}, {free / 1e9:.1f} GB are free")
    with tempfile.TemporaryDirectory(prefix="grow-bench-", dir=args.dir) as work:
        found = measure(Path(work), args)
    show(found)
    print(json.dumps(found, indent=2))


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


if __name__ == "__main__":
    main()
