"""A bad line is one message and an exit code, never a traceback; processes, terminals and completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

import grow

REPOSITORY = Path(grow.__file__).parents[1]

PLAIN = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}


def shell(line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """A line of bash with $grow as the command; `pipefail`, so that every exit code of a pipe counts."""
    env = {**PLAIN, "grow": f"{sys.executable} -m grow", **environment}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], cwd=cwd, env=env, capture_output=True, timeout=120, check=False
    )


# Bad command lines


BAD: dict[str, str] = {
    "nothing": "",
    "an unknown command": "wident",
    "an unknown option": "plan --banana",
    "no source": "plan --to 2x",
    "no target": "plan --from small",
    "a source that is nowhere": "plan --from nowhere --to 2x",
    "a bundled name misspelt": "plan --from smal --to 2x",
    "an empty source": "plan --from '' --to 2x",
    "a file as source": "plan --from small/config.json --to 2x",
    "an empty folder": "plan --from empty --to 2x",
    "a hub id offline": "plan --from no-such-org/no-such-model --to 2x",
    "a revision of a folder": "plan --from source --to 2x --revision main",
    "a source with NUL": "plan --from 'a\0b' --to 2x",
    "an empty target": "plan --from source --to ''",
    "a size misspelt": "plan --from source --to bse",
    "a factor below 1": "plan --from source --to 0.5x",
    "a factor of 1e9": "plan --from source --to 1000000000x",
    "a factor of nan": "plan --from source --to nanx",
    "a factor of infinity": "plan --from source --to 1e999x",
    "a factor with a zero below": "plan --from source --to 1/0x",
    "a negative factor": "plan --from source --to=-2x",
    "a factor that leaves a fraction": "plan --from source --to 1.7x",
    "a field misspelt": "plan --from source --to hiden_size=48",
    "a field without a value": "plan --from source --to hidden_size=",
    "a field that is not a number": "plan --from source --to hidden_size=big",
    "a field of 10^30": f"plan --from source --to hidden_size=1{'0' * 30}",
    "a field of 10^5000": f"plan --from source --to hidden_size=1{'0' * 5000}",
    "a smaller target": "plan --from source --to hidden_size=12",
    "a target of zero": "plan --from source --to hidden_size=0",
    "a field twice": "plan --from source --to hidden_size=48,hidden_size=72",
    "fewer layers": "plan --from source --to num_hidden_layers=1",
    "half a layer": "plan --from source --to layers=2.5",
    "a size, then half a layer": "plan --from source --to 2x,layers=2.5",
    "a smaller vocabulary": "plan --from source --to vocab_size=28",
    "a size that is less deep": "widen --from deep --to source --deepen --out out",
    "no layers": "deepen --from source --out out",
    "layers 0": "deepen --from source --layers 0 --out out",
    "layers -1": "deepen --from source --layers -1 --out out",
    "layers that are less": "deepen --from source --layers 1 --out out",
    "layers of 10^9": "deepen --from source --layers 999999999 --out out",
    "layers of 10^40": f"deepen --from source --layers 1{'0' * 40} --out out",
    "layers that are no number": "deepen --from source --layers all --out out",
    "a place that is none": "deepen --from source --layers 4 --place bottom --out out",
    "an empty place": "deepen --from source --layers 4 --place '' --out out",
    "a place after nothing": "deepen --from source --layers 4 --place after: --out out",
    "a place after a word": "deepen --from source --layers 4 --place after:last --out out",
    "a place after a layer that is not there": "deepen --from source --layers 4 --place after:2 --out out",
    "a place before the first": "deepen --from source --layers 4 --place after:-1 --out out",
    "a place in a list that is not there": "deepen --from source --layers 4 --place 0,2 --out out",
    "a place too few": "deepen --from source --layers 4 --place 0 --out out",
    "a place too many": "deepen --from source --layers 4 --place 0,1,1 --out out",
    "a place of 10^5000": f"deepen --from source --layers 3 --place 1{'0' * 5000} --out out",
    "a fill that is none": "deepen --from source --layers 4 --fill zeros --out out",
    "new tokens that are none": "plan --from source --to vocab_size=40 --new-tokens mean",
    "low tokens without a bias": "plan --from source --to vocab_size=40 --new-tokens low",
    "a post-norm without gains": "deepen --from bare --layers 3 --out out",
    "a target for deepen": "deepen --from source --layers 3 --to 2x --out out",
    "a target that is not a config": "plan --from source --to source/model.safetensors",
    "another family as target": "plan --from source --to gpt2",
    "an operator without =": "plan --from source --to 2x --operator copies",
    "an operator misspelt": "plan --from source --to 2x --operator ffn=copy",
    "an operator on no axis": "plan --from source --to 2x --operator vocab=copies",
    "an operator that cannot": "plan --from source --to hidden_size=36 --operator hidden=mean",
    "an unknown dtype": "plan --from source --to 2x --dtype int8",
    "a negative seed": "plan --from source --to 2x --seed -1",
    "a seed of 2^64": "plan --from source --to 2x --seed 18446744073709551616",
    "a seed that is not a number": "plan --from source --to 2x --seed x",
    "an unknown config field": "plan --from odd --to 2x",
    "a shard size of nothing": "widen --from source --to 2x --out out --max-shard-size 0",
    "a shard size of bananas": "widen --from source --to 2x --out out --max-shard-size 5bananas",
    "a missing parent": "widen --from source --to 2x --out nowhere/out",
    "the source as output": "widen --from source --to 2x --out source",
    "a rung misspelt": "verify source source --rung certificat",
    "one folder to verify": "verify source",
    "three folders to verify": "verify source source source",
    "an unknown family": "families lama",
    "an unknown shell": "completion tcsh",
    "inspect of a file": "inspect source/config.json",
    "train without a run": "train --from small",
    "train with a schedule misspelt": "train --from small --out out --schedule cosin",
    "train with a re-warming of words": "train --from small --out out --rewarm fast",
    "an unknown kind of data": "data prepair x",
    "a recipe that is nowhere": "run nowhere.toml --out out",
    "a bundled recipe misspelt": "run small-to-bsae --dry-run",
    "a recipe that is a folder": "run source --dry-run",
}
FORKS = """
import json, os, sys, tempfile
import grow.api, grow.growth.from_files, grow.staged  # once, and not in every fork
from grow.cli import main
found = {}
for name, line in json.load(sys.stdin).items():
    files = [tempfile.TemporaryFile() for _ in "oe"]
    child = os.fork()
    if not child:
        for fd, file in enumerate(files, 1):
            os.dup2(file.fileno(), fd)
        sys.argv = ["grow", *line]
        try:
            main()
        except SystemExit as stop:  # all is flushed; the rest of an interpreter's end takes longer than the line
            os._exit(stop.code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    texts = []
    for file in files:
        file.seek(0)
        texts.append(file.read().decode("utf-8", "surrogateescape"))
    found[name] = [code, *texts]
json.dump(found, sys.stdout)
"""


def test_a_bad_line_is_one_message_with_where_why_and_fix_on_any_terminal(tmp_path):
    """Forks of one process, on a dumb terminal without a locale."""
    import shlex

    tiny.checkpoint(tmp_path / "source", "llama")
    tiny.checkpoint(tmp_path / "odd", "llama", is_causal=True)
    tiny.checkpoint(tmp_path / "deep", "llama", num_hidden_layers=5)
    tiny.checkpoint(tmp_path / "bare", "opt", do_layer_norm_before=False, layer_norm_elementwise_affine=False)
    (tmp_path / "empty").mkdir()
    before = tiny.snapshot(tmp_path)
    split = {name: shlex.split(line) for name, line in BAD.items()}
    done = subprocess.run(
        [sys.executable, "-c", FORKS],
        input=json.dumps(split),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**PLAIN, "TERM": "dumb", "LANG": "C"},
        timeout=120,
        check=True,
    )
    wrong = {}
    for name, (code, out, err) in json.loads(done.stdout).items():
        ours = err.startswith("error: ") and "\n  why  " in err and "\n  fix  " in err
        usage = err.startswith("Usage: ") and "--help" in err
        if (code, out) != (2, "") or "Traceback" in err or not (ours or usage) or len(err) > 2000:
            wrong[name] = code, out, err
    assert wrong == {}
    assert tiny.snapshot(tmp_path) == before  # and none of them wrote anything


# Processes


def test_importing_grow_and_planning_import_neither_torch_nor_transformers(tmp_path):
    code = (
        "import sys, grow, grow.cli\n"
        "sys.argv = 'grow plan --from small --to 2x --json'.split()\n"
        "try: grow.cli.main()\n"
        "finally: print(sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)), file=sys.stderr)"
    )
    found = shell(f"{sys.executable} -c '{code.replace(chr(39), chr(34))}'", tmp_path)
    assert (found.returncode, found.stderr) == (0, b"[]\n")
    assert json.loads(found.stdout)["family"] == "llama"


def test_exit_codes_of_the_installed_command(pair, tmp_path):
    source, grown = pair
    damaged = tmp_path / "damaged"
    line = (
        f"cp -r {grown} {damaged}; "
        f"$grow verify {source} {grown} --rung certificate; echo $?; "
        f"printf x | dd of={damaged}/model.safetensors bs=1 seek=9000 conv=notrunc status=none; "
        f"$grow verify {source} {damaged} --rung certificate >/dev/null; echo $?; "
        f"$grow verify {source} {damaged} --rung certificate | true; echo $?; "
        f"$grow verify {source} nowhere; echo $?"
    )
    found = shell(line, tmp_path, LANG="C", TERM="dumb")
    said = found.stdout.decode().splitlines()
    # a reader that has left does not turn "different" into success
    assert [word for word in said if word in "0123"] == ["0", "1", "1", "2"]
    assert b"Traceback" not in found.stderr


@pytest.mark.parametrize("line", ["$grow plan --from small --to 2x", "$grow families --json", "$grow --help"])
def test_a_reader_that_has_seen_enough_is_no_error(line, tmp_path):
    found = shell(f"{line} | head -1; {line} | true; {line} >&-", tmp_path)
    assert found.stderr == b""
    assert found.returncode == 0
    assert found.stdout.count(b"\n") == 1


def test_a_terminal_without_the_letters_gets_escapes_and_json_stays_json(pair, tmp_path):
    old = {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    line = f"$grow plan --from {pair[0]} --to hidden_size=36; $grow plan --from {pair[0]} --to 2x --json"
    found = shell(line, tmp_path, **old)
    assert (found.returncode, found.stderr) == (0, b"")
    text, document = found.stdout.decode("latin-1").split("\n{\n", 1)
    assert r"stream × \u221a(36/24)" in text
    assert json.loads("{" + document.encode("latin-1").decode("ascii"))["axes"]["hidden"]["how"] == "copies × 2"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("bash", "complete -o nosort -F"), ("zsh", "#compdef grow"), ("fish", "complete --no-files --command grow")],
)
def test_completion_scripts(grow_, name, wanted):
    if name == "bash":  # click asks the installed bash for its version
        pytest.importorskip("shutil").which("bash") or pytest.skip("no bash here")
    code, out, _ = grow_("completion", name)
    assert code == 0
    assert wanted in out
    assert "_GROW_COMPLETE" in out


def test_completion_completes(monkeypatch, capsys):
    monkeypatch.setenv("_GROW_COMPLETE", "zsh_complete")
    monkeypatch.setenv("COMP_WORDS", "grow wid")
    monkeypatch.setenv("COMP_CWORD", "1")
    code, out, _ = tiny.command(monkeypatch, capsys)
    assert (code, out.splitlines()[:2]) == (0, ["plain", "widen"])


def test_progress_is_shown_on_a_terminal_only(pair, tmp_path, monkeypatch, capsys):
    line = ["widen", "--from", pair[0], "--to", "2x", "--no-verify", "--out"]
    assert tiny.command(monkeypatch, capsys, *line, tmp_path / "a")[2] == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert "writing " in tiny.command(monkeypatch, capsys, *line, tmp_path / "b")[2]
    assert tiny.command(monkeypatch, capsys, *line, tmp_path / "c", "--json")[2] == ""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("small --record x.st --tasks", "--tasks has no meaning with --record"),
        ("small --record x.st --rung loss", "--rung has no meaning with --record"),
        ("--against x.st small --samples 3", "--samples has no meaning with --against"),
        ("small small --overwrite", "--overwrite has no effect without --record"),
        ("small --record x.st --against y.st", "give one of them"),
        ("small small --record x.st", "--record takes SRC alone"),
        ("small small --against x.st", "--against takes GROWN alone"),
        ("small", "Missing argument 'GROWN'"),
        ("--record x.st", "Missing argument 'SRC'"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(grow_, tmp_path, monkeypatch, line, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = grow_("verify", *line.split())
    assert (code, out) == (2, "")
    assert said in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["missing/report.html", "folder", "/dev/full"])
def test_a_report_that_cannot_be_written_is_refused_before_the_work(grow_, pair, tmp_path, monkeypatch, place):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grow.api, "verify_folders", pytest.fail)
    code, out, err = grow_("verify", *pair, "--report", place)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: --report {place}: ")


def test_record_and_against_stand_for_the_source(grow_, pair, tmp_path):
    golden, page = tmp_path / "golden.safetensors", tmp_path / "page.html"
    code, out, _ = grow_("verify", pair[0], "--record", golden)
    assert code == 0
    assert out.startswith(f"{golden}: ")
    assert grow_("verify", pair[0], "--record", golden)[0] == 2
    assert grow_("verify", pair[0], "--record", golden, "--overwrite")[0] == 0
    code, out, _ = grow_("verify", "--against", golden, pair[1], "--report", page)
    assert code == 0
    assert "lossless: " in out
    assert page.is_file()
