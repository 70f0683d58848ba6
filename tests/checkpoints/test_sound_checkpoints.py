"""Every sound checkpoint opens, however it is stored, and a change while it is open is noticed."""

import json
import os
import shlex
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from malformed import (
    CONFIG,
    S2,
    SHARDS,
    TENSORS,
    check_message,
    edit_config,
    edit_index,
    entry,
    framed,
    replace,
    serialised,
    write,
    write_json,
    write_sharded,
    write_single,
)

from grow.checkpoint.reader import INDEX, SINGLE, Checkpoint, open_checkpoint
from grow.errors import BadInput
from grow.files.header import parse_header, read_header, strict_json
from grow.files.stored_rows import read_rows
from grow.notation.dtypes import FILE_DTYPES

pytestmark = pytest.mark.quick


def contents(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    found = {}
    for name, info in checkpoint.tensors.items():
        raw = checkpoint.read(info, 0, info.nbytes)
        found[name] = np.frombuffer(raw, FILE_DTYPES[info.dtype][1]).reshape(info.shape)
    return found


def assert_sound(checkpoint: Checkpoint) -> None:
    found = contents(checkpoint)
    assert found.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(found[name], value)


def test_a_single_file_opens(tmp_path):
    with open_checkpoint(write_single(tmp_path)) as checkpoint:
        assert_sound(checkpoint)
        assert checkpoint.path == tmp_path.resolve()
        assert checkpoint.config == CONFIG
        assert checkpoint.files == [tmp_path / SINGLE]
        assert checkpoint.notes == []
        checkpoint.check_unchanged()


def test_shards_are_merged(tmp_path):
    with open_checkpoint(str(write_sharded(tmp_path))) as checkpoint:
        assert_sound(checkpoint)
        assert [file.name for file in checkpoint.files] == list(SHARDS)
        assert [info.file.name for info in checkpoint.tensors.values()] == list(SHARDS)


@pytest.mark.parametrize("index", [{}, {"metadata": {}}, {"metadata": {"total_size": 160}}])
def test_an_index_needs_no_metadata(index, tmp_path):
    write_json(write_sharded(tmp_path) / INDEX, {**index, "weight_map": dict(zip(TENSORS, SHARDS))})
    with open_checkpoint(tmp_path) as checkpoint:
        assert_sound(checkpoint)
        assert checkpoint.notes == []


def test_a_stale_total_size_is_a_note(tmp_path):
    edit_index(metadata={"total_size": -1})(write_sharded(tmp_path))
    with open_checkpoint(tmp_path) as checkpoint:
        assert "total_size -1 is stale, the tensors hold 160" in checkpoint.notes[0]


def test_unlisted_tensors_are_ignored_only_on_request(tmp_path):
    write(S2, serialised({"norm.weight": TENSORS["norm.weight"], "old.bias": np.ones(3, "<f4")}))(
        write_sharded(tmp_path)
    )
    with pytest.raises(BadInput, match=r"unlisted +old\.bias") as found:
        open_checkpoint(tmp_path, ignore_unexpected=["*.weight"])
    assert "save_pretrained" in found.value.fix  # no command has an option for it
    with open_checkpoint(tmp_path, ignore_unexpected=["old.*"]) as checkpoint:
        assert_sound(checkpoint)
        assert checkpoint.notes == ["ignored, as asked: old.bias"]


def test_a_hub_cache_opens_through_its_links_and_no_further(tmp_path):
    repo = tmp_path / "models--org--name"
    snapshot = write_sharded(repo / "snapshots" / "0123abc")
    (snapshot / "1_Pooling").mkdir()
    write_json(snapshot / "1_Pooling" / "config.json", {})
    blobs = repo / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(snapshot.rglob("*.*"))):
        path.rename(blobs / str(number))
        path.symlink_to(os.path.relpath(blobs / str(number), path.parent))
    with open_checkpoint(snapshot) as checkpoint:
        assert_sound(checkpoint)
        assert checkpoint.companions == ["1_Pooling/config.json"]
    other = tmp_path / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    (blobs / "2").rename(other / "2")
    link = next(path for path in snapshot.iterdir() if path.is_symlink() and not path.exists())
    link.unlink()
    link.symlink_to(other / "2")
    with pytest.raises(BadInput, match="leaves the folder") as caught:
        open_checkpoint(snapshot)
    with open_checkpoint(snapshot, follow_symlinks=True) as checkpoint:
        assert_sound(checkpoint)
    subprocess.run(shlex.split(caught.value.fix.partition(": ")[2]), check=True)
    with open_checkpoint(snapshot) as checkpoint:
        assert_sound(checkpoint)


def test_a_followed_link_must_still_end_in_a_file(tmp_path):
    replace(SINGLE, lambda path: path.symlink_to("/dev/zero"))(write_single(tmp_path))
    with pytest.raises(BadInput) as found:
        open_checkpoint(tmp_path, follow_symlinks=True)
    check_message(found.value, SINGLE, "no regular file")


def test_a_file_without_tensors_is_no_checkpoint(tmp_path):
    write(SINGLE, framed("{}"))(write_single(tmp_path))
    with pytest.raises(BadInput) as found:
        open_checkpoint(tmp_path)
    check_message(found.value, SINGLE, "holds no tensor")


def test_a_folder_that_is_itself_a_link_opens(tmp_path):
    write_single(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    with open_checkpoint(tmp_path / "link") as checkpoint:
        assert checkpoint.path == (tmp_path / "real").resolve()


@pytest.mark.parametrize("name", ["with space", "new\nline", "snow☃man", "-dash", "x" * 200])
def test_odd_folder_names_open(name, tmp_path):
    with open_checkpoint(write_single(tmp_path / name)) as checkpoint:
        assert_sound(checkpoint)


def test_a_config_with_a_byte_order_mark_opens(tmp_path):
    write("config.json", b"\xef\xbb\xbf" + json.dumps(CONFIG).encode())(write_single(tmp_path))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.config == CONFIG


def test_null_sizes_and_absent_refusals_are_accepted(tmp_path):
    fields = {"head_dim": None, "n_inner": None, "quantization_config": None, "auto_map": {}, "dtype": None}
    edit_config(**fields)(write_single(tmp_path))
    open_checkpoint(tmp_path).close()


def test_private_fields_are_stripped_at_every_depth(tmp_path):
    private = {"_attn_implementation_internal": "org/evil", "text": {"_x": 1, "y": [{"_z": 2}]}}
    edit_config(**private)(write_single(tmp_path))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.config == {**CONFIG, "text": {"y": [{}]}}
        assert "_attn_implementation_internal, text._x, text.y._z" in checkpoint.notes[0]


COMING = """
    1_Pooling/config.json LICENSE LICENSE.txt added_tokens.json chat_template.jinja
    config_sentence_transformers.json generation_config.json merges.txt modules.json
    preprocessor_config.json sentence_bert_config.json special_tokens_map.json tokenizer.json
    tokenizer.model tokenizer_config.json vocab.json vocab.txt
"""
STAYING = """
    README.md LICENSE.py modeling_x.py pytorch_model.bin optimizer.pt training_args.bin model.gguf
    trainer_state.json weights.model consolidated.safetensors 1_Pooling/model.safetensors
"""


def test_companions_are_what_describes_and_never_weights_or_code(tmp_path):
    write_single(tmp_path)
    coming, staying = COMING.split(), STAYING.split()
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "LICENSES").mkdir()
    for name in (*coming, *staying):
        (tmp_path / name).write_bytes(b"\n\x0a" if name != "weights.model" else b"\x80\x02}")
    with open_checkpoint(tmp_path) as checkpoint:
        assert sorted(checkpoint.companions) == coming
        assert any("weights.model" in note for note in checkpoint.notes)
        assert any("consolidated.safetensors" in note for note in checkpoint.notes)


def test_an_invalid_generation_config_comes_along_unread(tmp_path):
    write("generation_config.json", "{nonsense")(write_single(tmp_path))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.companions == ["generation_config.json"]


@pytest.mark.parametrize("code", FILE_DTYPES)
def test_every_dtype_and_empty_tensor_is_located(code, tmp_path):
    size, dtype = FILE_DTYPES[code]
    header = {"a": entry((3,), (0, 3 * size), code), "none": entry((0, 5), (3 * size, 3 * size), code)}
    path = tmp_path / "x.safetensors"
    path.write_bytes(framed({**header, "__metadata__": {"format": "pt"}}, bytes(3 * size)))
    tensors, metadata = read_header(path)
    assert metadata == {"format": "pt"}
    assert tensors["a"].nbytes == 3 * size
    assert tensors["none"].shape == (0, 5)
    assert dtype is None or dtype.itemsize == size


def test_files_written_by_safetensors_are_read(tmp_path):
    from safetensors.numpy import save_file

    save_file(TENSORS, write_single(tmp_path) / SINGLE, metadata={"format": "np"})
    with open_checkpoint(tmp_path) as checkpoint:
        assert_sound(checkpoint)


def test_slices_are_read_from_many_threads(tmp_path):
    with open_checkpoint(write_sharded(tmp_path)) as checkpoint:
        info, wrong = checkpoint.tensors["embed.weight"], []

        def work(row: int) -> None:
            for _ in range(200):
                raw = checkpoint.read(info, row * 32, row * 32 + 32)
                rows = read_rows(checkpoint, info, row, row + 1)
                if raw != TENSORS["embed.weight"][row].tobytes() or raw != rows.tobytes():
                    wrong.append(row)

        threads = [threading.Thread(target=work, args=(row,)) for row in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert checkpoint.read(info, 5, 5) == b""


def test_bytes_outside_a_tensor_and_closed_files_are_programming_errors(tmp_path):
    checkpoint = open_checkpoint(write_single(tmp_path))
    info = checkpoint.tensors["norm.weight"]
    for start, stop in ((0, 33), (-1, 4), (8, 4)):
        with pytest.raises(ValueError, match=r"norm\.weight: bytes"):
            checkpoint.read(info, start, stop)
    with pytest.raises(ValueError, match=r"norm\.weight: bytes"):
        read_rows(checkpoint, info, 1, 9)
    checkpoint.close()
    checkpoint.close()
    with pytest.raises(ValueError, match="is not open"):
        checkpoint.read(info, 0, 4)


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def swap(path: Path) -> None:
    copy = path.with_suffix(".new")
    copy.write_bytes(path.read_bytes())
    status = path.stat()
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    copy.replace(path)


@pytest.mark.parametrize("change", [touch, swap, Path.unlink, lambda path: os.truncate(path, 9)])
@pytest.mark.parametrize("name", ["config.json", INDEX, SHARDS[1], "tokenizer.json"])
def test_a_change_while_open_is_noticed(change, name, tmp_path):
    write("tokenizer.json", "{ longer than nine bytes }")(write_sharded(tmp_path))
    with open_checkpoint(tmp_path) as checkpoint:
        checkpoint.check_unchanged()
        change(tmp_path / name)
        with pytest.raises(BadInput) as found:
            checkpoint.check_unchanged()
    check_message(found.value, str(tmp_path), f"changed since it was opened: {name}")


def test_a_file_cut_while_open_is_no_short_read(tmp_path):
    with open_checkpoint(write_single(tmp_path)) as checkpoint:
        info = checkpoint.tensors["norm.weight"]
        os.truncate(tmp_path / SINGLE, info.offset + 8)
        for read in (
            lambda: checkpoint.read(info, 0, 32),
            lambda: read_rows(checkpoint, info, 0, 8),
        ):
            with pytest.raises(BadInput) as found:
                read()
            check_message(found.value, SINGLE, "ends")


def test_a_header_read_from_an_open_file_is_the_same(tmp_path):
    path = write_single(tmp_path) / SINGLE
    with path.open("rb") as file:
        assert parse_header(file.fileno(), path) == read_header(path)


def test_strict_json_reads_what_json_is():
    assert strict_json(b' {"a": [1, 2.5e-3, null, "\\u00e9"]} ', "x", "y") == {"a": [1, 2.5e-3, None, "é"]}
