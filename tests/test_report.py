"""`grow verify --report`: every number is on the page, no text of a checkpoint becomes markup, a browser draws it."""

import copy
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import zlib
from datetime import datetime, timezone
from html.parser import HTMLParser
from itertools import chain

import pytest

from grow.errors import BadInput
from grow.verification.report import axis_pictures, charts, render, write_report
from grow.verification.report.document import fit, plain
from grow.verification.report.views import share
from grow.verification.result import RUNGS, Check, Verification

SECTIONS = ("verdict", "checks", "first", "axes", "layers", "logits", "training", "config", "provenance", "notes")
PROBES = {
    "random": [2, 64],
    "repeated": [1, 64],
    "single": [2, 1],
    "left_padded": [3, 32],
    "right_padded": [3, 32],
    "far_positions": [1, 64],
    "text": [1, 64],
}
VOID = {"meta", "br", "hr", "img", "input", "link"}


def check(name, status="pass", claim="", reason="", **measured):
    return {"name": name, "status": status, "measured": measured, "limit": claim, "reason": reason}


def rungs(*checks):
    """The checks on their rungs, as `Verification.to_dict` lays them out."""
    found = Verification("", "", tuple(Check(c["name"], c["status"]) for c in checks)).rungs
    return {r: {"status": s, "checks": [c for c in checks if c["name"] in RUNGS[r]]} for r, s in found.items()}


def axis(name, old, runs, operator, space=None):
    new = sum(run[0] for run in runs)
    return {"axis": name, "space": space or name, "old": old, "new": new, "operator": operator, "runs": runs}


def hidden_states(layers, probes, *, break_at=None, seed=0):
    """Drift that grows with depth; from `break_at` on the layers are wrong in all but the padded probes."""
    rng = random.Random(seed)
    exact, runtime, floor = [], [], []
    for k in range(layers):
        row = [0.0 if k == 0 else 2e-16 * (1 + k) ** 1.1 * rng.uniform(0.4, 2) for _ in probes]
        if break_at is not None and k >= break_at:
            row = [0.3 * rng.uniform(0.3, 1.2) if "padded" not in p else v for p, v in zip(probes, row)]
        exact.append(row)
        noise = 0.004 * (1 + k) ** 0.6
        floor.append(noise)
        runtime.append([0.0 if k == 0 else max(v, noise * rng.uniform(0.3, 0.9)) for v in row])
    worst = max(map(max, exact))
    return check(
        "hidden_states",
        "pass" if break_at is None else "fail",
        "max |Δ| / std <= 1e-12 in every layer",
        "" if break_at is None else f"first at hidden.{break_at}: {max(exact[break_at]):.3g} > 1e-12",
        layers=[f"hidden.{k}" for k in range(layers)],
        probes=list(probes),
        differences=exact,
        limit=1e-12,
        relative=worst,
        where="hidden.6/text",
        runtime={"dtype": "bfloat16", "differences": runtime, "floor": floor},
    )


def trainability(**more):
    kinds = {"up_proj": 294912, "gate_proj": 294912, "down_proj": 294912, "q_proj": 98304, "k_proj": 49152}
    tensors = [
        {"rows": f"model.layers.{{layers}}.mlp.{k}.weight", "new": n, "learning": n, "dead": 0, "twins": 0}
        for k, n in kinds.items()
    ]
    new = sum(kinds.values())
    measured = {
        "steps": 4,
        "learning_rate": 1e-3,
        "loss": [7.634, 7.211, 6.902, 6.745],
        "source_loss": [7.634, 7.288, 7.013, 6.878],
        "parameters": 5246208,
        "new": new,
        "learning": new,
        "share": 1.0,
        "dead": 0,
        "twins": 0,
        "tensors": tensors,
        **more,
    }
    return check("trainability", "fail" if measured["dead"] else "pass", "every new entry learns", **measured)


def points(shift=0.0):
    rng = random.Random(1)
    source = [rng.gauss(0, 4) for _ in range(300)]
    return {"source": source, "grown": [x + rng.gauss(0, shift) if shift else x for x in source]}


def example_document():
    """`grow verify small small-base`, with what the later checks measure."""
    return {
        "schema": 2,
        "source": "small",
        "grown": "small-base",
        "verdict": "lossless",
        "trainable": True,
        "rungs": rungs(
            check(
                "certificate",
                claim="W̃·E_in = E_out·W on every tensor, exactly",
                tensors=56,
                largest_residual=0.0,
                faults=[],
                faulty=0,
            ),
            check(
                "true_float64",
                claim="max |Δ| / std <= 1e-12 (true float64)",
                relative=9.746495648580252e-15,
                max_abs=3.9e-14,
                mean_abs=2.4e-15,
                std=4.01,
                kl=8.9e-18,
                kl_max=7.0e-16,
                top1=1.0,
                where="right_padded/logits[40, 135]",
                probes={"seed": 0, "shapes": PROBES, "skipped": {"beyond_window": "no sliding window"}},
                points=points(),
            ),
            check(
                "runtime_dtype",
                claim="max |Δ| / std <= 0.221 (4 x the source's own noise in bfloat16)",
                relative=0.031191133862927076,
                dtype="bfloat16",
                floor={"eager_attention": 0.0358, "one_by_one": 0.0, "true_float64": 0.0553},
                ratio_to_floor=0.5634913973153097,
                top1=1.0,
            ),
            check("tokenizer", claim="the same ids for the same text", texts=12),
            hidden_states(7, PROBES),
            check("loss", claim="|Δ| <= 1e-12 of the loss", relative=1.3e-16, loss=3.512),
            check(
                "cached_decoding",
                claim="max |Δ| / std <= 1e-12 (step by step, grown against source); "
                "max |Δ| / std <= 1e-12 (grown: cache against one full pass)",
                relative=8.648e-15,
            ),
            check("generation", claim="the same 32 greedy tokens", tokens=32),
            check("kernels", "skip", reason="flash attention needs a GPU, and there is none here"),
            check("save_reload", claim="same names, shapes, dtypes and bits", tensors=57, outputs_changed=0),
            trainability(),
        ),
        "first_difference": None,
        "growth": {
            "axes": [
                axis("hidden", 128, [[128, 0, 1.0, 0.5, 1.0], [128, 0, 1.0, 0.5, 1.0]], "copies"),
                axis("ffn", 384, [[384, 0, 1.0, 1.0, 1.0], [384, -2, 1.0, 0.0, 1.0]], "unread"),
                axis("heads", 4, [[4, 0, 1.0, 1.0, 1.0], [4, -2, 1.0, 0.0, 1.0]], "unread"),
                axis("kv_heads", 2, [[2, 0, 1.0, 1.0, 1.0], [2, -2, 1.0, 0.0, 1.0]], "unread"),
            ],
            "sizes": {"hidden": 128, "heads": 4, "kv_heads": 2, "head_dim": 32, "ffn": 384, "layers": 6, "vocab": 2048},
            "new_sizes": {
                "hidden": 256,
                "heads": 8,
                "kv_heads": 4,
                "head_dim": 32,
                "ffn": 768,
                "layers": 6,
                "vocab": 2048,
            },
            "storage": "bit-exact",
            "rounded": [],
            "split": "exact",
            "seed": 0,
            "grow": "0.1.0",
            "source": {"name": "small", "model_type": "llama", "config_sha256": "c2729ebaca4073fc517d0638d70d657b"},
            "tensors": 56,
        },
        "config": [
            {"field": "hidden_size", "source": 128, "grown": 256},
            {"field": "intermediate_size", "source": 384, "grown": 768},
            {"field": "rope_parameters", "source": {"rope_theta": 10000.0}, "grown": {"rope_theta": 1e6}},
        ],
        "environment": {"grow": "0.1.0", "python": "3.11.7", "torch": "2.13.0+cpu", "machine": "x86_64"},
        "notes": ["written as bfloat16, the dtype of the source"],
    }


def different_document():
    """A rounded growth of head_dim and hidden, one weight changed afterwards, and parameters that cannot learn."""
    d = example_document()
    why = "model.layers.1.mlp.down_proj.weight[3, 5]: found 0.25, wanted 0.5; the copies' shares sum to the old weight"
    tensors = trainability()["measured"]["tensors"]
    tensors[0] = {**tensors[0], "learning": 200000, "dead": 94912}
    tensors[1] = {**tensors[1], "twins": 60000}
    faults = [
        why,
        "model.layers.2.mlp.up_proj.weight: sha256 is not grow.json's: differs in entries that no output reads",
    ]
    d |= {
        "verdict": "different",
        "trainable": False,
        "grown": "/data/checkpoints/experiments/2026-11/small-to-192-hidden-head-dim-48-damaged",
        "rungs": rungs(
            check(
                "certificate",
                "fail",
                "W̃·E_in = E_out·W on every tensor, within the rounding of what is stored",
                "; ".join(faults),
                tensors=56,
                largest_residual=0.25,
                faults=faults,
                faulty=37,
            ),
            check(
                "true_float64",
                "fail",
                "max |Δ| / std <= 2.67e-06 (true float64)",
                "0.31 > 2.67e-06 at text/logits[3, 1]",
                relative=0.31,
                probes={"seed": 3, "shapes": PROBES, "skipped": {}},
                points=points(0.6),
            ),
            check("proof", claim="max |Δ| / std <= 1e-12 (true float64)", relative=8.0e-15),
            check(
                "runtime_dtype",
                "fail",
                "max |Δ| / std <= 4.6e-05",
                "0.3 > 4.58e-05",
                relative=0.3,
                dtype="float32",
                floor={"eager_attention": 3.8e-6},
                ratio_to_floor=26000.0,
            ),
            hidden_states(7, PROBES, break_at=2),
            trainability(dead=94912, twins=60000, share=0.9, learning=937152, tensors=tensors),
        ),
        "first_difference": {
            "module": "model.layers.1.mlp.down_proj",
            "kind": "Linear",
            "probe": "random",
            "relative": 0.3,
            "tensor": "model.layers.1.mlp.down_proj.weight",
            "field": None,
            "index": [3, 5],
            "found": 0.25,
            "wanted": 0.5,
            "rule": "the copies' shares sum to the old weight",
            "text": "The first module whose output is wrong although its input is right.",
        },
    }
    root = 1.5**0.5
    d["growth"] |= {
        "axes": [
            axis("hidden", 128, [[128, 0, root, 1.0, 1 / root], [64, -1, root, 0.0, 1 / root]], "silent"),
            axis(
                "head_dim",
                32,
                [
                    [16, 0, root, 1 / root, 1.0],
                    [8, -2, root, 0.0, 1.0],
                    [16, 16, root, 1 / root, 1.0],
                    [8, -2, root, 0.0, 1.0],
                ],
                "unread",
                "head_dim.q",
            ),
            axis("positions", 96, [[96, 0, root, 1.0, 1 / root], [32, -3, root, 0.0, 1 / root]], "mean"),
            axis("ffn", 384, [[384, 0, 1.0, 0.5, 1.0], [384, 0, 1.0, 0.5, 1.0], [100, 0, 1.0, 0.0, 1.0]], "copies"),
            axis("heads", 6, [[3, 0, 1, 1, 1], [1, -2, 1, 0, 1], [3, 3, 1, 1, 1], [5, -2, 1, 0, 1]], "unread"),
        ],
        "storage": "rounded",
        "rounded": ["hidden 128 -> 192: a factor that is no power of two"],
    }
    return d


def unproved_document():
    """Two checkpoints without grow.json that do not fit into memory."""
    reason = "not enough memory: 34.1 GB are needed and 3.2 GB are free"
    names = ("true_float64", "runtime_dtype", "tokenizer", "hidden_states", "cached_decoding", "trainability")
    skipped = [check(name, "skip", reason=reason) for name in names]
    return {
        "schema": 2,
        "source": "someone/source-7b",
        "grown": "someone/grown-13b",
        "verdict": "unproved",
        "trainable": None,
        "rungs": rungs(check("certificate", "skip", reason="no grow.json: no plan to check against"), *skipped),
        "first_difference": None,
        "growth": None,
        "config": [],
        "environment": {},
        "notes": ["no grow.json in the grown checkpoint: no certificate, the outputs decide"],
    }


def large_document():
    """64 layers, 12 probes and a map of 576 runs."""
    d = example_document()
    probes = [*PROBES, "masked", "token_types", "beyond_window", "image", "another"]
    checks = list(chain.from_iterable(rung["checks"] for rung in d["rungs"].values()))
    d["rungs"] = rungs(*(hidden_states(65, probes) if c["name"] == "hidden_states" else c for c in checks))
    interleaved = [[1, k // 2, 1.0, 0.25 + k % 3 / 8, 1.0] for k in range(576)]
    dealt = [[1, k // 3 if k % 3 else -2, 1.0 + k / 576, 0.5, 1.0] for k in range(576)]
    d["growth"]["axes"] += [
        axis("hidden", 288, interleaved, "copies", "interleaved"),
        axis("ffn", 192, dealt, "copies", "dealt"),
    ]
    return d


DOCUMENTS = {
    "lossless": example_document,
    "different": different_document,
    "unproved": unproved_document,
    "large": large_document,
}


class Page(HTMLParser):
    """The page taken apart; fails where an element is left open or closed twice."""

    def __init__(self, text):
        super().__init__()
        self.text, self.open, self.tags, self.attributes, self.words = text, [], set(), [], []
        self.ids, self.styles = [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self._seen(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self._seen(tag, attrs)
        assert "svg" in self.open, f"<{tag}/> outside SVG is read as an open element"

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.styles if self.open[-1:] == ["style"] else self.words).append(data)

    def _seen(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]

    @property
    def shown(self):
        return " ".join(" ".join(self.words).split())

    def values(self, wanted):
        return [value for _, name, value in self.attributes if name == wanted]


TAGS = set(
    "html head meta title style body svg defs pattern rect path circle line polyline polygon text desc header nav main "
    "section h1 h2 h3 p code div span strong ul li a dl dt dd table caption thead tbody tr th td details summary "
    "figure figcaption time i".split()
)


def assert_self_contained(page):
    assert page.tags <= TAGS, page.tags - TAGS
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name in ("src", "srcset", "action")]
    assert all(value.startswith("#") and value[1:] in page.ids for value in page.values("href"))
    assert all(re.fullmatch(r"(left: [\d.]+%|position: absolute)", value) for value in page.values("style"))
    assert set(re.findall(r"url\(([^)]*)\)", page.text)) <= {f"#{ident}" for ident in page.ids}
    assert not re.search(r"@import|@font-face|expression\(", "".join(page.styles))
    assert len(set(page.ids)) == len(page.ids)
    for value in page.values("aria-labelledby"):
        assert set(value.split()) <= set(page.ids)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_page_is_whole_and_needs_nothing_else(name):
    text = render(DOCUMENTS[name]())
    page = Page(text)
    assert_self_contained(page)
    assert text.startswith("<!DOCTYPE html>")
    assert not re.search(r"https?://|src=|<script|javascript:", text)
    places = [text.index(f' id="{section}"') for section in SECTIONS]
    assert places == sorted(places)
    assert len(text.encode()) < 160_000
    assert all(len(svg) < 40_000 for svg in re.findall(r'<svg role="img".*?</svg>(?=</div>|</td>)', text, re.S))
    assert not re.search(r'="[^"]*\b(nan|inf|None)\b', text)


def test_a_lossless_page_says_so_with_its_numbers():
    shown = Page(render(example_document(), now=datetime(2026, 11, 23, 8, 5, tzinfo=timezone.utc))).shown
    for words in (
        "✓ Lossless ✓ trainable small-base computes what small computes",
        "at most 9.7e-15 of their standard deviation in true float64",
        "in bfloat16 3.1e-02 0.56 × the source's own noise",
        "storage bit-exact no weight was rounded",
        "100 % of the new entries learn",
        "max |Δ| / std <= 1e-12 (step by step, grown against source)",
        "kernels – skip flash attention needs a GPU",
        "No check found a difference",
        "hidden 128 → 256",
        "second copy 128 coordinates, read × 0.5",
        "unread 4 coordinates",
        "Unchanged: head_dim 32, layers 6, vocab 2,048.",
        "limit 1e-12",
        "× the source's own noise, in hidden.",
        "300 outputs in true float64",
        "all of them do, exactly",
        "4 optimizer steps at a learning rate of 0.001, 1,032,192 of 1,032,192 new entries have had a gradient (100 %)",
        "7.634 → 7.211 → 6.902 → 6.745",
        'rope_parameters {"rope_theta": 10000.0} {"rope_theta": 1000000.0}',
        "tensors hashed 56",
        "c2729ebaca4073fc517d0638d70d657b",
        "right_padded 3 × 32",
        "beyond_window – skip no sliding window",
        "torch 2.13.0+cpu",
        "2026-11-23T08:05:00+00:00",
        "written as bfloat16",
    ):
        assert words in shown, words


def test_a_different_page_names_the_place():
    text = render(different_document())
    shown = Page(text).shown
    for words in (
        "✗ Different ✗ not trainable",
        "does not compute what small computes",
        "The outputs differ by up to 3.1e-01 of their standard deviation in true float64. It begins in model.layers.1",
        "storage rounded hidden 128 -> 192: a factor that is no power of two",
        "proof ✓ pass 8.0e-15",
        "and 35 more tensors",
        "tensor model.layers.1.mlp.down_proj.weight index [3, 5] found 0.25 wanted 0.5 rule the copies' shares sum",
        "kept 128 coordinates, write × 1.225, gain × 0.8165",
        "silent 64 coordinates, gain × 0.8165; carry 0",
        "unread 16 coordinates, write × 1.225; compute something random",
        "mean 32 coordinates, write × 1.225, gain × 0.8165; carry the mean",
        "third copy 100 coordinates, read × 0",
        "head_dim.q 32 → 48",
        "▲ and a frame: over the limit",
        "94,912 are dead and 60,000 locked",
        "67.8 % 294,912 94,912 0",
    ):
        assert words in shown, words
    over = [line for line in text.splitlines() if '<th scope="row">hidden.' in line]
    assert ["over" in line for line in over] == [False, False, True, True, True, True, True]


def test_an_unproved_page_says_in_every_section_why_it_is_empty():
    shown = Page(render(unproved_document())).shown
    for words in (
        "? Unproved – trainability unknown",
        "too little could be checked. true_float64: not enough memory: 34.1 GB are needed and 3.2 GB are free.",
        "certificate – skip no grow.json: no plan to check against",
        "No grow.json: how the axes grew is not known.",
        "The check hidden_states was skipped: not enough memory",
        "The check trainability was skipped: not enough memory",
        "No field of config.json differs.",
        "does not say what the numbers were measured with",
    ):
        assert words in shown, words
    shown = Page(render({})).shown
    for words in (
        "No verdict",
        "certificate – not asked",
        "The check hidden_states was not asked for",
        "There are no notes",
    ):
        assert words in shown, words


@pytest.mark.parametrize(("verdict", "words"), [("proof", "repeated in float64"), ("certificate", "No model was run")])
def test_the_number_behind_the_verdict_is_the_one_that_proves_it(verdict, words):
    document = example_document()
    if verdict == "proof":
        document["rungs"]["true_float64"]["checks"][0]["measured"]["relative"] = 4.1e-7
        document["rungs"]["true_float64"]["checks"].append(check("proof", relative=8e-15))
    else:
        document["rungs"] = {"certificate": document["rungs"]["certificate"]}
    shown = Page(render(document)).shown
    assert words in shown
    assert ("as stored 4.1e-07" in shown) == (verdict == "proof")


HOSTILE = "\"'></title></style></svg><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}{% raw %}&lt;--"


def hostile(value, keep):
    """Every text and every free key replaced; those under the keys in `keep` stay, so that charts are drawn."""
    free = {"hidden", "random", "torch", "eager_attention", "beyond_window"}
    if isinstance(value, dict):
        return {
            HOSTILE + k if free & value.keys() else k: v if k in keep else hostile(v, keep) for k, v in value.items()
        }
    if isinstance(value, list):
        return [hostile(v, keep) for v in value]
    return HOSTILE if isinstance(value, str) else value


@pytest.mark.parametrize("keep", [(), ("name", "status"), ("name", "status", "verdict")], ids=len)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_nothing_from_a_checkpoint_becomes_markup(name, keep):
    page = Page(render(hostile(DOCUMENTS[name](), keep)))
    assert_self_contained(page)
    assert "<script" not in page.text
    assert "<img" not in page.text
    assert page.shown.count(HOSTILE) > 5
    if keep and name == "lossless":
        assert any(HOSTILE in title for title in page.words if "1e-" in title or "e-1" in title), "in chart labels"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb", "a\\u202eb"),
        ("\x00\x1b[31m", "\\x00\\x1b[31m"),
        ("\udc80.bin", "\\udc80.bin"),
        ("größer Δ 模型", "größer Δ 模型"),
        ("x" * 5000, "x" * 4000 + " … and 1,000 more characters"),
    ],
)
def test_text_that_hides_is_shown(text, shown):
    assert plain(text) == shown
    assert shown.encode()
    assert shown in Page(render({"source": text, "notes": [text]})).shown


def leaves(value, path=()):
    """Paths to every key and to the first two entries of every list."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, child in inner:
        yield (*path, key)
        yield from leaves(child, (*path, key))


@pytest.mark.parametrize("name", ["lossless", "different"])
def test_any_part_may_be_missing_or_wrong(name):
    document = DOCUMENTS[name]()
    for found in chain.from_iterable(rung["checks"] for rung in document["rungs"].values()):
        if "points" in found["measured"]:
            found["measured"]["points"] = {side: v[:4] for side, v in found["measured"]["points"].items()}
    values = [None, float("nan"), float("inf"), -1.0, "text", [], {}, [[None]], True, 10**400]
    for k, path in enumerate(leaves(document)):
        broken = copy.deepcopy(document)
        parent = broken
        for key in path[:-1]:
            parent = parent[key]
        if k % 3 == 0 and isinstance(parent, dict):
            del parent[path[-1]]
        else:
            parent[path[-1]] = values[k % len(values)]
        text = render(broken)
        assert "</html>" in text, path
        assert not re.search(r'="[^"]*\b(nan|inf|None)\b', text), path
        if k % 10 == 0:
            Page(text)


def test_a_document_takes_the_shape_of_its_spec():
    spec = {"a": str, "b": [[float]], "c": {str: bool}, "d": object}
    assert fit(
        {"a": 3, "b": [[1, None, float("nan")], None], "c": {"x": True, "y": 1}, "d": {"z": [float("inf")]}}, spec
    ) == {
        "a": "3",
        "b": [[1, None, None], []],
        "c": {"x": True, "y": None},
        "d": {"z": [None]},
    }
    assert fit(None, spec) == {"a": "", "b": [], "c": {}, "d": None}


@pytest.mark.parametrize(
    ("value", "shown"), [(1.0, "100 %"), (0, "0 %"), (0.99999, "99.9 %"), (None, "–"), (0.5, "50.0 %")]
)
def test_only_all_of_it_is_100_percent(value, shown):
    assert share(value) == shown


def test_a_ribbon_leads_from_the_old_coordinates_to_their_copies():
    svg, legend = axis_pictures.axis_picture(
        axis("heads", 2, [[2, 0, 1, 1, 1], [1, 1, 2, 0.5, 1], [1, -2, 1, 0, 1]], "x"), "a"
    )
    assert '<path class="ribbon copy-0" d="M0 0H500C500 500 500 500 500 1000H0C0 500 0 500 0 0"/>' in svg
    assert '<path class="ribbon copy-1" d="M250 0H500C500 500 750 500 750 1000H500C500 500 250 500 250 0"/>' in svg
    assert '<rect class="unread" x="75%" y="104" width="25%" height="22"><title>3–3: unread</title></rect>' in svg
    assert [row["text"] for row in legend[:2]] == ["2 coordinates", "1 coordinate, write × 2, read × 0.5"]


@pytest.mark.parametrize("which", ["interleaved", "dealt"])
def test_crowded_maps_are_drawn_in_few_bands_that_leave_no_gap(which):
    found = next(a for a in large_document()["growth"]["axes"] if a["space"] == which)
    bands = axis_pictures.merged(
        (band for band, _ in axis_pictures.looks(found["old"], found["new"], found["runs"])), found["new"]
    )
    assert len(bands) <= 2 * axis_pictures.BANDS
    assert [band.start for band in bands[1:]] == [band.start + band.length for band in bands[:-1]]
    assert sum(band.length for band in bands) == found["new"]
    assert sum(band.runs for band in bands) == len(found["runs"])
    svg, legend = axis_pictures.axis_picture(found, "a")
    assert len(svg) < 40_000
    assert any("576 runs of several kinds" in row["text"] for row in legend)


@pytest.mark.parametrize(
    "runs", [[[3, 0, 1, 1, 1]], [[1, -5, 1, 1, 1], [1, 0, 1, 1, 1]], [[2, 0]], [[2, None, 1, 1, 1]], []]
)
def test_runs_that_are_no_map_are_not_drawn(runs):
    document = example_document()
    document["growth"]["axes"] = [
        {"axis": "hidden", "space": "hidden", "old": 2, "new": 2, "operator": "", "runs": runs}
    ]
    assert axis_pictures.looks(2, 2, runs) == []
    assert "Its runs are no map between these sizes" in Page(render(document)).shown


def test_the_scale_is_logarithmic_and_zero_has_its_own_look():
    scale = charts.Scale.over([0.0, None, 3e-16, 2e-14], 1e-12)
    assert (scale.low, scale.step) == (-16, 1)
    assert [scale.look(v) for v in (None, 0.0, 3e-16, 2e-14, 0.99e-12, 1.0)] == ["none", "zero", "q0", "q2", "q3", "q8"]
    assert (scale.ticks[0], scale.ticks[-1]) == ("1e-16", "1e-07")
    assert float(scale.place(1e-12)[:-1]) == pytest.approx(100 * 4 / 9, rel=1e-4)
    assert charts.Scale.over([1e-15, 0.3], 1e-12).look(0.3) == "q7"
    assert charts.Scale.over([0.0], None).look(0.0) == "zero"


def colours(text, dark):
    """The custom properties of one scheme."""
    style = "".join(Page(text).styles)
    light, night = (
        dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)
    )
    return {**light, **night} if dark else light


def contrast(a, b):
    """WCAG 2.2, from 1 to 21."""

    def luminance(colour):
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear))

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_and_lines_stand_out_in_both_schemes(dark):
    c = colours(render({}), dark)
    texts = [(ink, ground) for ink in ("ink", "muted") for ground in ("page", "panel")]
    texts += [(look, ground) for look in ("pass", "fail", "skip") for ground in ("page", f"{look}-soft")]
    turn = 5 if dark else 6
    texts += [("on-low" if k < turn else "on-high", f"q{k}") for k in range(9)] + [("muted", "zero"), ("limit", "page")]
    for ink, ground in texts:
        assert contrast(c[ink], c[ground]) >= 4.5, (ink, ground)
    for line in ("exact", "runtime", "noise", "limit", "fresh", *(f"copy-{k}" for k in range(4))):
        assert contrast(c[line], c["page"]) >= 2.4, line
    for k in range(8):
        assert contrast(c[f"q{k}"], c[f"q{k + 1}"]) > 1.1


def test_the_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    write_report(example_document(), path)
    assert Page(path.read_text(encoding="utf-8")).shown
    link = tmp_path / "link.html"
    link.symlink_to(path)
    write_report(unproved_document(), link)
    assert link.is_symlink()
    assert "Unproved" in path.read_text(encoding="utf-8")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(BadInput, match="No space left"):
        write_report(example_document(), path)
    assert "Unproved" in path.read_text(encoding="utf-8")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.html", "report.html"]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (".", "is no regular file"),
        ("none/a.html", "cannot be written"),
        ("x" * 300, "cannot be written"),
        ("/dev/null", "is no regular file"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused(tmp_path, name, what):
    with pytest.raises(BadInput) as refusal:
        write_report({}, tmp_path / name)
    assert refusal.value.what == what
    assert refusal.value.where.startswith("--report ")
    assert refusal.value.why
    assert refusal.value.fix
    assert list(tmp_path.iterdir()) == []


def test_a_report_needs_no_torch():
    code = "import sys; from grow.verification.report import render; render({}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def pixels(png):
    """(width, height, set of the colours) of an 8-bit PNG, filters undone."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    at, chunks = 8, []
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        chunks.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + size]))
        at += 12 + size
    width, height, depth, kind = struct.unpack(">IIBB", chunks[0][1][:10])
    assert (depth, kind) in {(8, 2), (8, 6)}
    step = 3 if kind == 2 else 4
    raw = zlib.decompress(b"".join(body for name, body in chunks if name == b"IDAT"))
    seen, above, line = set(), bytearray(width * step), 1 + width * step
    for row in range(height):
        mode, now = raw[row * line], bytearray(raw[row * line + 1 : (row + 1) * line])
        for k in range(len(now)):
            a, b, c = (now[k - step], above[k], above[k - step]) if k >= step else (0, above[k], 0)
            if mode == 1:
                now[k] = (now[k] + a) & 255
            elif mode == 2:
                now[k] = (now[k] + b) & 255
            elif mode == 3:
                now[k] = (now[k] + (a + b) // 2) & 255
            elif mode == 4:
                p = a + b - c
                near = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
                now[k] = (now[k] + near) & 255
        above = now
        seen.update(zip(*(now[k::step] for k in range(3))))
    return width, height, seen


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine to draw the page with")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["lossless", "different"])
def test_a_browser_draws_it(name, dark, tmp_path):
    path, shot = tmp_path / "report.html", tmp_path / "shot.png"
    document = DOCUMENTS[name]()
    write_report(document, path)
    command = [
        BROWSER,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--v=0",
        "--hide-scrollbars",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--screenshot={shot}",
        "--window-size=420,900",
        path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120)
    assert shot.is_file(), done.stderr[-2000:]
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    width, height, seen = pixels(shot.read_bytes())
    assert (width, height) == (420, 900)
    wanted = colours(path.read_text(encoding="utf-8"), dark)
    rgb = {key: tuple(int(value[k : k + 2], 16) for k in (1, 3, 5)) for key, value in wanted.items()}
    verdict = "pass" if name == "lossless" else "fail"
    assert {rgb["page"], rgb["panel"], rgb["ink"], rgb[verdict]} <= seen
    assert len(seen) > 100
