"""The README is true: its commands run and print what it shows, its Python runs."""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import grow
from grow.cli.commands import cli
from grow.errors import GrowError

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [(kind, textwrap.dedent(text)) for kind, text in re.findall(r"^ *```(\w+)\n(.*?)^ *```$", README, re.M | re.S)]
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
NUMBER = re.compile(r"\d[\d.,]*(e[-+]\d+)?")


def sessions() -> list[tuple[str, list[str]]]:
    """(command, lines shown below it) of every `$ grow …` in the console blocks."""
    found: list[tuple[str, list[str]]] = []
    for kind, text in BLOCKS:
        if kind == "console":
            for line in text.splitlines():
                if line.startswith("$ "):
                    found.append((line[2:], []))
                elif line.strip():
                    found[-1][1].append(line)
    return found


def commands() -> list[str]:
    """Every `grow …` command line: in console, bash and yaml blocks, and between backticks in the text."""
    found = [command for command, _ in sessions()]
    for kind, text in BLOCKS:
        if kind in ("bash", "yaml"):
            found += re.findall(r"^(?:- run: |\s*- run: )?(grow .*?)(?: +#.*)?$", text, re.M)
    prose = re.sub(r"```.*?```", "", README, flags=re.S)
    found += [" ".join(code.split()) for code in re.findall(r"`(grow [^`]+)`", prose)]
    return list(dict.fromkeys(re.sub(r" > .*", "", line) for line in found))


def parse(line: str) -> None:
    """click's own parsing of a command line, without running it; a name alone (`grow widen`) needs no options."""
    _, name, *args = shlex.split(line)
    command = cli.commands.get(name)
    assert command is not None, f"{line}: no such command"
    if args:  # inside the group's context: click keeps the first help option that it makes, and that one has -h
        command.make_context(name, args, parent=click.Context(cli, **cli.context_settings))


def reads(line: str) -> bool:
    """Whether it only reads, and is more than a command's name in the text."""
    _, name, *args = line.split()
    return (name == "families" and "--derive" not in args) or (name in ("plan", "inspect") and bool(args))


def run(line: str) -> tuple[int, str]:
    """(exit code, output) as on a terminal."""
    result = CliRunner().invoke(cli, shlex.split(line)[1:], standalone_mode=False)
    if isinstance(result.exception, GrowError):
        return result.exception.exit_code, result.output + f"error: {result.exception}\n"
    if result.exception:
        raise result.exception
    return result.return_value or 0, result.output


def assert_shown(shown: list[str], output: str, *, numbers: bool) -> None:
    """Every shown line is printed, in this order; `…` stands for lines left out."""
    blank = (lambda text: text) if numbers else (lambda text: " ".join(NUMBER.sub("#", text).split()))
    printed = iter([blank(line) for line in output.splitlines()])
    for line in shown:
        if line.strip() != "…":
            assert any(blank(line) == other for other in printed), f"README shows, in this place: {line}\n{output}"


def test_every_command_is_in_the_readme():
    named = {line.split()[1] for line in commands()}
    assert named >= set(cli.commands) - {"completion"}


@pytest.mark.parametrize("line", commands())
def test_every_command_line_parses(line):
    parse(line)


@pytest.mark.parametrize(
    "line",
    [
        "grow widden --from small",
        "grow widen --form small --to 2x",
        "grow verify small",
        "grow plan --split evn --from a --to b",
    ],
)
def test_a_wrong_command_line_would_not_parse(line):
    with pytest.raises((AssertionError, click.ClickException)):
        parse(line)


@pytest.mark.parametrize("line", [line for line in commands() if reads(line)])
def test_commands_that_read_run(line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, output = run(line)
    shown = dict(sessions()).get(line, [])
    assert code == (2 if shown and shown[0].startswith("error: ") else 0), output
    assert_shown(shown, output, numbers=True)
    assert list(tmp_path.iterdir()) == []


def test_the_promise_runs(monkeypatch, tmp_path):
    """Widen, verify, and the texts of `make demo`. Measured numbers may differ between machines, verdicts may not."""
    monkeypatch.chdir(tmp_path)
    (widen, widened), (verify, verified) = sessions()[:2]
    code, output = run(widen)
    assert code == 0
    assert_shown(widened, output, numbers=False)
    code, output = run(f"{verify} --rung certificate --rung true_float64")
    assert code == 0
    assert_shown(verified, output, numbers=False)
    (tmp_path / "demo").mkdir()
    (tmp_path / "small-base").rename(tmp_path / "demo" / "small-base")
    script = re.search(r"^define COMPARE\n(.*?)^endef$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M | re.S)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    demo = subprocess.run([sys.executable, "-c", script[1]], env=env, capture_output=True, text=True)
    assert demo.returncode == 0, demo.stderr
    shown = next(text for kind, text in BLOCKS if kind == "text" and "parameters write" in text)
    assert_shown(shown.splitlines(), demo.stdout, numbers=False)


def test_a_shown_line_that_is_not_printed_is_found():
    with pytest.raises(AssertionError, match="README shows"):
        assert_shown(["one", "…", "three"], "one\ntwo\n", numbers=True)
    with pytest.raises(AssertionError, match="README shows"):
        assert_shown(["two", "one"], "one\ntwo\n", numbers=True)


@pytest.mark.parametrize("text", PYTHON, ids=range(len(PYTHON)))
def test_python_runs_and_prints_what_its_comments_say(text, monkeypatch, tmp_path, capsys):
    """Verification is left to the certificate here: the ladder has its own tests."""
    monkeypatch.chdir(tmp_path)
    widen = grow.widen

    def quick(src, to, **options):
        grown = widen(src, to, **options, verify=False)
        return (
            grown
            if grown.path is None
            else replace(grown, verification=grow.verify(src, grown.path, rungs=["certificate", "true_float64"]))
        )

    monkeypatch.setattr(grow, "widen", quick)
    exec(compile(text, "README.md", "exec"), {"__name__": "readme"})
    said = re.findall(r"^\s*print\(.*\)\s+# (.*)$", text, re.M)
    printed = capsys.readouterr().out.splitlines()
    assert printed, "a block that shows nothing"
    if said:
        assert printed == said


def test_the_license_file_and_the_metadata_agree():
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")[:200]
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_changelog_has_the_version():
    assert f"## [{grow.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
