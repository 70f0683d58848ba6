"""The first family of a type, all of whose facts are guesses that growth has to prove: rows, conditions, defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from grow.architectures.common_fields import ELEMENTWISE, TRAINS
from grow.architectures.facts import Attention, Chain, Experts, Norm, Tie
from grow.architectures.family import Family
from grow.architectures.names_of_axes import FFNS, TOP_K_FIELDS
from grow.deriving.config_facts import (
    class_prefix_of,
    defaults_of,
    divides,
    eps_of,
    layer_lists_of,
    nulls_of,
    theta_of,
    turned_part,
)
from grow.deriving.first_table import first_rows, table_text
from grow.deriving.integer_fields import Moves, probed
from grow.deriving.reading import Reads, traced
from grow.deriving.row_conditions import with_classes, with_switches
from grow.deriving.tiny_models import (
    BASE,
    NotBuilt,
    TinyModel,
    built,
    stock_classes,
    stock_config,
    stored,
)

ROPE_FIELDS = ("rope_parameters", "rope_theta", "rope_scaling")


@dataclass
class First:
    """What was seen of a type before anything grew.

    main     ending of the class that the axes are proved with
    moves    of that class
    tinies   words -> a tiny model that a growth must keep: of every class, tied, with switches turned
    left     fields of the config that nobody has explained yet -> their values
    notes    what could not be looked at, and why
    """

    model_type: str
    classes: Mapping[str, type]
    main: str
    moves: Moves
    reads: Reads
    family: Family
    tinies: dict[str, TinyModel]
    left: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def first_family(model_type: str) -> First:
    """NotBuilt or NotDescribed with the reason where there is no such family."""
    classes = stock_classes(model_type)
    main = next((e for e in ("ForMaskedLM", *classes) if e in classes), "")
    if not main or main == BASE:
        raise NotBuilt("it has no class with a head over tokens or labels")
    cls = classes[main]
    notes: list[str] = []
    moves = probed(model_type, cls)
    tiny = TinyModel(model_type, cls, moves.fields)
    model = built(cls, stock_config(model_type, moves.fields))
    reads = traced(tiny)
    rows = {name: (signature, "") for name, signature in first_rows(moves, model, reads).items()}
    tinies = {main: tiny}
    rows, switches = with_switches(model_type, cls, moves, rows, tinies, notes)
    prefix = _prefix(model, classes.get(BASE), model_type, moves, set(rows))
    rows, aliases = with_classes(model_type, classes, main, moves, rows, prefix, tinies, notes)
    tied_rows: dict[str, tuple[str, str]] = {}
    tie, tied_tiny = _tie(model_type, cls, main, moves, model, reads)
    if tie:
        head = rows.get(tie.head)
        if head:
            rows[tie.head] = (head[0], f"{head[1]} not tie_word_embeddings".strip())
        bias = tie.biases[1]
        if bias in rows:
            signature, when = rows[bias]
            rows[bias] = (signature, f"{when} not tie_word_embeddings".strip())
            tied_rows[bias] = (signature, f"{when} tie_word_embeddings optional".strip())
        if tied_tiny:
            tinies["tied"] = tied_tiny
    said = stock_config(model_type, {}).to_dict()
    eps = eps_of(said, model)
    attention = _attention(said, model, rows)
    family = Family(
        model_type=model_type,
        table=table_text(rows) + table_text(tied_rows).lstrip(),
        prefix=prefix,
        aliases=aliases,
        class_prefix=class_prefix_of(cls, main, model_type),
        axes=dict(moves.axes),
        norm=_norm(model, reads),
        attention=attention,
        tie=tie,
        experts=_experts(moves, rows, said),
        sizes={},
        defaults=defaults_of(model_type, moves, said, switches),
        derived_head_dim="head_dim" not in moves.axes,
        divides=divides(model_type, moves),
        eps=eps,
        chain=_chain(moves, reads, rows),
        layer_lists=layer_lists_of(model_type, moves),
        reads=frozenset(ROPE_FIELDS) if attention.rope else frozenset(),
        harmless=frozenset({eps} if isinstance(eps, str) else ()),
        default_theta=theta_of(said),
        fixed={k: ELEMENTWISE for k, v in said.items() if isinstance(v, str) and v in ELEMENTWISE},
        nulls=nulls_of(model_type, moves),
    )
    if family.attention.rope and (turned := _partly_turned(model_type, cls, moves)):
        tinies["half of each head turned"] = turned
        family = replace(family, attention=replace(family.attention, rope="partial"))
        family = replace(family, defaults={**family.defaults, "partial_rotary_factor": turned_part(said)})
    left = {k: v for k, v in said.items() if not family.knows(k) and k not in moves.lists and not TRAINS.fullmatch(k)}
    return First(model_type, classes, main, moves, reads, family, tinies, left, notes)


def _prefix(model: Any, base: type | None, model_type: str, moves: Moves, names: set[str]) -> str:
    """What the base model leaves out of the names."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    return prefix if any(name.startswith(prefix) for name in names) else ""


def _tie(
    model_type: str, cls: type, main: str, moves: Moves, model: Any, reads: Reads
) -> tuple[Tie | None, TinyModel | None]:
    """The table and the head that the config can tie, and a tiny model where it does."""
    try:
        config = stock_config(model_type, {**moves.fields, "tie_word_embeddings": True})
        tied = set(stored(built(cls, config)))
    except NotBuilt:
        return None, None
    gone = set(moves.base) - tied
    modules = dict(model.named_modules())
    table = next((f"{n}.weight" for n, m in modules.items() if m is model.get_input_embeddings()), "")
    output = model.get_output_embeddings()
    head = next((f"{n}.weight" for n, m in modules.items() if m is output), "")
    if not head or head not in gone or not table:
        return None, None
    norm = reads.source.get(head.removesuffix(".weight"), "")
    norms = tuple(n for n in (f"{norm}.weight", f"{norm}.bias") if norm and n in moves.base)
    biases = [n for n in gone if n.endswith(".bias")]
    other = next((n for n in moves.base if n.endswith(".bias") and n not in biases and _is_vocab(moves, n)), "")
    try:
        tiny = TinyModel(model_type, cls, {**moves.fields, "tie_word_embeddings": True})
    except NotBuilt:
        return None, None
    pair = (other, biases[0]) if len(biases) == 1 and other else ("", "")
    return Tie(table, head, norms, when=f"tie_word_embeddings {main}", biases=pair), tiny


def _is_vocab(moves: Moves, name: str) -> bool:
    return moves.moving(name, 0) == {moves.axes["vocab"]}


def _norm(model: Any, reads: Reads) -> Norm:
    """The kind of the norms by their class, and their place by what reads what."""
    kinds = [type(model.get_submodule(name)).__name__.lower() for name in reads.norms]
    kind = "rms" if sum("rms" in kind for kind in kinds) * 2 > len(kinds) else "layernorm"
    layer = [name for name in reads.order if ".1." in name]
    first = reads.source.get(layer[0], "") if layer else ""
    if layer and layer[0] not in reads.norms and ".0." in first:
        return Norm(kind, writes_stream="always")
    normed = any(reads.source.get(name) in reads.norms for name in reads.norms if ".0." in name)
    return Norm(kind, bare="always" if normed else "never")


def _attention(said: Mapping[str, Any], model: Any, rows: Mapping[str, tuple[str, str]]) -> Attention:
    turns = said.get("rope_parameters") is not None or any(
        "rotary" in type(m).__name__.lower() for m in model.modules()
    )
    rope = None
    if turns:
        parameters = said.get("rope_parameters") or {}
        part = parameters.get("partial_rotary_factor", said.get("partial_rotary_factor"))
        rope = "partial" if part not in (None, 1, 1.0) else "half"
    gains = [s for s, _ in rows.values() if s.endswith("*") and "head_dim.q" in s]
    return Attention(rope=rope, whole_norm=any("heads" in s for s in gains))


def _partly_turned(model_type: str, cls: type, moves: Moves) -> TinyModel | None:
    """A tiny model half of whose heads turn, where stock code obeys `partial_rotary_factor`; else None."""
    said = stock_config(model_type, moves.fields).to_dict().get("rope_parameters")
    if not isinstance(said, dict) or any(isinstance(value, dict) for value in said.values()):
        return None
    fields = {**moves.fields, "rope_parameters": {**said, "partial_rotary_factor": 0.5}}
    try:
        return TinyModel(model_type, cls, fields)
    except NotBuilt:
        return None


def _chain(moves: Moves, reads: Reads, rows: Mapping[str, tuple[str, str]]) -> Chain | None:
    """First and last norm of a layer, and the two matrices of its FFN, by the order in which they ran."""
    layer = [name.replace(".0.", ".{layers}.", 1) for name in reads.order if ".0." in name]
    norms = [n for n in layer if rows.get(f"{n}.weight", ("",))[0].startswith("hidden *")]
    into = [
        n for n in layer if rows.get(f"{n}.weight", ("",))[0] in ("ffn <- hidden", "hidden -> ffn", "ffn <- hidden.raw")
    ]
    out = [n for n in layer if rows.get(f"{n}.weight", ("",))[0] in ("hidden <- ffn", "ffn -> hidden")]
    if len(norms) < 2 or len(into) != 1 or len(out) != 1:
        return None
    return Chain(first=norms[0], reads=into[0], writes=out[0], last=norms[-1])


def _experts(moves: Moves, rows: Mapping[str, tuple[str, str]], said: Mapping[str, Any]) -> Experts | None:
    """The router and what each token gets of the experts, where there are some."""
    router = next((name for name, (signature, _) in rows.items() if signature.startswith("experts <- hidden")), "")
    top_k = next((name for name in TOP_K_FIELDS if type(said.get(name)) is int), "")
    if "experts" not in moves.axes or not router or not top_k:
        return None
    width = next((axis for axis in FFNS[1::-1] if axis in moves.axes), "")
    parts: dict[str, tuple[str, ...]] = {name: () for name in rows if "{experts}" in name}
    return Experts(width=width, top_k=top_k, router=router, parts=parts)
