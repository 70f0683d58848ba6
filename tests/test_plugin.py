"""`grow.testing`: assertions that fail with what a person needs, and fixtures that pytest finds by themselves."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import models
import pytest
import tiny
import torch

import grow
import grow.verification.golden  # before pytester, which forgets modules that a run inside it was the first to import
from grow.errors import BadInput
from grow.testing import assert_lossless, assert_same_logits
from grow.verification.golden import read

pytest_plugins = ["pytester"]

QUICK = ("certificate", "true_float64")
REPOSITORY = Path(grow.__file__).parents[1]


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    """A llama and its growth × 2; do not change them."""
    folder = tmp_path_factory.mktemp("plugin")
    source = tiny.checkpoint(folder / "source", "llama")
    return source, grow.widen(source, "2x", out=folder / "grown", verify=False).path


@pytest.fixture
def damaged(pair, tmp_path) -> Path:
    folder = shutil.copytree(pair[1], tmp_path / "damaged")
    tiny.edit_tensor(folder, "model.layers.1.mlp.up_proj.weight", lambda raw: raw.__setitem__((0, 0), raw[0, 0] + 0.1))
    return folder


# The assertions


def test_lossless_folders_pass_and_give_the_verification(pair):
    found = assert_lossless(*pair, rungs=QUICK)
    assert found.verdict == "lossless"
    assert (found.source, found.grown) == tuple(map(str, pair))


def test_damage_fails_with_the_checks_and_the_tensor(pair, damaged):
    with pytest.raises(AssertionError) as error:
        assert_lossless(pair[0], damaged, rungs=QUICK)
    first, second, *rest = str(error.value).splitlines()
    assert first == f"different: {damaged}, which should compute what {pair[0]} computes"
    assert second.startswith("  first failure: certificate: model.layers.1.mlp.up_proj.weight[0, 0]")
    assert any(re.match(r"  true_float64  fail  \d\.\de-\d\d  ", line) for line in rest)


def test_what_is_not_proved_fails(pair, tmp_path):
    rounded = grow.widen(pair[0], "hidden_size=36", out=tmp_path / "rounded", verify=False).path
    assert_lossless(pair[0], rounded, rungs=(*QUICK, "proof"))
    (rounded / "grow.json").unlink()
    with pytest.raises(AssertionError, match=r"(?s)^unproved: .*note: the outputs agree as far as rounding"):
        assert_lossless(pair[0], rounded, rungs=QUICK)


def test_a_wrong_folder_is_bad_input_and_no_difference(pair, tmp_path):
    with pytest.raises(BadInput, match="nowhere"):
        assert_lossless(pair[0], tmp_path / "nowhere")


@pytest.mark.parametrize("to", ["2x", "hidden=30"])
def test_models_in_memory_and_growths_are_saved_first(to):
    model = models.make("llama")
    growth = grow.widen(model, to, verify=False)
    found = assert_lossless(model, growth, rungs=(*QUICK, "proof"))
    assert (found.source, found.grown) == ("LlamaForCausalLM in memory",) * 2
    assert found.check("certificate").status == "pass"
    assert assert_same_logits(model, growth, tolerance=1e-5) > 0
    with torch.no_grad():
        growth.model.model.norm.weight[0] += 1
    with pytest.raises(AssertionError, match="certificate"):
        assert_lossless(model, growth, rungs=QUICK)


def test_the_same_logits_pass_on_probes_and_on_given_inputs(pair):
    assert 0 < assert_same_logits(*pair) < 1e-13
    ids = torch.arange(12).reshape(2, 6)
    assert 0 < assert_same_logits(*pair, {"input_ids": ids}) < 1e-13
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    assert 0 < assert_same_logits(*pair, {"input_ids": ids, "attention_mask": mask}) < 1e-13
    assert 0 < assert_same_logits(*pair, {"input_ids": [[1, 2, 3]]}) < 1e-13
    assert assert_same_logits(pair[0], pair[0]) == 0


def test_other_logits_fail_with_the_worst_element(pair, damaged):
    with pytest.raises(AssertionError) as error:
        assert_same_logits(pair[0], damaged, {"input_ids": torch.tensor([[5, 6, 7]])})
    first, second = str(error.value).splitlines()
    found = re.fullmatch(r"inputs/logits\[(\d+), (\d+)\] is (\S+), wanted (\S+)", first)
    with torch.no_grad(), models.Float64():
        old, new = (models.load(folder)(torch.tensor([[5, 6, 7]])).logits[0] for folder in (pair[0], damaged))
    worst = (old - new).abs().argmax()
    assert divmod(int(worst), old.shape[1]) == (int(found[1]), int(found[2]))
    assert float(found[3]) == pytest.approx(float(new.flatten()[worst]), abs=1e-12)
    assert float(found[4]) == pytest.approx(float(old.flatten()[worst]), abs=1e-12)
    assert re.fullmatch(r"  max \|Δ\| / std  \S+ > 1e-12  \(max \|Δ\| \S+, std \S+\)", second)
    assert_same_logits(pair[0], damaged, tolerance=10)


def test_outputs_that_are_not_there_or_not_finite_fail(pair, tmp_path):
    base = models.save("llama-base", tmp_path / "base")
    with pytest.raises(AssertionError, match="has no output"):
        assert_same_logits(pair[0], base)
    broken = shutil.copytree(pair[1], tmp_path / "broken")
    tiny.edit_tensor(broken, "model.norm.weight", lambda raw: raw.__setitem__(0, float("nan")))
    with pytest.raises(AssertionError, match="NaN or Inf"):
        assert_same_logits(pair[0], broken, tolerance=1e9)
    few = tiny.checkpoint(tmp_path / "few", "llama", vocab_size=11)
    with pytest.raises(AssertionError, match="the source runs and the grown model does not"):
        assert_same_logits(pair[0], few)


def test_hidden_outputs_count_where_there_are_no_others(tmp_path):
    base = models.save("llama-base", tmp_path / "base")
    assert assert_same_logits(base, base) == 0
    tiny.edit_tensor(shutil.copytree(base, tmp_path / "other"), "norm.weight", lambda raw: raw.__setitem__(0, 2))
    with pytest.raises(AssertionError, match="last_hidden_state"):
        assert_same_logits(base, tmp_path / "other")


# The plugin


def test_loading_the_plugin_imports_neither_torch_nor_transformers():
    code = "import sys, grow.testing; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def inner(pytester, monkeypatch):
    """Runs pytest on a file, with this plugin and no other, warnings as errors and unknown marks too."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini("[pytest]\nfilterwarnings = error\naddopts = -p grow.testing --strict-markers\n")

    def run(text: str | None, *options: str) -> pytest.RunResult:
        if text is not None:
            pytester.makepyfile(text)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)

    return run


def test_grow_pair_grows_once_for_equal_arguments(inner, pair):
    result = inner(
        f"""
        import pytest
        from grow.testing import assert_lossless

        SOURCE, seen = {str(pair[0])!r}, []

        @pytest.mark.grow_pair(source=SOURCE, to="2x", seed=1)
        def test_first(grow_pair):
            assert grow_pair.plan.parameters[1] > grow_pair.plan.parameters[0]
            assert (grow_pair.plan.seed, grow_pair.growth.path) == (1, grow_pair.grown)
            assert str(grow_pair.source) == SOURCE
            assert_lossless(grow_pair.source, grow_pair.grown, rungs=["certificate"])
            seen.append(grow_pair)

        @pytest.mark.grow_pair(to="2x", source=SOURCE, seed=1)
        def test_second(grow_pair):
            assert grow_pair is seen[0]

        TARGETS = [{{"source": SOURCE, "to": "2x"}}, {{"source": SOURCE, "to": "3x"}}]

        @pytest.mark.parametrize("grow_pair", TARGETS, indirect=True)
        def test_third(grow_pair):
            assert grow_pair.grown != seen[0].grown
            assert grow_pair.plan.seed == 0
        """
    )
    result.assert_outcomes(passed=4)


def test_grow_pair_without_what_it_needs_says_what_to_write(inner, pair):
    result = inner(
        f"""
        import pytest

        def test_no_mark(grow_pair): pass

        @pytest.mark.grow_pair(source="small")
        def test_no_target(grow_pair): pass

        @pytest.mark.grow_pair("small", "2x")
        def test_no_names(grow_pair): pass

        @pytest.mark.grow_pair(source="small", to="2x", sead=1)
        def test_no_such_option(grow_pair): pass

        @pytest.mark.grow_pair(source={str(pair[0])!r}, to="vocab=3")
        def test_refused(grow_pair): pass
        """
    )
    result.assert_outcomes(errors=5)
    result.stdout.fnmatch_lines(
        [
            "*::test_no_mark: grow_pair is asked for without a mark",
            '  fix        @pytest.mark.grow_pair(source="small", to="2x")',
            "*::test_no_target: grow_pair is asked for without to=",
            "*::test_no_names: grow_pair has arguments without a name: ('small', '2x')",
            "*::test_no_such_option: grow_pair has no option 'sead'; did you mean 'seed'?",
            "grow_pair: *",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


def test_grow_golden_is_missing_then_recorded_then_compared(inner, pytester, pair, damaged):
    grown = shutil.copytree(pair[1], pytester.path / "grown")
    text = f"""
        def test_growth(grow_golden):
            found = grow_golden("grown", name="tiny", source={str(pair[0])!r})
            assert found.lossless
        """
    file = pytester.path / "tests" / "golden" / "tiny.safetensors"
    result = inner(text)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            f"{file}: there is no such golden file",
            "  fix        pytest --grow-update *::test_growth', then commit the file",
        ]
    )
    inner(None, "--grow-update").assert_outcomes(passed=1)
    assert read(file).source["name"] == str(pair[0])
    inner(None).assert_outcomes(passed=1)
    shutil.copy(damaged / tiny.WEIGHTS, grown)
    result = inner(None)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            f"E*AssertionError: different: grown, which should compute what {file} computes",
            "E*first failure: certificate: model.layers.1.mlp.up_proj.weight: sha256 is not grow.json's",
        ]
    )
    before = file.read_bytes()
    inner(None, "--grow-update").assert_outcomes(failed=1)  # recorded from the source, so damage stays damage
    assert file.read_bytes() == before
    file.write_bytes(before[:-1])
    result = inner(None)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["grow_golden: *truncated*"])


def test_grow_golden_of_itself_in_a_folder_of_choice(inner, pytester, pair):
    pytester.makeini("[pytest]\naddopts = -p grow.testing\ngrow_golden_dir = kept/here\n")
    result = inner(
        f"""
        def test_source(grow_golden):
            assert grow_golden({str(pair[0])!r}, name="tiny").check("true_float64").measured["relative"] == 0

        def test_growth_is_compared_with_what_the_first_recorded(grow_golden):
            assert grow_golden({str(pair[1])!r}, name="tiny").check("true_float64").measured["relative"] > 0

        def test_name(grow_golden):
            grow_golden({str(pair[1])!r}, name="../tiny")
        """,
        "--grow-update",
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["grow_golden: '../tiny' is not a plain name"])
    assert [path.name for path in (pytester.path / "kept" / "here").iterdir()] == ["tiny.safetensors"]
