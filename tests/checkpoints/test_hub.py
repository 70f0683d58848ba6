"""Sources from the Hub, bundled names and folders: which is taken, and what is said when there is none."""

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors
from malformed import check_message

from grow.checkpoint.reader import SINGLE, open_checkpoint
from grow.errors import BadInput, Refused
from grow.files.hub_download import HUB_FILES, HUB_SKIP
from grow.files.locate import check_folder, locate

pytestmark = pytest.mark.quick


def hub_error(kind: str, status: int | None) -> Exception:
    """An error of huggingface_hub as a real response would make it, whichever HTTP library is below."""
    cls = getattr(errors, kind)
    error = cls.__new__(cls, "first line\nsecond line")
    error.response = status and SimpleNamespace(status_code=status, headers={})
    return error


HUB_FAULTS = {
    "gated": (hub_error("GatedRepoError", 401), "is gated", "hf auth login"),
    "absent": (hub_error("RepositoryNotFoundError", 404), "not found: no folder here", "spelling"),
    "private": (hub_error("HfHubHTTPError", 401), "not found", "hf auth login"),
    "revision": (hub_error("RevisionNotFoundError", 404), "has no such revision", "/commits"),
    "busy": (hub_error("HfHubHTTPError", 429), "429", "wait a minute"),
    "server": (hub_error("HfHubHTTPError", 503), "not in the cache", "on this machine"),
    "offline": (hub_error("OfflineModeIsEnabled", None), "not in the cache", "on this machine"),
    "unplugged": (ConnectionError("x"), "not in the cache", "on this machine"),
    "slow": (TimeoutError("x"), "not in the cache", "on this machine"),
    "disk": (OSError(28, "No space left on device"), "No space left on device", "disk space"),
    "strange": (ValueError("first\nsecond"), "ValueError: first", "hf download"),
}


@pytest.mark.parametrize("fault", HUB_FAULTS)
def test_a_hub_fault_is_one_message(fault, monkeypatch, tmp_path):
    error, what, fix = HUB_FAULTS[fault]

    def fail(*_, **__):
        raise error

    def uncached(*_, **__):
        raise errors.LocalEntryNotFoundError("not cached")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", uncached)
    with pytest.raises(BadInput) as found:
        locate("org/name", revision="v1")
    check_message(found.value, "org/name@v1", what)
    assert fix in found.value.fix
    assert found.value.__suppress_context__


def fake_hub(monkeypatch, siblings: tuple[str, ...] = (SINGLE,)) -> list[dict]:
    calls: list[dict] = []

    def info(_, repo, revision=None, timeout=None):
        return SimpleNamespace(sha="c0ffee", siblings=[SimpleNamespace(rfilename=name) for name in siblings])

    def download(repo, **options):
        calls.append({"repo": repo, **options})
        return "/cache"

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return calls


def test_a_hub_id_is_fetched_at_one_commit_without_pickles(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    calls = fake_hub(monkeypatch)
    assert locate("org/name", revision="main") == Path("/cache")
    assert [call["revision"] for call in calls] == ["c0ffee"]
    files = [
        "config.json",
        SINGLE,
        "tokenizer.model",
        "1_Pooling/config.json",
        "pytorch_model.bin",
        "modeling.py",
    ]
    skipped = [
        "onnx/config.json",
        "consolidated.safetensors",
        "2_Dense/model.safetensors",
        "training_args.bin",
    ]
    wanted = huggingface_hub.utils.filter_repo_objects(
        files + skipped, allow_patterns=list(HUB_FILES), ignore_patterns=list(HUB_SKIP)
    )
    assert list(wanted) == files[:4]
    assert calls[0]["allow_patterns"] == list(HUB_FILES)


def test_without_a_network_the_cached_snapshot_is_used(monkeypatch, tmp_path):
    def offline(*_, **__):
        raise hub_error("OfflineModeIsEnabled", None)

    monkeypatch.chdir(tmp_path)
    calls = fake_hub(monkeypatch)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", offline)
    assert locate("org/name") == Path("/cache")
    assert calls[0]["local_files_only"] is True
    assert calls[0]["allow_patterns"] == list(HUB_FILES)


def test_a_pickled_repository_is_refused_before_the_download(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    calls = fake_hub(monkeypatch, ("config.json", "pytorch_model.bin", "onnx/model.safetensors"))
    with pytest.raises(Refused) as found:
        locate("org/name")
    check_message(found.value, "org/name", "has no safetensors weights")
    assert calls == []


def test_a_folder_wins_over_a_bundled_name_and_a_hub_id(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("small", "org/name"):
        (tmp_path / name).mkdir(parents=True)
        assert locate(name) == (tmp_path / name).resolve()
        assert locate(Path(name)) == (tmp_path / name).resolve()


def test_a_bundled_name_is_found_and_opens():
    with open_checkpoint(locate("small")) as checkpoint:
        assert checkpoint.config["model_type"] == "llama"


@pytest.mark.parametrize(
    ("src", "what"),
    [
        ("smal", "did you mean 'small'?"),
        ("no-such-thing-at-all", "neither a folder nor a bundled name"),
        ("", "the path is empty"),
        ("./small", "does not exist"),
        ("a/b/c", "does not exist"),
        ("a\0b", "neither a folder nor a bundled name"),
        ("C:\\models\\x", "neither a folder nor a bundled name"),
        (Path("small"), "does not exist"),
    ],
)
def test_a_source_that_is_nothing_is_explained(src, what, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as found:
        locate(src)
    check_message(found.value, "", what)


def test_only_a_hub_id_has_a_revision(tmp_path):
    for src in (str(tmp_path), "small", tmp_path):
        with pytest.raises(BadInput, match="is not a hub id"):
            locate(src, revision="main")


def test_check_folder_follows_links_to_the_real_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    assert check_folder(tmp_path / "b") == (tmp_path / "a").resolve()
