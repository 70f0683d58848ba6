"""What a recipe may say: every fault is reported before anything runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from short_recipes import NAME, ONE, STEPS, written
from training import tokens

import grow
from grow.errors import BadInput, GrowError
from grow.staged import keys
from grow.staged.recipe import LARGEST

# What a recipe may say


WIDE = '[[stage]]\nkind = "widen"\nto = "2x"\n'

BAD: dict[str, tuple[str, str]] = {
    "nothing": ("", "name: is missing"),
    "no stage": (NAME, "[[stage]]: there must be one or more"),
    "stages that are a table": (NAME + '[stage]\nkind = "init"\n', "[[stage]]: there must be one or more"),
    "no TOML": ("name = ", "cannot be read as TOML"),
    "a key twice": ('name = "x"\nname = "y"\n', "cannot be read as TOML"),
    "an unknown key": (NAME + "sed = 1\n" + ONE, "sed: no such key; did you mean 'seed'?"),
    "an unknown kind": (NAME + '[[stage]]\nkind = "wident"\n', "did you mean 'widen'?"),
    "a kind that is a number": (NAME + "[[stage]]\nkind = 7\n", "stage 1: kind: 7: must be one of init, load"),
    "a stage without a kind": (NAME + "[[stage]]\n", "stage 1: kind: None"),
    "a seed of words": (NAME + 'seed = "x"\n' + ONE, "seed: is 'x': must be a whole number"),
    "a seed that is negative": (NAME + "seed = -1\n" + ONE, "seed: is -1: must be a whole number, 0 or more"),
    "a rate misspelt": (NAME + "[train]\nlrr = 1\n" + ONE, "[train]: lrr: no such key; did you mean 'lr'?"),
    "a rate of zero": (NAME + "[train]\nlr = 0.0\n" + ONE, "[train]: lr: is 0.0: "),
    "a rate that is none": (NAME + "[train]\nlr = nan\n" + ONE, "[train]: lr: is nan: "),
    "a batch of half": (NAME + "[train]\nbatch = 0.5\n" + ONE, "[train]: batch: is 0.5: must be a whole number"),
    "a schedule misspelt": (NAME + '[train]\nschedule = "cosin"\n' + ONE, "did you mean 'cosine'?"),
    "a flag of words": (NAME + '[train]\ncompile = "yes"\n' + ONE, "compile: is 'yes': must be true or false"),
    "a budget for all": (NAME + "[train]\nsteps = 3\n" + ONE, "[train]: steps: no such key"),
    "no budget": (NAME + ONE + '[[stage]]\nkind = "train"\n', "stage 2 (train): has no budget"),
    "two budgets": (NAME + ONE + STEPS + "tokens = 9\n", "tokens and steps are two budgets"),
    "a budget of zero": (NAME + ONE + '[[stage]]\nkind = "train"\ntokens = 0\n', "tokens: is 0: must be a whole"),
    "a plateau of words": (NAME + ONE + STEPS + 'plateau = "soon"\n', "plateau: is 'soon': must be two numbers"),
    "a plateau of no steps": (
        NAME + ONE + STEPS + 'plateau = "0:0.1"\n',
        "is '0:0.1': must be a number of steps and a loss (STEPS:NATS)",
    ),
    "a re-warming of nothing": (NAME + ONE + STEPS + 'rewarm = "1.2:9"\n', "rewarm: nothing has grown before it"),
    "freezing nothing": (NAME + ONE + STEPS + "freeze_old = true\n", "freeze_old: nothing has grown before it"),
    "going on from nothing": (NAME + ONE + STEPS + "continues = true\n", "continues: no train stage comes before"),
    "going on from what is dropped": (
        NAME + ONE + STEPS + WIDE + 'state = "drop"\n' + STEPS + "continues = true\n",
        "stage 4 (train): continues: the state whose schedule would go on is dropped",
    ),
    "a growth without a target": (NAME + ONE + '[[stage]]\nkind = "widen"\n', "stage 2 (widen): to: is missing"),
    "a target of half": (NAME + ONE + '[[stage]]\nkind = "widen"\nto = {ffn = 2.5}\n', "ffn must be a whole number"),
    "no layers": (NAME + ONE + '[[stage]]\nkind = "deepen"\nlayers = 0\n', "layers: is 0: must be a whole number"),
    "a place that is none": (NAME + ONE + '[[stage]]\nkind = "deepen"\nlayers = 4\nplace = [true]\n', "place: is"),
    "a method misspelt": (NAME + ONE + WIDE + 'method = "lemmon"\n', "did you mean 'lemon'?"),
    "an operator of numbers": (NAME + ONE + WIDE + "operators = {ffn = 1}\n", "must be a table of texts"),
    "a rung misspelt": (NAME + ONE + WIDE + '[[stage]]\nkind = "verify"\nrungs = ["certificat"]\n', "is not a rung"),
    "a growth first": (NAME + WIDE, "stage 1 (widen): the first stage is init or load"),
    "a load later": (NAME + ONE + '[[stage]]\nkind = "load"\nfrom = "x"\n', "stage 2 (load): it can only come first"),
    "verifying nothing": (NAME + ONE + STEPS + '[[stage]]\nkind = "verify"\n', "it compares a growth with its source"),
    "one name for two": (NAME + ONE + 'name = "a"\n' + STEPS + 'name = "a"\n', "two are called 'a'"),
    "a name that leaves": (NAME + ONE + 'name = "../x"\n', "'../x' is not a name for a stage's folder"),
    "a name that is taken": (NAME + ONE + 'name = "final"\n', "'final' is not a name"),
    "a name of tokens": (NAME + ONE + 'name = "data-sotu"\n', "'data-sotu' is not a name"),
    "a baseline of nothing": (NAME + ONE + "[baseline]\n", "[baseline]: it gets the FLOPs of the train stages"),
    "a baseline that re-warms": (NAME + ONE + STEPS + '[baseline]\nrewarm = "1:2"\n', "[baseline]: rewarm: no such"),
    "data of numbers": ("name = 'x'\n" + ONE + STEPS + "data = [1]\n", "data: is [1]: must be a text or a list"),
    "nesting without end": ("x = " + "[" * 500_000, "cannot be read as TOML"),
    "keys without end": ("a" + ".a" * 3000 + " = 1", "a: no such key"),
    "a number without end": (NAME + "seed = " + "9" * 6000, "cannot be read as TOML"),
    "a hexadecimal number without end": (NAME + "seed = 0x" + "f" * 6000 + "\n" + ONE, "seed: is "),
    "a rate without end": (NAME + "[train]\nlr = 0x" + "f" * 6000 + "\n" + ONE, "lr: is "),
    "too much": ("#" * (LARGEST + 1), "at most 1,048,576 are read"),
    "no UTF-8": ("\udcff", "cannot be read as TOML"),
}


def faulty(path: Path, kind: type[GrowError] = BadInput, **options: Any) -> str:
    """What is said of a recipe; nothing is written."""
    out = path.parent / "never"
    with pytest.raises(kind) as error:
        grow.run(path, out=out, **options)
    assert error.value.exit_code == 2
    assert error.value.why
    assert error.value.fix
    assert not out.exists()
    return str(error.value)


@pytest.mark.parametrize("name", BAD)
def test_a_faulty_recipe_is_one_message_and_nothing_runs(place, tmp_path, name):
    text, said = BAD[name]
    path = tmp_path / "bad.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    found = faulty(path)
    assert said in found
    assert len(found) < 3000


def test_all_faults_are_told_at_once(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(NAME + "sed = 1\n[train]\nlr = -1\n" + WIDE + '[[stage]]\nkind = "train"\nbatch = 0\n')
    found = faulty(path)
    parts = (
        "sed: no such key",
        "[train]: lr",
        "is -1: ",
        "stage 1 (widen)",
        "stage 2 (train): batch",
        "is 0: ",
        "budget",
    )
    assert all(part in found for part in parts)


UNFIT: dict[str, tuple[str, str]] = {
    "a source that is nowhere": ('[[stage]]\nkind = "load"\nfrom = "nowhere"\n', "stage 1 (load): nowhere"),
    "a size that is none": (ONE + "sizes = {hiden = 3}\n", "did you mean 'hidden'?"),
    "a size name that is none": (ONE + 'sizes = "bse"\n', "stage 1 (init): sizes = \"bse\": no such size"),
    "heads that kv heads do not divide": (ONE + "sizes = {heads = 5, kv_heads = 2}\n", "stage 1 (init)"),
    "a head that RoPE cannot turn": (ONE + "sizes = {head_dim = 7}\n", "sizes = …: no model of the stock class"),
    "a growth that is refused": (ONE + WIDE.replace("2x", "0.5x"), 'stage 2 (widen): to = "0.5x"'),
    "a growth that loses": (ONE + WIDE + 'method = "bert2bert-aki"\n', 'stage 2 (widen): method = "bert2bert-aki"'),
    "the second growth": (ONE + WIDE + WIDE.replace('"2x"', "{ffn = 30}"), "stage 3 (widen): to = {"),
    "more tokens than positions": (ONE + STEPS + "length = 65\n", "stage 2 (train): length = 65: "),
    "warm-up longer than the stage": (ONE + STEPS + "warmup = 9\n", "stage 2 (train): warmup = 9: 9 steps of warmup"),
    "parts that do not divide": (ONE + STEPS + "batch = 3\naccumulate = 2\n", "stage 2 (train): accumulate = 2: "),
    "data that is nowhere": (ONE + STEPS + 'data = "nothing"\n', "stage 2 (train): nothing: does not exist"),
    "blocks longer than the text": (ONE + STEPS + 'data = "little"\nlength = 16\n', "has 5 tokens"),
    "a larger vocabulary": (ONE + STEPS + 'data = "words"\n', "was made with a tokenizer of 42 tokens"),
    "another tokenizer": (ONE.replace("llama", "small") + STEPS + 'data = "tokens"\n', "the tokenizer of none"),
    "rates of new experts": (
        ONE + '[[stage]]\nkind = "upcycle"\nexperts = 4\n' + STEPS + 'rates = "mup"\n',
        "stage 3 (train): rates = …: the growth before it makes experts",
    ),
    "re-warming what was loaded": (
        ONE.replace("init", "load") + STEPS + 'rewarm = "1.2:2"\n', "stage 2 (train): rewarm = …: nothing has grown",
    ),
    "a baseline that cannot": (ONE + STEPS + "[baseline]\nlength = 70\n", "[baseline]: length = 70: "),
}  # fmt: skip


@pytest.mark.parametrize("name", UNFIT)
def test_a_plan_that_would_be_refused_is_refused_before_anything_runs(place, name):
    text, said = UNFIT[name]
    for folder, options in (("little", {"count": 5}), ("words", {"vocab": 42})):
        if not (place / folder).exists():
            tokens(place / folder, **options)
    path = written(place, NAME + text, "unfit.toml")
    found = faulty(path, GrowError)
    assert said in found
    with pytest.raises(GrowError, match=re.escape(str(path))):
        grow.price(path, measured=False)


def test_train_keys_are_the_settings_and_growth_keys_the_commands():
    from dataclasses import fields
    from inspect import signature

    from grow.training.settings.run_settings import Settings

    settings = {f.name for f in fields(Settings)} - set(keys.ELSEWHERE)
    assert set(keys.KINDS["train"]) == settings | {"seed", "data", "tokens", "flops", "steps", "continues", "state"}
    assert all(keys.KINDS["train"][name].default == getattr(Settings(), name) for name in settings - {"lr"})
    assert keys.KINDS["train"]["lr"].default is None  # it is the peak that the weights were trained with
    given = set(signature(grow.widen).parameters) - set(keys.RUN.split())
    assert set(keys.KINDS["widen"]) == given
    assert set(keys.KINDS["upcycle"]) == given | {"experts", "top_k", "granularity", "every", "route"}
    for kind in keys.GROWTHS:
        for name, key in keys.KINDS[kind].items():
            assert key.needed or not key.check(key.default) or key.default in (None, ()), (kind, name)


def test_choices_are_those_of_grow_train():
    from grow.training.begin.from_state import CHOICES

    assert keys.CARRIED == CHOICES
