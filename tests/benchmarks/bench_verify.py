"""Time and memory of `grow verify` on a pair that does not fit into memory, check by check.

    python tests/benchmarks/bench_verify.py            Llama-7B's shape -> 13B's width: 33 GB of disk, 24 GB of memory
    python tests/benchmarks/bench_verify.py --hidden 512 --ffn 1376 --heads 8 --layers 4 --to-hidden 640 --to-heads 10
        --to-ffn 1728 --memory 0.7

does     writes a Llama checkpoint of random bfloat16 weights, grows it with `grow widen --no-verify`, then runs
         `grow verify` in a process of its own; `--memory GB` pretends that no more is free, so that small pairs
         stream too
gives    seconds of every check, its result, and the largest anonymous memory of the process (RssAnon; the pages of
         files that the system caches are not counted); a table on stderr, a JSON document on stdout
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
from bench_widen import nbytes, tensors_of, timed, write_source

VERIFY = """
import json, sys, time
import grow
from grow.verification.outputs import pair
source, grown, memory, rungs = sys.argv[1:5]
if float(memory):
    pair.available_memory = lambda: int(float(memory) * 1e9)
marks = []
found = grow.verify(source, grown, rungs=rungs.split(","), on_rung=lambda name: marks.append((name, time.monotonic())))
marks.append(("end", time.monotonic()))
seconds = {name: round(b - a, 1) for (name, a), (_, b) in zip(marks, marks[1:])}
print(json.dumps({"seconds": seconds, "verification": found.to_dict()}))
"""


def config_of(hidden: int, heads: int, ffn: int, args: argparse.Namespace) -> dict:
    sizes = {"hidden": hidden, "heads": heads, "kv_heads": heads, "ffn": ffn}
    return bench_widen.config_of(argparse.Namespace(**sizes, layers=args.layers, vocab=args.vocab))


def watched(command: list[str], env: dict[str, str]) -> tuple[float, int, str]:
    """(seconds, peak RssAnon in bytes, stdout) of a process that may find a difference."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True)
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                peak = max([peak, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))])
            except OSError:
                return
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, _ = process.communicate()
    watcher.join()
    if process.returncode:
        sys.exit(f"grow verify: exit code {process.returncode}")
    return time.perf_counter() - started, peak, out


def measure(work: Path, args: argparse.Namespace) -> dict:
    here = str(Path(__file__).resolve().parents[2])
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": here}
    source, out = work / "source", work / "grown"
    old = config_of(args.hidden, args.heads, args.ffn, args)
    new = config_of(args.to_hidden, args.to_heads, args.to_ffn, args)
    print(f"writing a source of {nbytes(old) / 1e9:.2f} GB", file=sys.stderr)
    write_source(source, old)
    to = ",".join(f"{name}={new[name]}" for name in new if old[name] != new[name])
    widen = [sys.executable, "-m", "grow", "widen", "--from", str(source), "--to", to, "--out", str(out)]
    grown_in, _ = timed([*widen, "--no-verify", "--dtype", "bfloat16"], env)
    print(f"grown to {nbytes(new) / 1e9:.2f} GB in {grown_in:.0f} s", file=sys.stderr)
    command = [sys.executable, "-c", VERIFY, str(source), str(out), str(args.memory), args.rungs]
    seconds, peak, text = watched(command, env)
    document = json.loads(text)
    checks = [c for rung in document["verification"]["rungs"].values() for c in rung["checks"]]
    layer = {side: _layer_bytes(config) for side, config in (("source", old), ("grown", new))}
    return {
        "schema": 1,
        "measured": date.today().isoformat(),
        "machine": {"system": platform.system(), "cpu": platform.machine(), "cores": os.cpu_count()},
        "source_bytes": nbytes(old),
        "grown_bytes": nbytes(new),
        "widen_seconds": round(grown_in, 1),
        "verify_seconds": round(seconds, 1),
        "peak_anonymous_bytes": peak,
        "float64_layer_bytes": layer,
        "seconds": document["seconds"],
        "verdict": document["verification"]["verdict"],
        "checks": [
            {
                "name": c["name"],
                "status": c["status"],
                "relative": c["measured"].get("relative")
                if c["name"] != "hidden_states"
                else c["measured"].get("worst"),
                "limit": c["limit"],
                "reason": c["reason"],
            }
            for c in checks
        ],
    }


def _layer_bytes(config: dict) -> int:
    """One decoder layer in float64."""
    total = 0
    for name, shape in tensors_of(config).items():
        if ".layers.0." in name:
            size = 8
            for n in shape:
                size *= n
            total += size
    return total


def show(found: dict) -> None:
    sizes = " -> ".join(f"{found[name] / 1e9:.2f} GB" for name in ("source_bytes", "grown_bytes"))
    print(f"{sizes}: {found['verdict']} in {found['verify_seconds']:.0f} s", file=sys.stderr)
    for check in found["checks"]:
        took = found["seconds"].get(check["name"])
        delta = f"{check['relative']:.1e}" if check["relative"] is not None else ""
        words = check["limit"] or check["reason"]
        print(f"  {check['name']:<16}{check['status']:<6}{delta:>9}{took or '':>8} s  {words}", file=sys.stderr)
    layers = sum(found["float64_layer_bytes"].values())
    print(
        f"  peak anonymous memory {found['peak_anonymous_bytes'] / 1e9:.1f} GB; "
        f"one layer of each in float64 {layers / 1e9:.1f} GB",
        file=sys.stderr,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"hidden": 4096, "heads": 32, "ffn": 11008, "layers": 32, "vocab": 32000}
    targets = {"to-hidden": 5120, "to-heads": 40, "to-ffn": 13824}
    for name, default in {**sizes, **targets}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"[{default}]")
    parser.add_argument("--memory", type=float, default=0.0, help="GB to pretend are free [what is]")
    parser.add_argument("--rungs", default="certificate,true_float64,runtime_dtype,behaviour", help="[%(default)s]")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="on the disk to measure [here]")
    args = parser.parse_args()
    if args.hidden % args.heads or args.to_hidden % args.to_heads:
        parser.error("sizes: heads divide hidden")
    needed = sum(
        nbytes(config_of(*size, args))
        for size in ((args.hidden, args.heads, args.ffn), (args.to_hidden, args.to_heads, args.to_ffn))
    )
    free = shutil.disk_usage(args.dir).free
    if needed * 1.05 > free:
        parser.error(f"needs {needed * 1.05 / 1e9:.1f} GB in {args.dir}, {free / 1e9:.1f} GB are free")
    with tempfile.TemporaryDirectory(prefix="grow-bench-", dir=args.dir) as work:
        found = measure(Path(work), args)
    show(found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
