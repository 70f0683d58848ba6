"""What people and pipelines may rely on: names, options, exit codes, one JSON document, and never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import tiny

import grow
from grow.cli.commands import cli
from grow.notation.operators import OPERATORS

REPOSITORY = Path(grow.__file__).parents[1]

PLAIN = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}

# Growing either table is a decision.
PUBLIC = {
    "BadInput", "Comparison", "Different", "GrowError", "Growth", "Inspection", "Refused",
    "compare", "deepen", "families", "inspect", "integrations", "new_entries", "plan", "price", "plot", "rates",
    "record", "run", "train", "upcycle", "verify", "verify_against", "widen",
}  # fmt: skip
EXACT = "--allow-lossy --assume-harmless --dtype --from --json --method --revision --seed --split"
LAYERS = "--fill --place"
GROWTH = f"{EXACT} {LAYERS} --deepen --new-tokens --operator --to"
WRITING = "--dry-run --max-shard-size --no-verify --out --overwrite --state --trust-checkpoint --world"
COMMANDS = {
    "widen": f"{GROWTH} {WRITING}",
    "deepen": f"{EXACT} {LAYERS} {WRITING} --layers",
    "upcycle": f"{GROWTH} {WRITING} --every --experts --granularity --route --top-k",
    "plan": f"{GROWTH} --world",
    "compare": "--deepen --from --json --methods --out --rate --report --revision --seed --text --to --train-steps",
    "verify": "SRC GROWN --against --json --overwrite --record --recover --report --revision --rung --samples --seed "
    "--tasks",
    "train": "--accumulate --batch --checkpointing --clip --compile --continue-schedule --data --decay --decay-shape "
    "--documents --dtype --eval-every --flops --freeze-old --from --json --keep --length --log-every --lr --optimizer "
    "--out --plateau --rates --resume --revision --rewarm --save-every --schedule --seed --skip --source "
    "--source-tokens --state --steps --tensorboard --tokens --tracker --trust-checkpoint --warmup --weight-decay "
    "--world",
    "run": "RECIPE --dry-run --json --list --out --resume --trust-checkpoint --world",
    "plot": "RUN... --baseline --json --out --overwrite",
    "data prepare": "INPUT... --field --json --no-end --out --overwrite --revision --seed --separator --split "
    "--tokenizer --validation",
    "inspect": "SRC --assume-harmless --json --revision",
    "families": "NAME --json",
    "completion": "SHELL",
}
DEEPENED = "1 inserted (copies of their neighbours, output 0) at 1"
WITH_JSON = sorted(set(COMMANDS) - {"completion"})  # its output is a script


@pytest.fixture
def grow_(monkeypatch, capsys):
    """`grow_("plan", "--from", source)`: exit code, stdout, stderr."""
    return lambda *arguments: tiny.command(monkeypatch, capsys, *arguments)


def run_of(folder: Path) -> Path:
    """A run of two steps, as it is found on disk."""
    entries = [{"step": k, "tokens": 8 * k, "flops": 1e3 * k, "seconds": k, "loss": 3.0 - k} for k in (1, 2)]
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("cli")
    source = tiny.checkpoint(folder / "source", "llama")
    run_of(folder / "run")
    return source, grow.widen(source, "2x", out=folder / "grown", verify=False).path


def shell(line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """A line of bash with $grow as the command; `pipefail`, so that every exit code of a pipe counts."""
    env = {**PLAIN, "grow": f"{sys.executable} -m grow", **environment}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], cwd=cwd, env=env, capture_output=True, timeout=120, check=False
    )


# The frozen sets


def test_public_names_are_frozen():
    assert set(grow.__all__) == PUBLIC
    assert all(hasattr(grow, name) for name in PUBLIC)


def every_command() -> dict[str, click.Command]:
    """Name -> command, those of groups with both words."""
    found: dict[str, click.Command] = {}
    for name, command in cli.commands.items():
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": c for inner, c in command.commands.items()}
        else:
            found[name] = command
    return found


def test_commands_and_their_options_are_frozen():
    found = {}
    for name, command in every_command().items():
        words = [p.opts[0] if isinstance(p, click.Option) else p.human_readable_name for p in command.params]
        assert all(p.opts[1:] in ([], ["-o"], ["--learning-rate"]) and not p.secondary_opts for p in command.params), name
        found[name] = sorted(words)
    assert found == {name: sorted(options.split()) for name, options in COMMANDS.items()}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_option_and_fits_the_terminal(grow_, command, flag):
    code, out, err = grow_(*command.split(), flag)
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: grow {command}")
    assert all(word in out for word in COMMANDS[command].replace("SHELL", "{bash|zsh|fish}").split())
    assert max(map(len, out.splitlines())) <= 110


def test_help_lists_every_command_and_version_is_the_packages(grow_):
    code, out, _ = grow_("--help")
    assert code == 0
    assert all(f"\n  {name.split()[0]} " in out for name in COMMANDS)
    assert grow_("--version")[:2] == (0, f"grow, version {grow.__version__}\n")


def test_every_option_has_help():
    without = [
        (name, p.name)
        for name, command in every_command().items()
        for p in command.params
        if isinstance(p, click.Option) and not p.help
    ]
    assert without == []


# One JSON document


def lines(pair: tuple[Path, Path], out: Path) -> dict[str, list[list[Any]]]:
    source, grown = pair
    growth = ["--from", source, "--to", "2x"]
    return {
        "widen": [
            ["widen", *growth, "--out", out, "--no-verify"],
            ["widen", *growth, "--dry-run"],
        ],
        "deepen": [["deepen", "--from", source, "--layers", "3", "--dry-run"]],
        "upcycle": [["upcycle", "--from", source, "--experts", "4", "--dry-run"]],
        "plan": [["plan", *growth], ["plan", "--from", source, "--to", "hidden_size=36"]],
        "compare": [["compare", *growth, "--methods", "lemon,llama-pro"]],
        "verify": [["verify", source, grown, "--rung", "certificate"]],
        "train": [["train", "--from", "small", "--out", out, "--steps", 1, "--batch", 1, "--length", 16]],
        "run": [["run", "--list"]],
        "plot": [["plot", source.parent / "run", "--out", out.with_suffix(".svg"), "--overwrite"]],
        "data prepare": [["data", "prepare", "sotu-heldout", "--tokenizer", "small", "--out", out]],
        "inspect": [["inspect", source], ["inspect", grown]],
        "families": [["families"], ["families", "gpt2"]],
    }


@pytest.mark.parametrize("command", WITH_JSON)
def test_json_is_one_document_on_stdout_and_nothing_else(grow_, pair, tmp_path, command):
    for line in lines(pair, tmp_path / "out")[command]:
        code, out, err = grow_(*line, "--json")
        assert (code, err) == (0, "")
        assert json.loads(out, parse_constant=pytest.fail)["schema"] == (2 if command == "verify" else 1)


@pytest.mark.parametrize("command", WITH_JSON)
def test_without_json_the_same_is_said_in_words(grow_, pair, tmp_path, command):
    for line in lines(pair, tmp_path / "out")[command]:
        code, out, err = grow_(*line)
        assert code == 0
        assert (err == "") is (command != "train")  # a run says how it is going
        assert out
        assert not out.lstrip().startswith("{")
        assert "\x1b" not in out + err  # no colours or cursor movements in a pipe


def test_the_parts_of_the_documents(grow_, pair, tmp_path):
    documents = {
        name: json.loads(grow_(*lines(pair, tmp_path / f"out-{name}")[name][0], "--json")[1]) for name in WITH_JSON
    }
    planned = {
        "schema", "family", "architecture", "storage", "rounded_because", "method", "exact", "lossy_because", "split",
        "seed", "axes", "tensors", "couplings", "config", "cost", "notes",
    }  # fmt: skip
    assert {name: set(document) for name, document in documents.items()} == {
        "widen": {"schema", "path", "status", "damage", "seconds", "plan", "verification", "notes"},
        "deepen": planned,
        "upcycle": planned,
        "plan": planned,
        "verify": {
            "schema", "source", "grown", "verdict", "claim", "trainable", "rungs", "first_difference", "growth",
            "config", "environment", "notes",
        },
        "compare": {
            "schema", "source", "target", "sizes", "text", "training", "source_loss", "methods", "baselines",
            "environment",
        },
        "inspect": {
            "schema", "path", "family", "architecture", "sizes", "parameters", "tensors", "targets", "notes",
        },
        "families": {"schema", "families"},
        "train": {
            "schema", "path", "checkpoint", "step", "tokens", "loss", "val_loss", "seconds", "stopped", "settings",
            "notes",
        },
        "run": {"schema", "recipes"},
        "plot": {"schema", "out", "baseline", "compared", "runs", "savings", "notes"},
        "data prepare": {
            "schema", "path", "dtype", "tokenizer", "splits", "sources", "seed", "validation", "grow",
        },
    }  # fmt: skip
    assert documents["widen"]["plan"] == documents["plan"]
    assert documents["deepen"]["axes"]["layers"] == {"old": 2, "new": 3, "how": DEEPENED}
    assert documents["widen"]["status"] == "unverified"
    assert documents["widen"]["verification"] is None
    assert [f["model_type"] for f in documents["families"]["families"]] == list(grow.families)


def test_the_plan_is_what_the_record_says_was_done(grow_, pair):
    source, grown = pair
    document = json.loads(grow_("plan", "--from", source, "--to", "2x", "--json")[1])
    record = tiny.read_json(grown / "grow.json")["plan"]
    assert {a: x["old"] for a, x in document["axes"].items()} == record["sizes"]
    assert {a: x["new"] for a, x in document["axes"].items()} == record["new_sizes"]
    assert {a: document["axes"][a]["how"] for a in record["operators"]} == record["operators"]
    assert {name: x["new"] for name, x in document["config"].items()} == record["config_changes"]
    assert (document["storage"], document["split"], document["seed"]) == (
        record["storage"], record["split"], record["seed"],
    )  # fmt: skip


def test_an_error_with_json_is_a_document_too(grow_, pair):
    for line in (["plan", "--from", pair[0], "--to", "3.7x"], ["inspect", "nowhere"], ["families", "lama"]):
        code, out, err = grow_(*line, "--json")
        assert code == 2
        assert err.startswith("error: ")
        document = json.loads(out)
        assert document["exit_code"] == 2
        assert set(document["error"]) == {"where", "what", "why", "fix"}
        assert all(document["error"].values())
    code, out, err = grow_("plan", "--jsn", "--json")
    assert code == 2
    assert json.loads(out)["error"]["what"] == "No such option '--jsn'. Did you mean '--json'?"
    assert err.startswith("Usage: ")


# Nothing is written


@pytest.mark.parametrize("command", ["plan", "widen", "deepen", "upcycle", "inspect", "verify", "families"])
def test_what_only_looks_writes_nothing(grow_, pair, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = tiny.snapshot(pair[0].parent)
    line = next(x for x in lines(pair, tmp_path / "out")[command] if command != "widen" or "--dry-run" in x)
    assert grow_(*line)[0] == 0
    assert list(tmp_path.iterdir()) == []
    assert tiny.snapshot(pair[0].parent) == before


def test_a_dry_run_shows_the_plan_that_plan_shows(grow_, pair):
    growth = ["--from", pair[0], "--to", "hidden_size=36", "--seed", 7]
    assert grow_("widen", *growth, "--dry-run") == grow_("plan", *growth)


def test_the_result_has_a_name_when_nobody_gives_one(grow_, pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = grow_("widen", "--from", pair[0], "--to", "hidden_size=48,heads=8", "--no-verify")
    assert code == 0
    assert out.startswith("source-hidden_size=48,heads=8: ")
    assert [p.name for p in tmp_path.iterdir()] == ["source-hidden_size=48,heads=8"]


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
    "a field that is no number": "plan --from source --to hidden_size=big",
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
    "a target that is no config": "plan --from source --to source/model.safetensors",
    "another family as target": "plan --from source --to gpt2",
    "an operator without =": "plan --from source --to 2x --operator copies",
    "an operator misspelt": "plan --from source --to 2x --operator ffn=copy",
    "an operator on no axis": "plan --from source --to 2x --operator vocab=copies",
    "an operator that cannot": "plan --from source --to hidden_size=36 --operator hidden=mean",
    "an unknown dtype": "plan --from source --to 2x --dtype int8",
    "a negative seed": "plan --from source --to 2x --seed -1",
    "a seed of 2^64": "plan --from source --to 2x --seed 18446744073709551616",
    "a seed that is no number": "plan --from source --to 2x --seed x",
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
from grow.cli import main
found = {}
for name, line in json.load(sys.stdin).items():
    files = [tempfile.TemporaryFile() for _ in "oe"]
    child = os.fork()
    if not child:
        for fd, file in enumerate(files, 1):
            os.dup2(file.fileno(), fd)
        sys.argv = ["grow", *line]
        main()
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
        ("small small --overwrite", "--overwrite is for the golden file of --record"),
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


@pytest.mark.parametrize(
    ("to", "words"), [("2x", {"copies", "unread"}), ("1.5x", {"silent", "unread"}), ("layers=7", set())]
)
def test_the_words_under_how_are_explained_where_they_stand(to, words, grow_):
    code, out, _ = grow_("plan", "--from", "small", "--to", to)
    assert code == 0
    assert {word for word in OPERATORS if f"\n  {word}: {OPERATORS[word].meaning}\n" in out} == words
