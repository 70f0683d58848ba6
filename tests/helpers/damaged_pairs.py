"""Grown pairs of every family, and damage to any number of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tiny

import grow
from grow.notation.dtypes import RAW
from grow.planning.plan import Plan
from grow.verification.verdict import Verification

ONLY = ("certificate",)


class Case(NamedTuple):
    family: str
    to: str
    source: dict[str, Any] = {}
    options: dict[str, Any] = {}


EVERY_COPY = {"operators": {"ffn": "copies", "heads": "copies"}}
CASES = {
    "llama ×2": Case("llama", "2x"),
    "llama ×2 bfloat16": Case("llama", "2x", {"dtype": "BF16"}),
    "llama ×2 float16": Case("llama", "2x", {"dtype": "F16"}),
    "llama ×2 all copies": Case("llama", "2x", {}, EVERY_COPY),
    "llama ×3 even": Case("llama", "3x", {}, {"split": "even"}),
    "llama regrouped": Case("llama", "num_attention_heads=6,num_key_value_heads=6,hidden_size=48"),
    "llama silent": Case("llama", "hidden_size=36,intermediate_size=31"),
    "llama silent float64": Case("llama", "hidden_size=36,head_dim=8", {}, {"dtype": "float64"}),
    "llama silent as float16": Case("llama", "hidden_size=36", {}, {"dtype": "float16"}),
    "llama uneven copies": Case("llama", "hidden_size=36", {}, {"operators": {"hidden": "copies"}}),
    "llama untied": Case("llama", "2x", {"tie_word_embeddings": False}),
    "qwen3 ×2": Case("qwen3", "2x"),
    "qwen3 head_dim": Case("qwen3", "head_dim=14,hidden_size=40"),
    "gpt2 ×2": Case("gpt2", "2x"),
    "gpt2 mean": Case("gpt2", "n_embd=36"),
    "gpt2 mean as bfloat16": Case("gpt2", "n_embd=36", {}, {"dtype": "bfloat16"}),
    "gpt_neox ×2": Case("gpt_neox", "2x"),
    "gpt_neox mean": Case("gpt_neox", "hidden_size=36"),
    "opt ×2": Case("opt", "2x"),
    "opt mean": Case("opt", "hidden_size=36"),
    "bert ×2": Case("bert", "2x"),
    "bert ×3 all copies": Case("bert", "3x", {}, EVERY_COPY),
}


class Pair(NamedTuple):
    source: Path
    grown: Path
    plan: Plan


def make(case: Case, folder: Path) -> Pair:
    source = tiny.checkpoint(folder / "source", case.family, **case.source)
    growth = grow.widen(source, case.to, out=folder / "grown", verify=False, **case.options)
    return Pair(source, folder / "grown", growth.plan)


def certificate(pair: Pair) -> Verification:
    return grow.verify(pair.source, pair.grown, rungs=ONLY)


def faults(pair: Pair) -> list[str]:
    """What the certificate says; the pair must be called different, with exit code 1."""
    found = certificate(pair)
    assert (found.verdict, found.exit_code) == ("different", 1)
    return found.checks[0].measured["faults"]


class Spot(NamedTuple):
    raw: np.ndarray
    bits: np.ndarray
    at: int


class Weights:
    """The grown file in memory: one tensor is damaged, looked at and repaired, without writing the others."""

    def __init__(self, pair: Pair) -> None:
        self.pair, self.draw = pair, np.random.default_rng(0)
        self.header, self.start = tiny.read_header(pair.grown)

    def damaged(self, name: str, damage: Callable[[Spot], None], at: int | None = None) -> list[str]:
        """The certificate's faults with this one tensor damaged; [] when the damage changed no byte."""
        entry = self.header[name]
        low, high = (self.start + offset for offset in entry["data_offsets"])
        with open(self.pair.grown / tiny.WEIGHTS, "r+b") as file:
            file.seek(low)
            before = file.read(high - low)
            raw = np.frombuffer(before, dtype=RAW[entry["dtype"]]).reshape(entry["shape"]).copy()
            bits = raw.view(f"<u{raw.itemsize}")
            damage(Spot(raw, bits, int(self.draw.integers(raw.size)) if at is None else at))
            if raw.tobytes() == before:
                return []
            file.seek(low)
            file.write(raw.tobytes())
            file.flush()
            try:
                return faults(self.pair)
            finally:
                file.seek(low)
                file.write(before)
