"""`grow verify --report`: every number is on the page, and no text of a checkpoint becomes markup."""

import re
from datetime import datetime, timezone

import pytest
from report_documents import DOCUMENTS, Page, check, different_document, example_document, unproved_document

from grow.verification.report import render
from grow.verification.report.document import plain

SECTIONS = ("verdict", "checks", "first", "axes", "layers", "logits", "training", "config", "provenance", "notes")

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
        "storage rounded hidden 128 -> 192: a factor that is not a power of two",
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
        "There is no grow.json, so it is not known how the axes grew.",
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
