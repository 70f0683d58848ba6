"""Documents of `grow verify` in every verdict, and a page read back."""

import random
from html.parser import HTMLParser
from itertools import chain

from grow.verification.rungs import RUNGS
from grow.verification.verdict import Check, Verification

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
        "rounded": ["hidden 128 -> 192: a factor that is not a power of two"],
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
