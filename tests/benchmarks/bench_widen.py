"""Peak memory and wall time of `grow widen --no-verify`, beside copying its own output with `cp`.

    python tests/benchmarks/bench_widen.py                                          2.2 GB in, 8.3 GB out, 20 GB of disk
    python tests/benchmarks/bench_widen.py --hidden 512 --ffn 1408 --layers 12 --vocab 8000 --heads 8 --kv-heads 2

does     writes a Llama checkpoint of random bfloat16 weights, then alternates grow, cp and cp followed by fsync
         (grow syncs its output before it renames it, cp does not); every run starts after a sync, with the source
         and the output to copy in the page cache if they fit
gives    medians, the ratio of grow to either copy, and the largest resident set that wait4(2) reports for grow;
         a table on stderr, a JSON document on stdout
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

# A forked process starts with its parent's peak memory on its account, so this file imports nothing large and
# writes the source in a process of its own.
CHUNK = 1 << 22  # elements per write of random weights
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes there, KiB elsewhere


def tensors_of(config: dict) -> dict[str, tuple[int, ...]]:
    """Name -> shape of a LlamaForCausalLM with its own lm_head."""
    n, ffn, d = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv, vocab = config["num_attention_heads"] * d, config["num_key_value_heads"] * d, config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, n)}
    for i in range(config["num_hidden_layers"]):
        block = {
            "input_layernorm": (n,),
            "self_attn.q_proj": (q, n),
            "self_attn.k_proj": (kv, n),
            "self_attn.v_proj": (kv, n),
            "self_attn.o_proj": (n, q),
            "post_attention_layernorm": (n,),
            "mlp.gate_proj": (ffn, n),
            "mlp.up_proj": (ffn, n),
            "mlp.down_proj": (n, ffn),
        }
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in block.items()}
    return shapes | {"model.norm.weight": (n,), "lm_head.weight": (vocab, n)}


def config_of(args: argparse.Namespace, factor: int = 1) -> dict:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": args.hidden * factor,
        "intermediate_size": args.ffn * factor,
        "num_attention_heads": args.heads * factor,
        "num_key_value_heads": args.kv_heads * factor,
        "head_dim": args.hidden // args.heads,
        "num_hidden_layers": args.layers,
        "vocab_size": args.vocab,
        "max_position_embeddings": 2048,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }


def nbytes(config: dict) -> int:
    total = 0
    for shape in tensors_of(config).values():
        count = 2
        for n in shape:
            count *= n
        total += count
    return total


def write_source(folder: Path, config: dict, tensors: dict[str, tuple[int, ...]] | None = None) -> None:
    """Random weights of std 0.02, gains around 1; bfloat16 is the upper half of a float32."""
    import numpy as np

    tensors = tensors or tensors_of(config)
    header, at = {}, 0
    for name, shape in tensors.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(0)
    folder.mkdir()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in tensors.values():
            left = int(np.prod(shape))
            while left:
                values = rng.standard_normal(min(left, CHUNK), dtype=np.float32) * np.float32(0.02)
                values += len(shape) == 1
                file.write((values.view(np.uint32) >> 16).astype("<u2").tobytes())
                left -= len(values)
    (folder / "config.json").write_text(json.dumps(config))


def timed(command: list[str], env: dict[str, str]) -> tuple[float, int]:
    """(seconds, peak resident bytes) of a process that must succeed."""
    os.sync()
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return seconds, used.ru_maxrss * RSS_UNIT


def copied(source: Path, target: Path, *, sync: bool) -> float:
    """Seconds of `cp`, without the copy-on-write that some file systems offer."""
    reflink = ["--reflink=never"] if sys.platform == "linux" else []
    seconds, _ = timed(["cp", "-R", *reflink, str(source), str(target)], dict(os.environ))
    if sync:
        started = time.perf_counter()
        for path in target.iterdir():
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
        seconds += time.perf_counter() - started
    shutil.rmtree(target)
    return seconds


def measure(work: Path, args: argparse.Namespace) -> dict:
    here = str(Path(__file__).resolve().parents[2])
    env = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH")))),
    }
    source, out, copy = work / "source", work / "grown", work / "copy"
    maker = [sys.executable, __file__, "--make", str(source), *sys.argv[1:]]
    print(f"writing a source of {nbytes(config_of(args)) / 1e9:.2f} GB", file=sys.stderr)
    timed(maker, env)
    widen = [
        sys.executable,
        "-m",
        "grow",
        "widen",
        "--from",
        str(source),
        "--to",
        f"{args.factor}x",
        "--out",
        str(out),
        "--no-verify",
    ]
    runs: dict[str, list[float]] = {"grow": [], "cp": [], "cp + fsync": []}
    peaks = []
    for i in range(args.repeats):
        shutil.rmtree(out, ignore_errors=True)
        seconds, peak = timed(widen, env)
        runs["grow"].append(seconds)
        peaks.append(peak)
        runs["cp"].append(copied(out, copy, sync=False))
        runs["cp + fsync"].append(copied(out, copy, sync=True))
        print(f"round {i + 1}: " + ", ".join(f"{k} {v[-1]:.2f} s" for k, v in runs.items()), file=sys.stderr)
    medians = {name: statistics.median(times) for name, times in runs.items()}
    return {
        "schema": 1,
        "measured": date.today().isoformat(),
        "machine": {"system": platform.system(), "cpu": platform.machine(), "cores": os.cpu_count()},
        "python": platform.python_version(),
        "source_bytes": sum(p.stat().st_size for p in source.iterdir()),
        "output_bytes": sum(p.stat().st_size for p in out.iterdir()),
        "factor": args.factor,
        "seconds": {name: [round(t, 3) for t in times] for name, times in runs.items()},
        "median_seconds": {name: round(t, 3) for name, t in medians.items()},
        "ratio_to_cp": round(medians["grow"] / medians["cp"], 3),
        "ratio_to_cp_fsync": round(medians["grow"] / medians["cp + fsync"], 3),
        "peak_rss_bytes": max(peaks),
    }


def show(found: dict) -> None:
    sizes = " -> ".join(f"{found[name] / 1e9:.2f} GB" for name in ("source_bytes", "output_bytes"))
    lines = [f"{sizes}, median of {len(found['seconds']['grow'])}"]
    lines.append(f"  {'':<12}{'seconds':>9}{'GB/s out':>10}{'grow / it':>11}")
    for name, seconds in found["median_seconds"].items():
        ratio = found["median_seconds"]["grow"] / seconds
        lines.append(f"  {name:<12}{seconds:>9.2f}{found['output_bytes'] / 1e9 / seconds:>10.2f}{ratio:>11.2f}")
    lines.append(f"  peak resident memory of grow: {found['peak_rss_bytes'] / 1e6:.0f} MB")
    print("\n".join(lines), file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {
        "hidden": 2048,
        "ffn": 5632,
        "layers": 22,
        "heads": 32,
        "kv-heads": 4,
        "vocab": 32000,
        "factor": 2,
        "repeats": 3,
    }
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"[{default}]")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="on the disk to measure [here]")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        write_source(args.make, config_of(args))
        return
    if min(args.factor, args.repeats) < 1 or args.hidden % args.heads or args.heads % args.kv_heads:
        parser.error("sizes: heads divide hidden, kv-heads divide heads, factor and repeats are at least 1")
    needed = nbytes(config_of(args)) + 2 * nbytes(config_of(args, args.factor))
    free = shutil.disk_usage(args.dir).free
    if needed * 1.05 > free:
        parser.error(f"needs {needed * 1.05 / 1e9:.1f} GB in {args.dir}, {free / 1e9:.1f} GB are free")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folder is removed then too
    with tempfile.TemporaryDirectory(prefix="grow-bench-", dir=args.dir) as work:
        found = measure(Path(work), args)
    show(found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
