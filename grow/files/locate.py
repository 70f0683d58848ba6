"""Where a checkpoint lies, and which files of its folder may be opened.

    SRC = a folder | a bundled name (`grow.zoo`) | a hub id `org/name`, at one commit

A file belongs to a checkpoint when it lies inside its folder after all symlinks are followed, or in `blobs/`
of the hub cache that holds it (`models--org--name/snapshots/COMMIT/FILE -> ../../blobs/HASH`).
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from grow.errors import BadInput, GrowError, Refused, did_you_mean, listing
from grow.files.foreign_names import MERGE, PLAIN, in_command
from grow.files.header import PICKLE_FIX, open_regular, read_exactly, show, strict_json
from grow.spelling import option

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)

COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "vocab.bpe",
    "merges.txt",
    "bpe.codes",
    "tekken.json",
    "*.tiktoken",
    "*.model",
    "*.spm",
    "chat_template.json",
    "*.jinja",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    "*_Pooling/config.json",
    "LICEN[CS]E*",
    "NOTICE*",
)
"""Files that describe how a checkpoint is used: they come along to the grown one unchanged."""

SUBFOLDERS = ("*_Pooling", "additional_chat_templates")
MODULES = "modules.json"
MODULE_FILES = ("*.json", "*.txt", "model.safetensors", "pytorch_model.bin")
"""Files of a module that `modules.json` names; its weights are its own, and nothing reads a pickle here."""
MODULE_DEPTH = 3  # folders below each other: those of a router lie in its own
NO_COMPANIONS = (".py", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")

HUB_FILES = ("*.json", "*.safetensors", *COMPANIONS)
HUB_SKIP = ("*/*.safetensors", "consolidated*", "onnx/*", "openvino/*", "coreml/*", "checkpoint-*/*")

OTHER_WEIGHTS = {
    "*.gguf": ("GGUF weights only", "use the unquantised safetensors checkpoint that they were made from"),
    "*.bin": ("pickled weights only", PICKLE_FIX),
    "*.bin.index.json": ("pickled weights only", PICKLE_FIX),
    "*.pt": ("pickled weights only", PICKLE_FIX),
    "*.pth": ("pickled weights only", PICKLE_FIX),
    "*.ckpt": ("pickled weights only", PICKLE_FIX),
    "*.h5": ("Keras weights only", "use the safetensors version of the checkpoint"),
    "*.msgpack": ("Flax weights only", "use the safetensors version of the checkpoint"),
    "*.onnx": ("ONNX weights only", "use the safetensors checkpoint that they were exported from"),
}


ADAPTED = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
}
"""task_type of an adapter -> the class of its base model."""
LARGEST_ADAPTER = 1 << 20  # bytes of its config


def locate(src: str | os.PathLike, *, revision: str | None = None) -> Path:
    """The local folder of a checkpoint; a hub id is downloaded, all files from one commit.

    src       folder, bundled name or hub id; an existing folder wins over the other two
    revision  branch, tag or commit of a hub id; nothing else has one

    >>> locate("HuggingFaceTB/SmolLM2-135M", revision="main")    # doctest: +SKIP
    """
    if not isinstance(src, (str, os.PathLike)):
        raise BadInput(
            option(src=src),
            what=f"must be a text or a path, got {type(src).__name__}",
            why="a source is a checkpoint folder, a bundled name or a hub id ORG/NAME",
            fix="write the path of a folder, one of the bundled names, or ORG/NAME",
        )
    text = os.fspath(src)
    is_path = not isinstance(src, str) or not text or text.startswith((".", "~", "/")) or os.path.isdir(text)
    bundled = () if is_path else _bundled()
    is_path = is_path or (text not in bundled and os.path.lexists(text))
    if not is_path and text not in bundled and HUB_ID.fullmatch(text):
        return _download(text, revision)
    if revision is not None:
        raise BadInput(
            option(revision=show(revision)),
            what=f"{show(text) or 'the empty source'} is not a hub id",
            why="only a repository on the hub has revisions",
            fix="leave the revision out, or give ORG/NAME",
        )
    if text in bundled:
        from grow.zoo import bundled_path

        return Path(bundled_path(text))
    if not is_path and "/" not in text:
        raise BadInput(
            show(text),
            what=f"neither a folder nor a bundled name; {did_you_mean(text, bundled) or 'see the list'}",
            details=[("bundled", ", ".join(bundled) or "none")],
            why="a source is a checkpoint folder, a bundled name or a hub id ORG/NAME",
            fix="write the path of a folder, one of the bundled names, or ORG/NAME",
        )
    return check_folder(src)


def check_folder(path: str | os.PathLike) -> Path:
    """`path` as a real, absolute folder; a file, a missing path and the empty string are explained."""
    text = os.fspath(path)
    where = show(text)

    def bad(what: str, fix: str) -> BadInput:
        why = "a checkpoint is config.json and safetensors together in one folder"
        return BadInput(where or "source", what=what, why=why, fix=fix)

    if not text:
        raise bad("the path is empty", "give the folder of a checkpoint")
    try:
        real = Path(os.path.realpath(text, strict=True))
    except FileNotFoundError:
        fix = "check the spelling, or the folder you are in (pwd)"
        if HUB_ID.fullmatch(text):
            fix = f"hf download {text}, or give the hub id to a command that takes one"
        elif text.startswith("~"):
            fix = "leave ~ unquoted, so that the shell expands it"
        raise bad("does not exist", fix) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise bad(f"cannot be opened: {reason}", "check the path and its permissions") from None
    if not real.is_dir():
        raise bad("is a file; wanted the folder that holds it", f"give {show(real.parent)}")
    return real


def plain_name(name: object, where: str) -> str:
    """`name`, when it is a file beside the index on every system: no folder, drive or device."""
    text = name if isinstance(name, str) else ""
    fault = ""
    if not isinstance(name, str) or not name or name in (".", ".."):
        fault = "is not a file name"
    elif any(ord(char) < 32 or ord(char) == 127 or "\ud800" <= char <= "\udfff" for char in text):
        fault = "holds a NUL, control character or lone surrogate"
    elif any(char in text for char in '/\\:*?"<>|'):
        fault = "leaves the folder or is not a file name on every system"
    elif WINDOWS_DEVICE.fullmatch(text):
        fault = "is a device on Windows"
    elif text.endswith((".", " ")) or len(os.fsencode(text)) > 255:
        fault = "is not a file name on every system"
    if fault:
        raise BadInput(
            where,
            what=f"file name {show(repr(name))} {fault}",
            why="an index may only name files beside it",
            fix="name the shards model-00001-of-0000N.safetensors, in the folder of the index",
        )
    return text


def inside(folder: Path, name: str, follow_symlinks: bool = False) -> Path:
    """`folder / name`, when it ends in `folder` (a real path) or in the blobs of the same hub cache."""
    path = folder / name
    target = Path(os.path.realpath(path))
    if follow_symlinks or target.is_relative_to(folder):
        return path
    for snapshot in (folder, *folder.parents):
        cache = snapshot.parent.parent
        cached = snapshot.parent.name == "snapshots" and cache.name.startswith("models--")
        if cached and target.parent == cache / "blobs":
            return path
    raise BadInput(
        show(path),
        what=f"is a symlink that leaves the folder, to {show(target)}",
        why="a downloaded checkpoint must not reach files elsewhere on this machine",
        fix=f"if you trust the file, copy it into the folder: cp --remove-destination {show(target)} {show(path)}",
    )


def module_folder(name: object) -> bool:
    """Whether `name` is a folder beside modules.json that sentence-transformers may have written."""
    try:
        return bool(plain_name(name, MODULES))
    except BadInput:
        return False


def module_folders(folder: Path, follow_symlinks: bool = False) -> list[str]:
    """The folders that modules.json names and that are there; [] where it cannot be understood."""
    try:
        fd = open_regular(inside(folder, MODULES, follow_symlinks))
        try:
            size = os.fstat(fd).st_size
            stored = json.loads(read_exactly(fd, size, 0, MODULES)) if size <= 1 << 20 else None
        finally:
            os.close(fd)
    except (BadInput, ValueError, RecursionError, OSError):
        return []
    entries = stored if isinstance(stored, list) else []
    paths = [entry.get("path") for entry in entries if isinstance(entry, dict)]
    folders = dict.fromkeys(str(path) for path in paths if module_folder(path))
    return [path for path in folders if (folder / path).is_dir()]


def module_files(folder: Path, follow_symlinks: bool = False) -> list[str]:
    """The files of the modules that modules.json names, without code."""
    found: list[str] = []
    for path in module_folders(folder, follow_symlinks):
        inside(folder, path, follow_symlinks)
        for place, below, names in os.walk(folder / path):
            at = Path(place).relative_to(folder)
            below[:] = sorted(below) if len(at.parts) < MODULE_DEPTH else []
            found += [
                str(at / name)
                for name in sorted(names)
                if any(fnmatch.fnmatchcase(name, pattern) for pattern in MODULE_FILES)
            ]
    return found


def check_kind(folder: Path, names: list[str]) -> None:
    """The folder is a transformers checkpoint and not something else that people keep in folders."""
    where = show(folder)
    if any(name in names for name in ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")):
        raise Refused(
            where,
            what="is a PEFT adapter, not a model",
            why="an adapter is a difference to a base model; growth needs the sum",
            fix=_merged(folder),
        )
    if "config.json" not in names:
        if MODULES in names:
            raise Refused(
                where,
                what=f"has {MODULES} and no config.json; found {listing(map(show, names))}",
                why="the transformer of this sentence-transformers folder lies in another one, or there is none",
                fix="SentenceTransformer(SRC).save(DST) writes the transformer into the folder itself",
            )
        refuse_other_weights(folder, names)
        raise BadInput(
            where,
            what=f"has no config.json; found {listing(map(show, names)) or 'nothing, the folder is empty'}",
            why="a checkpoint is config.json and safetensors together in one folder",
            fix="give the folder that holds config.json; for a repository: hf download ORG/NAME",
        )


def _merged(folder: Path) -> str:
    """The command that adds an adapter to its base model, as far as adapter_config.json names the two."""
    said: dict = {}
    with contextlib.suppress(GrowError, OSError):
        fd = open_regular(inside(folder, "adapter_config.json"))
        try:
            raw = read_exactly(fd, min(os.fstat(fd).st_size, LARGEST_ADAPTER), 0, "adapter_config.json")
        finally:
            os.close(fd)
        found = strict_json(raw, "adapter_config.json", "")
        said = found if isinstance(found, dict) else {}
    base, task = said.get("base_model_name_or_path"), said.get("task_type")
    base = base if isinstance(base, str) and PLAIN.fullmatch(base) else "BASE"
    return MERGE.format(cls=ADAPTED.get(str(task), "AutoModel"), base=base, adapter=in_command(folder, "ADAPTER"))


def refuse_other_weights(folder: Path, names: list[str]) -> None:
    """There are safetensors, or no weights at all; a folder with weights in other formats only is refused."""
    if any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names):
        return
    for pattern, (found, fix) in OTHER_WEIGHTS.items():
        if others := fnmatch.filter(names, pattern):
            what = f"{found}: {listing(map(show, others))}"
            raise Refused(
                show(folder),
                what=what,
                why="grow reads safetensors, unquantised",
                fix=fix.replace("SRC", in_command(folder)),
            )


def companions(folder: Path, names: Iterable[str], follow_symlinks: bool = False) -> list[str]:
    """Paths relative to `folder` that match COMPANIONS, never code or weights; `names`: its listing."""
    found = []
    names = list(names)
    modules = module_files(folder, follow_symlinks) if MODULES in names else []
    own = {module.split(os.sep)[0] for module in modules}
    for name in names:
        path = folder / name
        if name in own:
            continue
        if not path.is_dir():
            found.append(name)
        elif name in COMPANIONS:
            raise BadInput(show(path), what="is a folder; wanted a file", why="it comes along", fix="remove it")
        elif any(fnmatch.fnmatchcase(name, pattern) for pattern in SUBFOLDERS):
            inside(folder, name, follow_symlinks)
            found += [f"{name}/{child}" for child in sorted(os.listdir(path)) if not (path / child).is_dir()]
    kept = [
        name
        for name in found
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in COMPANIONS)
        and not name.lower().endswith(NO_COMPANIONS)
    ]
    return kept + modules


def _bundled() -> tuple[str, ...]:
    from grow.zoo import BUNDLED

    return tuple(BUNDLED)


def _download(repo: str, revision: str | None) -> Path:
    """The snapshot of `repo` at the commit `revision` points to now; without a network, the cached one."""
    import huggingface_hub as hub

    where = repo if revision is None else f"{repo}@{show(revision)}"
    fetch = partial(hub.snapshot_download, repo, allow_patterns=list(HUB_FILES), ignore_patterns=list(HUB_SKIP))
    try:
        try:
            info = hub.HfApi().model_info(repo, revision=revision, timeout=30)
        except Exception as error:
            if not _is_network(error):
                raise
            cached = Path(fetch(revision=revision, local_files_only=True))
            return _with_modules(repo, cached, revision=revision, local_files_only=True)
        names = [sibling.rfilename for sibling in info.siblings or ()]
        if not any(name.endswith(".safetensors") and "/" not in name for name in names):
            raise Refused(
                where,
                what="has no safetensors weights",
                why="grow reads safetensors only; loading a pickle can run code",
                fix=PICKLE_FIX.replace("SRC", repo),
            )
        return _with_modules(repo, Path(fetch(revision=info.sha)), revision=info.sha)
    except GrowError:
        raise
    except Exception as error:
        raise _hub_fault(where, repo, error) from None


def _with_modules(repo: str, snapshot: Path, **options: Any) -> Path:
    """The same snapshot with the weights of the modules that its modules.json names."""
    import huggingface_hub as hub

    if (snapshot / MODULES).is_file():
        stored = json.loads((snapshot / MODULES).read_bytes())
        paths = [entry["path"] for entry in stored if isinstance(entry, dict) and module_folder(entry.get("path"))]
        if paths:
            wanted = [
                f"{path}/*{name}" for path in paths for name in ("model.safetensors", "pytorch_model.bin", ".json")
            ]
            hub.snapshot_download(repo, allow_patterns=wanted, **options)
    return snapshot


def _is_network(error: Exception) -> bool:
    """No answer at all from the hub, or a server fault; an answer such as 404 is not one."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status >= 500
    offline = isinstance(error, (ConnectionError, TimeoutError))
    return offline or type(error).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore", "requests")


def _hub_fault(where: str, repo: str, error: Exception) -> BadInput:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    why = "it is neither a folder here nor readable on the hub"
    if isinstance(error, errors.GatedRepoError):
        what, why = "is gated, and this machine has no access", "its owner wants a login"
        fix = f"open https://huggingface.co/{repo}, accept its conditions, then: hf auth login"
    elif isinstance(error, errors.RevisionNotFoundError):
        what, fix = "has no such revision", f"see https://huggingface.co/{repo}/commits"
    elif isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403, 404):
        what = "not found: no folder here, no public repository on the hub"
        fix = "check the spelling of the folder or repository; when it is private: hf auth login"
    elif status == 429:
        what, why = "the hub answers 429, too many requests", "it limits requests per address"
        fix = "wait a minute, or hf auth login, which raises the limit"
    elif isinstance(error, errors.LocalEntryNotFoundError) or _is_network(error):
        what = "is not a folder here and not in the cache"
        why = "the hub cannot be reached (offline, HF_HUB_OFFLINE or a server fault)"
        fix = "connect, or give the folder of a checkpoint that is on this machine"
    else:
        first = (str(error).strip().splitlines() or [""])[0]
        what, why = f"not downloaded: {type(error).__name__}: {show(first)}", "the download failed here"
        fix = f"check disk space and permissions, then: hf download {repo}"
    return BadInput(where, what=what, why=why, fix=fix)
