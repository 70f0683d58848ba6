"""The model card of a grown checkpoint."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grow.checkpoint.reader import Checkpoint
from grow.errors import BadInput
from grow.files.header import open_regular, read_exactly, show
from grow.files.locate import HUB_ID
from grow.planning.plan import Plan
from grow.verification.verdict import Verification, damage_text

INHERITED = ("license", "license_name", "license_link", "language", "pipeline_tag", "library_name", "tags", "datasets")
"""What a source's card says that holds of the grown model too."""
LARGEST_CARD, LARGEST_HEAD = 1 << 24, 1 << 16  # bytes of a README.md and of its front matter
TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]{1,300}")
CERTIFIED = "every weight follows the table of its family; whether the model computes the same was not run"
MANY = 200  # entries of a list


@dataclass(frozen=True)
class PublicName:
    """How a source is called in what people publish: never by a path of this machine.

    hub    its repository, "" where none is known
    shown  that, a bundled name, or the last part of the folder's path
    """

    hub: str
    shown: str


def public_name(src: Any, folder: Path) -> PublicName:
    """The public name of a source that somebody called `src` and that lies in `folder`."""
    parts = folder.parts
    cached = [
        parts[k - 1] for k in range(1, len(parts)) if parts[k] == "snapshots" and parts[k - 1].startswith("models--")
    ]
    hub = cached[-1].removeprefix("models--").replace("--", "/", 1) if cached else ""
    hub = hub if HUB_ID.fullmatch(hub) else ""
    if hub:
        return PublicName(hub, hub)
    text = os.fspath(src)
    bundled = isinstance(src, str) and os.sep not in text and not os.path.lexists(text)
    return PublicName("", show(text if bundled else folder.name, 200))


def source_card(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the front matter of the source's README.md says that holds of the grown model too; {} where it cannot be
    read. A value that is neither a short text nor a list of such is left out.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("an alias can stand for any amount of text")
            return super().compose_node(parent, index)

        def construct_yaml_timestamp(self, node: Any) -> Any:
            return node.value

    Loader.add_constructor("tag:yaml.org,2002:timestamp", Loader.construct_yaml_timestamp)
    try:
        head = _front_matter(checkpoint.path / "README.md")
        stated = yaml.load(head, Loader) if head else None
    except (BadInput, OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    if not isinstance(stated, dict):
        return {}
    if stated.get("language") is False:  # Norwegian, as YAML 1.1 reads it
        stated["language"] = "no"
    inherited = {key: _clean(stated.get(key)) for key in INHERITED}
    return {key: value for key, value in inherited.items() if value}


def _front_matter(path: Path) -> str:
    """The YAML between the two lines of dashes; "" where there is none, or more of it than anybody writes."""
    if not path.is_file():
        return ""
    fd = open_regular(path)
    try:
        size = os.fstat(fd).st_size
        raw = read_exactly(fd, min(size, LARGEST_HEAD), 0, show(path)) if size <= LARGEST_CARD else b""
    finally:
        os.close(fd)
    text = raw.decode("utf-8-sig", errors="ignore").replace("\r\n", "\n")
    front_matter = re.match(r"---[ \t]*\n(.*?)\n---[ \t]*(\n|\Z)", text, re.DOTALL)
    return front_matter[1] if front_matter else ""


def _clean(value: Any) -> str | list[str]:
    """A short text or a list of them as it is, "" for anything else."""
    if isinstance(value, list):
        return [entry for entry in value[:MANY] if isinstance(entry, str) and TEXT.fullmatch(entry)]
    return value if isinstance(value, str) and TEXT.fullmatch(value) else ""


def _head(plan: Plan, name: PublicName, inherited: dict[str, Any], proved: bool) -> Iterator[str]:
    """Lines of YAML. Every value is written as JSON, which cannot end the line or begin another key."""
    tags = ["grow", *(["lossy"] if plan.lossy else ["function-preserving"] if proved else [])]
    before = inherited.get("tags") or []
    yield f"library_name: {json.dumps(inherited.get('library_name') or 'transformers', ensure_ascii=False)}"
    if name.hub:
        yield f"base_model: {json.dumps(name.hub)}"
    for key in INHERITED:
        if key in inherited and key not in ("library_name", "tags"):
            yield f"{key}: {json.dumps(inherited[key], ensure_ascii=False)}"
    every = dict.fromkeys([*([before] if isinstance(before, str) else before), *tags])
    yield f"tags: {json.dumps(list(every), ensure_ascii=False)}"


def model_card(
    plan: Plan, name: PublicName, verification: Verification | None, inherited: dict[str, Any] | None = None
) -> str:
    """Markdown with YAML front matter; every text that a config or a card could carry is escaped.

    inherited  of the source's card, see `source_card`
    """
    source = name.shown
    before, after = plan.parameters
    lines = [
        "---",
        *_head(plan, name, inherited or {}, verification is not None and verification.lossless),
        "---",
        "",
        f"# {_plain(source)}, enlarged",
        "",
        f"Made by [grow](https://pypi.org/project/grow-transformers/) from `{_plain(source)}`: "
        f"{before:,} -> {after:,} parameters, weights stored {plan.storage}, method {plan.method}.",
        "",
        *(
            [f"**Lossy: {plan.method}.** It does not compute what its source computes: {plan.lossy}.", ""]
            if plan.lossy
            else []
        ),
        "| axis | old | new | how |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {axis} | {plan.sizes[axis]} | {plan.new_sizes[axis]} | {plan.operators.get(axis, '')} |"
        for axis in plan.sizes
        if plan.sizes[axis] != plan.new_sizes[axis]
    ]
    if verification is None:
        lines += [
            "",
            "**Unverified**: the check was switched off, so no weight was checked and no model was run. "
            "`grow verify SOURCE THIS` makes up for it.",
        ]
    else:
        lines += [
            "",
            f"Verdict: **{f'lossy, measured {damage_text(verification)}' if plan.lossy else verification.verdict}**"
            + ("" if plan.lossy or verification.lossless else f": {CERTIFIED}"),
            "",
            "| check | result | largest difference |",
            "|---|---|---|",
        ]
        for check in verification.checks:
            shown = f"{check.largest:.2e}" if check.largest is not None else ""
            lines.append(f"| {check.name} | {check.status} | {shown} |")
    lines += ["", "The plan, the maps and a sha256 of every tensor are in `grow.json`.", ""]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text that cannot break out of a heading, a code span or a table."""
    return re.sub(r"[^\w./ :=,+-]", "_", text)[:200]
