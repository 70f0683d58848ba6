"""Checkpoints of the hub: all files of one from one commit, downloaded or from the cache."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from grow.errors import BadInput, GrowError, Refused
from grow.files.companion_files import COMPANIONS, MODULES, module_folder
from grow.files.foreign_files import PICKLE_FIX
from grow.files.header import show

HUB_FILES = ("*.json", "*.safetensors", *COMPANIONS)
HUB_SKIP = ("*/*.safetensors", "consolidated*", "onnx/*", "openvino/*", "coreml/*", "checkpoint-*/*")


def download(repo: str, revision: str | None) -> Path:
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
        return bool(status >= 500)
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
