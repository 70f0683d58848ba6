"""The notation says what it seems to say, and every stored tensor of every family matches exactly one row."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import transformers
from models import FOUND, VARIANTS
from stock_configs import NEEDED

from grow.architectures import FAMILIES
from grow.architectures.architecture import Architecture
from grow.architectures.config_values import check_fields
from grow.architectures.match import match
from grow.checkpoint.reader import open_checkpoint
from grow.errors import BadInput, Refused
from grow.notation.axes import GAIN, READ, SHIFT, SIDES, STACK, STORED, WRITE, Label, parse_signature, parse_table

pytestmark = pytest.mark.quick

# Shared by Llama's kin and not declared by each: no stock code of the others reads them.
NOT_A_FIELD = {"attention_bias": False, "mlp_bias": False}
# Stock code asks for these with a default of its own, and no config class declares them.
NOT_A_FIELD |= {"norm_rel_ebd": "none", "share_att_key": False}
SIZES = {"vocab": 41, "hidden": 12, "heads": 6, "kv_heads": 2, "head_dim": 5, "ffn": 9, "positions": 30}


@pytest.mark.parametrize(
    ("text", "roles", "shape"),
    [
        ("vocab -> hidden", [READ, WRITE], (41, 12)),
        ("vocab <- hidden", [WRITE, READ], (41, 12)),
        ("(kv_heads q_per_kv head_dim.q) <- hidden", [WRITE, READ], (30, 12)),
        ("(kv_heads head_dim.k) <- hidden", [WRITE, READ], (10, 12)),
        ("hidden <- (kv_heads q_per_kv head_dim.v)", [WRITE, READ], (12, 30)),
        ("hidden -> (heads head_dim.q | heads head_dim.k | heads head_dim.v)", [READ, WRITE], (12, 90)),
        ("(heads (head_dim.q | head_dim.k | head_dim.v)) <- hidden", [WRITE, READ], (90, 12)),
        (
            "(kv_heads q_per_kv head_dim.q | kv_heads head_dim.k | kv_heads head_dim.v) <- hidden",
            [WRITE, READ],
            (50, 12),
        ),
        ("(ffn | ffn) <- hidden", [WRITE, READ], (18, 12)),
        ("1 <- hidden", [WRITE, READ], (1, 12)),
        ("ffn <-", [WRITE], (9,)),
        ("hidden *", [GAIN], (12,)),
        ("head_dim.q *", [GAIN], (5,)),
        ("hidden +", [SHIFT], (12,)),
        ("(2 | positions) -> hidden", [READ, WRITE], (32, 12)),
        ("[kv_heads] (ffn | ffn) <- hidden", [STACK, WRITE, READ], (2, 18, 12)),
        ("1, positions -> hidden", [READ, READ, WRITE], (1, 30, 12)),
        ("hidden <- heads, kv_heads, 1", [WRITE, READ, READ, READ], (12, 6, 2, 1)),
        ("1, vocab <-", [WRITE, WRITE], (1, 41)),
        ("1 *", [GAIN], (1,)),
        ("kv_heads, head_dim.k *", [GAIN, GAIN], (2, 5)),
        ("() *", [GAIN], ()),
    ],
)
def test_a_signature_is_roles_and_a_shape(text, roles, shape):
    found = parse_signature(text)
    assert [dim.role for dim in found.dims] == roles
    assert found.shape(SIZES) == shape
    assert str(found) == text
    assert parse_signature(f"  {text.replace(' ', '   ')} ") == found


def test_query_heads_are_one_axis():
    """`kv_heads q_per_kv` is the space of query heads; kv_heads alone is that of keys."""
    assert parse_signature("(kv_heads q_per_kv head_dim.q) <- hidden").axes == ("heads", "head_dim", "hidden")
    assert parse_signature("(kv_heads head_dim.k) <- hidden").axes == ("kv_heads", "head_dim", "hidden")


def test_sides_are_spaces_of_their_own():
    assert Label("head_dim", "q").space != Label("head_dim", "k").space
    assert str(parse_signature("(2 | positions) -> hidden").dims[0]) == "(2 | positions)"
    assert str(parse_signature("(heads head_dim.q) <- hidden").dims[0]) == "(heads head_dim.q)"
    nested = parse_signature("(heads (head_dim.q | head_dim.k)) <- hidden").dims[0]
    assert str(nested) == "(heads (head_dim.q | head_dim.k))"
    assert [label.space for label in nested.labels] == ["heads", "head_dim.q", "head_dim.k"]


@pytest.mark.parametrize(
    ("mark", "offset", "behind"), [("*", 0.0, False), ("1*", 1.0, False), ("*>", 0.0, True), ("1*>", 1.0, True)]
)
def test_a_gain_says_how_it_is_stored_and_where_its_norm_stands(mark, offset, behind):
    dim = parse_signature(f"hidden {mark}").dims[0]
    assert (dim.role, dim.offset, dim.behind) == (GAIN, offset, behind)


@pytest.mark.parametrize(
    "text",
    [
        "", "hidden", "hidden hidden", "hidden <> ffn", "<- hidden", "hidden ->", "-> hidden", "hidden **",
        "(heads head_dim <- hidden", "heads head_dim) <- hidden", "() <- hidden", "((heads) head_dim) <- hidden",
        "Hidden <- ffn", "hidden.x <- ffn", "hidden+ <- ffn", "hidden+two <- ffn", "hid-den <- ffn",
        "q_per_kv <- hidden", "(q_per_kv kv_heads) <- hidden", "(heads q_per_kv) <- hidden", "ffn <- hidden <- vocab",
        "ffn = hidden", "hidden * ffn", "hidden*", "hidden 2*", "hidden *>>", "hidden 1+", "heads head_dim <- hidden",
        "hidden, <- ffn", "hidden <- ffn,", ", hidden -> ffn", "hidden, *", "hidden <- , ffn",
        "(heads | ) <- hidden", "( | heads) <- hidden", "(heads || ffn) <- hidden", "2 <- hidden",
        "(0 | ffn) <- hidden", "(2 3) <- hidden", "(hidden) (ffn) <- vocab", "(ffn)) <- hidden", "ffn <- (hidden",
        "(heads (ffn) ) <- hidden", "(heads.q) <- hidden | ffn", "positions+2 -> hidden", "heads | ffn <- hidden",
    ],
)  # fmt: skip
def test_what_is_not_in_the_notation_is_an_error_that_quotes_it(text):
    with pytest.raises(ValueError, match="signature") as error:
        parse_signature(text)
    assert repr(" ".join(text.split())) in str(error.value)


def test_a_table_is_names_signatures_and_conditions():
    rows = parse_table("""
        a.{layers}.weight   ffn <- hidden   ? bias  not tie_word_embeddings

        b                   hidden *
        c.bias              ffn <-          ? optional
    """)
    assert [row.name for row in rows] == ["a.{layers}.weight", "b", "c.bias"]
    assert [row.when for row in rows] == ["bias not tie_word_embeddings", "", "optional"]
    assert [row.optional for row in rows] == [False, False, True]
    pattern = rows[0].pattern
    assert pattern.match("a.0.weight")["layers"] == "0"
    assert pattern.match("a.17.weight")["layers"] == "17"
    for layer in ("01", "-1", "x", "", "1.2"):
        assert not pattern.match(f"a.{layer}.weight"), layer
    for name in ("a.1.weight.bias", "a.1xweight", "a.1.weight\n", "xa.1.weight"):
        assert not pattern.match(name), name


def test_a_row_says_what_stock_code_multiplies_its_tensor_by():
    embedding, head, plain = parse_table("""
        a   vocab -> hidden  × √hidden   ? bias
        b   vocab <- hidden  ÷ √hidden
        c   vocab <- hidden
    """)
    assert (embedding.root, head.root, plain.root) == (("hidden", 0.5), ("hidden", -0.5), None)
    assert (embedding.text, head.text) == ("vocab -> hidden × √hidden", "vocab <- hidden ÷ √hidden")
    assert (embedding.when, plain.text) == ("bias", "vocab <- hidden")
    for times in ("× hidden", "√hidden", "× √hidden × √hidden", "× √"):
        with pytest.raises(ValueError, match="signature"):
            parse_table(f"a  vocab -> hidden  {times}")


@pytest.mark.parametrize("line", ["name", "name hidden", "name hidden -> ? x", "name hidden & ffn"])
def test_a_table_with_a_bad_line_is_an_error(line):
    with pytest.raises(ValueError, match="signature"):
        parse_table(f"sound hidden *\n{line}")


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_familys_table_parses_and_uses_known_axes(family):
    assert family.rows
    known = {*family.axes, *family.units, "kv_heads", "head_dim", *STORED}
    for row in family.rows:
        assert set(row.signature.axes) <= known, row
        assert len(row.signature.part.matrix.dims) in (1, 2)
        assert parse_signature(str(row.signature)) == row.signature
        assert sum(dim.role == WRITE for dim in row.signature.matrix.dims) <= 1
        for label in (label for dim in row.signature.dims for label in dim.labels):
            known_sides = dict.fromkeys(family.scored, SIDES) | {"head_dim": (*SIDES, "turn")}
            sides = known_sides.get(label.axis, ("", "raw"))
            assert label.side in sides, f"{row}: which side?"


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_what_a_condition_names_is_a_field_or_a_class(family):
    """A misspelt word would be false for ever, and its row dead."""
    assert not family.experts or family.experts.switch in ("", family.experts.normed)
    fields = {*family.axes.values(), *family.defaults, *family.fixed, *family.harmless, *family.reads}
    conditions = [row.when for row in family.rows]
    conditions += [family.norm.writes_stream, family.norm.affine, family.norm.bare, family.attention.scaled]
    conditions += [family.tie.when, family.tie.norms_when] if family.tie else []
    for word in {word for when in conditions for word in when.split()}:
        if word in ("always", "never", "optional", "not", "first"):
            continue
        if word in ("sparse", "dense"):
            assert family.experts.layers
            continue
        if listed := next((one for one in family.layer_lists if word.startswith(f"{one.field}==")), None):
            assert word.removeprefix(f"{listed.field}==").strip("'") in listed.entries
            continue
        if word[0].isupper():
            assert all(w.startswith("For") or w == "LMHeadModel" for w in word.split("|")), word
        else:
            names = word.replace("!=", "==").split("==")
            assert {name for name in names if name[0].isalpha() and name != "none"} <= fields, word


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_no_name_matches_two_rows_at_once(family):
    """Rows may share a name under conditions that exclude each other; patterns never overlap otherwise."""
    for row in family.rows:
        name = row.name.replace("{layers}", "3").replace("{experts}", "2")
        assert {other.name for other in family.rows if other.pattern.match(name)} == {row.name}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_stored_tensor_matches_exactly_one_row(variant, tiny):
    kind = VARIANTS[variant].model_type
    family = FAMILIES[kind]
    with open_checkpoint(tiny(variant)) as checkpoint:
        check_fields(Architecture(family, checkpoint.config))
        found = match(Architecture(family, checkpoint.config), checkpoint.tensors, variant)
    assert [t.name for t in found.tensors] == list(checkpoint.tensors)
    assert not found.duplicates
    assert not found.stale
    assert len({t.canonical for t in found.tensors}) == len(found.tensors)
    for t in found.tensors:
        rows = [r for r in family.rows if r.pattern.match(t.canonical) and found.architecture.holds(r.when)]
        assert rows == [t.row], t.name
    required = {n for n, row in found.architecture.tensors.items() if not row.optional}
    assert required <= {t.canonical for t in found.tensors}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_the_defaults_are_those_of_the_stock_config(family):
    """What config.json leaves out has the value that stock code gives it; and its every field is known."""
    needed = NEEDED.get(family.model_type, {})
    stock = transformers.AutoConfig.for_model(family.model_type, **needed).to_dict()
    if refused := {
        name for name in needed if name in family.fixed.keys() & family.defaults.keys()
    }:  # what stock code takes has another table
        usual = transformers.AutoConfig.for_model(family.model_type)
        assert all(getattr(usual, name) == family.defaults[name] not in family.fixed[name] for name in refused)
    for name, value in ((name, value) for name, value in family.defaults.items() if name not in refused):
        if isinstance(value, str) and value.startswith("="):
            continue
        found = {**(stock.get("rope_parameters") or {}), **stock}.get(name, NOT_A_FIELD.get(name))
        found = stock[family.synonyms[name]] if found is None and name in family.synonyms else found
        assert found == value, name
    check_fields(Architecture(family, stock))
    with pytest.raises(Refused, match=r"initializer_rnage.*\n.*did you mean 'initializer_range'"):
        check_fields(Architecture(family, {**stock, "initializer_rnage": 0.1}))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_tensor_that_no_row_has_is_an_error(family):
    config = {
        **transformers.AutoConfig.for_model(family.model_type, **NEEDED.get(family.model_type, {})).to_dict(),
        "architectures": ["Model"],
    }
    config[family.axes["layers"]] = 1
    known = Architecture(family, config)
    sound = {
        name: SimpleNamespace(dtype="F32", shape=row.signature.shape({**FOUND, **known.sizes}))
        for name, row in known.tensors.items()
    }
    match(known, sound, "here")
    with pytest.raises(BadInput, match=r"extra\.weight"):
        match(known, {**sound, "extra.weight": SimpleNamespace(dtype="F32", shape=(2, 2))}, "here")
    name, lost = next((n, t) for n, t in sound.items() if len(t.shape) == 2 and len(set(t.shape)) == 2)
    with pytest.raises(BadInput, match="missing"):
        match(known, {n: t for n, t in sound.items() if n != name}, "here")
    with pytest.raises(BadInput, match="has shape"):
        match(known, {**sound, name: SimpleNamespace(dtype="F32", shape=lost.shape[::-1])}, "here")
    with pytest.raises(BadInput, match="dtype I64"):
        match(known, {**sound, name: SimpleNamespace(dtype="I64", shape=lost.shape)}, "here")


def test_torch_is_not_needed_to_read_a_table():
    modules = (
        "grow.notation.axes, grow.architectures, grow.architectures.match, grow.planning.target, grow.planning.plan"
    )
    code = f"import {modules}, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
