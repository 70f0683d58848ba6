"""`--tasks`: two checkpoints that compute the same score the same, sample by sample; a damaged one is caught.

What needs lm-evaluation-harness is skipped without it: pip install 'grow-transformers[tasks]'.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from pathlib import Path

import pytest
import tiny

import grow
from grow.errors import BadInput
from grow.verification.downstream import answers, encoder_tasks, harness
from grow.verification.downstream.answers import Answer, Answers
from grow.verification.downstream.tasks import builtin, tasks
from grow.verification.rungs import EXACT
from grow.zoo import bundled_path, heldout_text

SMALL, BERT = bundled_path("small"), bundled_path("small-bert")
DOWN = "model.layers.3.mlp.down_proj.weight"


@pytest.fixture
def lm_eval():
    """Imported quietly: its dependencies warn on import, and here a warning is an error."""
    with harness._quiet():
        return pytest.importorskip("lm_eval", reason="lm-evaluation-harness is an optional extra")


@pytest.fixture(scope="module")
def grown(tmp_path_factory) -> Path:
    return grow.widen("small", "2x", out=tmp_path_factory.mktemp("grown") / "small-2x", verify=False).path


@pytest.fixture(scope="module")
def grown_bert(tmp_path_factory) -> Path:
    return grow.widen("small-bert", "2x", out=tmp_path_factory.mktemp("grown") / "bert-2x", verify=False).path


def damaged(folder: Path, to: Path, tensor: str, change) -> Path:
    shutil.copytree(folder, to)
    tiny.edit_tensor(to, tensor, change)
    return to


def zero(raw) -> None:
    raw[...] = 0


def one_unit(raw) -> None:
    """The last bit of one weight of the first column that is read."""
    raw[0, 0] += 1


def one(*args, **options):
    found = tasks(*args, **options)
    assert [check.name for check in found] == ["tasks"]
    json.dumps(found[0].measured, allow_nan=True)
    return found[0]


# Through the harness


def test_a_growth_scores_as_its_source_did(lm_eval, grown):
    check = one(SMALL, grown, limit=6)
    assert check.status == "pass", check.reason
    rows = check.measured["tasks"]
    assert [(row["task"], row["metric"]) for row in rows] == [
        ("grow_cloze", "acc"), ("grow_cloze", "acc_norm"),
        ("grow_heldout", "word_perplexity"), ("grow_heldout", "byte_perplexity"), ("grow_heldout", "bits_per_byte"),
    ]  # fmt: skip
    for row in rows:
        assert row["same"] is True
        assert row["samples"] == row["per_sample_agree"] == 6
        assert row["relative"] <= row["limit"] < 1e-11
        assert row["ties"] == []
    # the scores are real ones: the models are better than a coin with four sides, and results.json says 1.32 bits
    scores = {row["metric"]: row["source"] for row in rows}
    assert scores["acc"] > 0.3
    assert 1.1 < scores["bits_per_byte"] < 1.5


def test_a_damaged_growth_is_caught_and_task_and_sample_are_named(lm_eval, grown, tmp_path):
    broken = damaged(grown, tmp_path / "zeroed", DOWN, zero)
    check = one(SMALL, broken, ["grow_cloze"], limit=4)
    assert check.status == "fail"
    assert re.match(
        r"grow_cloze #\d+: log-likelihood -[\d.]+ -> -[\d.]+, .* > .* \(and 3 more samples\)$", check.reason
    )
    assert {row["same"] for row in check.measured["tasks"]} == {False}
    # the last bit of one weight flips no score, and is seen all the same
    touched = damaged(grown, tmp_path / "touched", DOWN, one_unit)
    check = one(SMALL, touched, ["grow_cloze"], limit=2)
    assert check.status == "fail"
    assert [row["per_sample_agree"] for row in check.measured["tasks"]] == [2, 2]


def test_a_rounded_growth_passes_within_its_rounding_and_not_below(lm_eval, tmp_path):
    rounded = grow.widen(SMALL, "hidden_size=192,num_attention_heads=6", out=tmp_path / "rounded", verify=False).path
    # one rounding of every float32 weight moves the logits by 4e-7 of their std, README.md
    check = one(SMALL, rounded, limit=2, tolerance=2e-6)
    assert check.status == "pass", check.reason
    assert 1e-10 < check.measured["relative"] < 1e-6
    check = one(SMALL, rounded, ["grow_heldout"], limit=1)
    assert check.status == "fail"


def test_texts_are_compared_too(lm_eval, grown, tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(harness.DATA / "grow_heldout.jsonl", data / "texts.jsonl")
    (data / "texts.yaml").write_text(
        "task: texts\n"
        "custom_dataset: !function grow.verification.downstream.harness.documents\n"
        "dataset_kwargs: {file: texts.jsonl}\n"
        "test_split: test\n"
        "output_type: generate_until\n"
        'doc_to_text: "{{text[:60]}}"\n'
        'doc_to_target: "{{text[60:]}}"\n'
        'generation_kwargs: {until: ["."], max_gen_toks: 12}\n'
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    monkeypatch.setattr(harness, "DATA", data)
    monkeypatch.setattr(harness, "OWN", ("texts",))
    assert one(SMALL, grown, ["texts"], limit=1).status == "pass"
    broken = damaged(grown, tmp_path / "zeroed", DOWN, zero)
    check = one(SMALL, broken, ["texts"], limit=1)
    assert check.status == "fail"
    assert re.match(r"texts #0: '.*' -> '", check.reason)


def test_without_the_harness_the_extra_is_named(monkeypatch, grown):
    for name in [name for name in sys.modules if name.split(".")[0] == "lm_eval"] + ["lm_eval"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BadInput) as error:
        tasks(SMALL, grown)
    assert str(error.value).splitlines()[0] == (
        'tasks=["grow_cloze", "grow_heldout"]: needs lm-evaluation-harness, which cannot be imported'
    )
    assert "fix        pip install 'grow-transformers[tasks]'" in str(error.value)


def test_an_unknown_task_is_refused_with_the_nearest_name(lm_eval, grown, monkeypatch):
    # as if it were one of grow's own, so that the 14,000 others need not be indexed
    monkeypatch.setattr(harness, "OWN", (*harness.OWN, "grow_clozze", "texts.yaml"))
    with pytest.raises(BadInput, match=r"tasks=\[\"grow_clozze\"\]: no such task; did you mean 'grow_cloze'\?"):
        tasks(SMALL, grown, ["grow_clozze"])
    with pytest.raises(BadInput, match=r"tasks=\[\"texts\.yaml\"\]: no such task"):
        tasks(SMALL, grown, ["texts.yaml"])


class Manager:
    """Stands in for lm_eval's: loads one task, or raises."""

    def __init__(self, load) -> None:
        self.load = load


def test_data_out_of_reach_and_code_are_refused(lm_eval):
    def offline(names):
        raise ConnectionError("Couldn't reach the Hub")

    def script(names):
        import evaluate

        evaluate.load("code_eval")

    class Unsafe:
        UNSAFE_CODE = True

    def unsafe(names):
        return {"tasks": {"humaneval": Unsafe()}}

    for load, message in (
        (offline, "cannot be loaded\n  why        ConnectionError: Couldn't reach the Hub"),
        (script, "its metric 'code_eval' is a script of the hub"),
        (unsafe, "runs code that the model writes"),
    ):
        with pytest.raises(BadInput, match=re.escape(f'tasks=["humaneval"]: {message}')):
            harness._loaded(Manager(load), ["humaneval"])


def test_the_bundled_tasks_leave_no_cache_behind(lm_eval):
    with harness._quiet():
        assert harness.documents("grow_cloze.jsonl")["test"].cache_files == []


# What counts as the same


def run(answer: Answer, spread: float = 1.0) -> Answers:
    return Answers({"t": {"acc": 1.0}}, {"t": {"7": answer}}, spread)


def verdict(a: Answer, b: Answer, tolerance: float = EXACT) -> dict:
    [row] = answers.compare(run(a), run(b), tolerance)
    return row


@pytest.mark.parametrize("tolerance", [EXACT, 1e-6])
def test_a_score_that_flips_within_the_limit_is_a_tie_and_beyond_it_a_fault(tolerance):
    before = Answer((-30.0, -30.0), (), {"acc": 1.0})
    close = verdict(before, Answer((-30.0 * (1 + tolerance), -30.0), (), {"acc": 0.0}), tolerance)
    assert (close["same"], close["ties"], close["per_sample_agree"]) == (True, ["#7"], 0)
    far = verdict(before, Answer((-30.0 * (1 + 3 * tolerance), -30.0), (), {"acc": 0.0}), tolerance)
    assert (far["same"], far["ties"], far["where"]) == (False, [], "#7")
    assert far["reason"].startswith("#7: log-likelihood -30 -> ")


def test_a_flip_of_a_choice_is_a_tie_only_if_it_was_level():
    def choice(what, lead: float = math.nan) -> Answer:
        return Answer((), ((what, lead),), {})

    assert verdict(choice(3, 1e-6), choice(4), 1e-6)["same"] is True
    assert verdict(choice(3, 3e-6), choice(4), 1e-6)["same"] is False
    # how level two texts were is not known: exact growths must not differ, rounded ones cannot be judged
    assert verdict(choice("a b"), choice("a c"))["same"] is False
    open_ = verdict(choice("a b"), choice("a c"), 1e-6)
    assert open_["same"] is None
    assert open_["reason"] == "#7: 'a b' -> 'a c', and nobody knows how level the two were"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_never_the_same(bad):
    assert verdict(Answer((-1.0,)), Answer((bad,)))["same"] is False
    assert verdict(Answer((math.nan,)), Answer((math.nan,)))["same"] is False


def test_an_answer_that_is_missing_is_a_fault():
    a = Answers({"t": {"acc": 1.0}}, {"t": {"7": Answer((-1.0,))}}, 1.0)
    for b in (Answers({"t": {"acc": 1.0}}, {"t": {}}, 1.0), Answers({}, {}, 1.0)):
        [row] = answers.compare(a, b, EXACT)
        assert row["same"] is False
        assert row["reason"] == "#7 was answered in another number of parts"


def test_the_limit_on_a_log_likelihood_follows_from_the_limit_on_the_logits():
    # the worst case: every logit moves by D against the token, of two equal ones and of one that is nearly certain
    import torch

    for logits in ([0.0, 0.0], [9.0, 0.0], [0.0, 9.0]):
        before = torch.tensor(logits, dtype=torch.float64).log_softmax(0)[0]
        for moved in (1e-9, 1e-3, 0.1):
            shifted = [logits[0] - moved, logits[1] + moved]
            after = torch.tensor(shifted, dtype=torch.float64).log_softmax(0)[0]
            assert abs(after - before) <= math.expm1(2 * moved) * abs(before) * (1 + 1e-6)


# Encoders


def test_an_encoder_keeps_its_masked_words_and_its_cosines(grown_bert):
    check = one(BERT, grown_bert, limit=6)
    assert check.status == "pass", check.reason
    rows = check.measured["tasks"]
    assert [row["task"] for row in rows] == ["mlm_heldout"] * 2 + ["similarity"] * 3
    assert all(row["samples"] == row["per_sample_agree"] for row in rows)
    assert rows[0]["source"] == rows[0]["grown"] > 0.2  # a third of the masked words are right
    assert all(0.1 < row["source"] < 0.95 for row in rows[2:])  # sentences that are all alike would prove nothing


@pytest.mark.parametrize("name", encoder_tasks.OWN)
def test_a_damaged_encoder_is_caught(name, grown_bert, tmp_path):
    broken = damaged(grown_bert, tmp_path / "broken", "bert.encoder.layer.1.output.dense.weight", one_unit)
    check = one(BERT, broken, [name], limit=2)
    assert check.status == "fail"
    assert re.match(rf"{name} #[\d.]+( and #\d+)?: (log-likelihood|cosine) ", check.reason)


def test_cosines_that_weigh_coordinates_otherwise_are_not_comparable(grown):
    # the head is tied, so the copies carry shares behind the last norm; the logits are the same even so
    check = one(SMALL, grown, ["similarity"], limit=4)
    assert check.status == "skip"
    assert check.reason.startswith("similarity not comparable: in front of a tied head")


@pytest.mark.parametrize(
    ("to", "operators", "reason"),
    [
        ("2x", None, ""),
        ("hidden_size=36", None, ""),
        (
            "hidden_size=36",
            {"hidden": "copies"},
            "not comparable: old coordinates weigh 1 to 2 times as much as before",
        ),
    ],
)
def test_uneven_copies_weigh_coordinates_otherwise(to, operators, reason, tmp_path):
    source = tiny.checkpoint(tmp_path / "source", "llama", tie_word_embeddings=False)
    grow.widen(source, to, out=tmp_path / "grown", operators=operators, verify=False)
    assert encoder_tasks.unequal_weights(source, tmp_path / "grown") == reason


# What cannot be asked


def test_the_built_in_tasks_fit_the_model(tmp_path):
    assert builtin(SMALL) == ["grow_cloze", "grow_heldout"]
    assert builtin(BERT) == ["mlm_heldout", "similarity"]
    base = tiny.checkpoint(tmp_path / "base", "bert", architectures=["BertModel"])
    assert builtin(base) == ["similarity"]


@pytest.mark.parametrize(("folder", "name", "wants"), [(SMALL, "mlm_heldout", "masked"), (BERT, "hellaswag", "causal")])
def test_a_task_for_another_kind_of_model_is_refused(folder, name, wants):
    with pytest.raises(BadInput, match=rf'tasks=\["{name}"\]: is for {wants} language models'):
        tasks(folder, folder, [name])


def test_without_a_tokenizer_or_a_limit_nothing_is_compared(tmp_path, grown_bert):
    source = tiny.checkpoint(tmp_path / "source", "bert")
    check = one(source, source)
    assert (check.status, check.reason) == ("skip", f"{source}: no tokenizer: it has no vocabulary")
    assert one(BERT, grown_bert, tolerance=math.nan).status == "skip"


def test_a_growth_that_lost_its_tokenizer_fails(grown_bert, tmp_path):
    shutil.copytree(grown_bert, tmp_path / "grown", ignore=shutil.ignore_patterns("tokenizer*"))
    check = one(BERT, tmp_path / "grown", ["similarity"], limit=1)
    assert check.status == "fail"
    assert check.reason.endswith("no tokenizer: it has no vocabulary")


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(BadInput, match="samples=0: must be a whole number, 1 or more, got 0"):
        tasks(BERT, BERT, limit=0)
    with pytest.raises(BadInput, match=r"must be one of .*, got 'float8'"):
        tasks(BERT, BERT, dtype="float8")


# The data


def test_the_data_is_cut_from_the_held_out_text():
    text = re.sub(r"\s+", " ", heldout_text())
    cloze = [json.loads(line) for line in (harness.DATA / "grow_cloze.jsonl").read_text().splitlines()]
    passages = [json.loads(line) for line in (harness.DATA / "grow_heldout.jsonl").read_text().splitlines()]
    sentences = (encoder_tasks.DATA / "sentences.txt").read_text().splitlines()
    assert (len(cloze), len(passages), len(sentences)) == (60, 20, 40)
    for item in cloze:
        follows = [f"{item['context']} {ending}" in text for ending in item["endings"]]
        assert follows == [k == item["answer"] for k in range(4)]
        assert all(ending in text for ending in item["endings"])
    assert [item["answer"] for item in cloze] == [0, 1, 2, 3] * 15
    assert all(item["text"] in text for item in passages)
    assert len(set(sentences)) == 40
    assert all(sentence in text for sentence in sentences)
    assert sum(path.stat().st_size for path in harness.DATA.iterdir()) < 60_000
