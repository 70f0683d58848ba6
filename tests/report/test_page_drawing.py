"""`grow verify --report`: parts may be missing, colours stand out, a browser draws the page."""

import copy
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from itertools import chain

import pytest
from report_documents import DOCUMENTS, Page, axis, example_document, large_document, unproved_document

from grow.errors import BadInput
from grow.verification.report import axis_pictures, charts, render, write_report
from grow.verification.report.document import fit
from grow.verification.report.views import share


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
    assert "Its runs are not a map between these sizes" in Page(render(document)).shown


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
        (".", "is not a regular file"),
        ("none/a.html", "cannot be written"),
        ("x" * 300, "cannot be written"),
        ("/dev/null", "is not a regular file"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused(tmp_path, name, what):
    with pytest.raises(BadInput) as refusal:
        write_report({}, tmp_path / name)
    assert refusal.value.what == what
    assert refusal.value.where.startswith('report="')
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
