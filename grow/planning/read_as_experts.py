"""A dense checkpoint read as one with experts that computes the same.

A dense FFN of F units is a mixture of G slices of F/G units, all of which a token gets, each with weight 1/G and its
down projection × G. Read so, a dense checkpoint is an ordinary one of the target family, and everything else is its
growth: G experts become G·c by copies, widths and depth grow as they do there.

    expert e       copy ⌊e / G⌋ of slice e mod G:  units [s·F/G, (s+1)·F/G) of gate and up, those columns of down, × G
    router         drawn; the rows of one group's G slices are equal, so top_k = G·k takes k whole groups
    exactness      Σ over a group of p/G · G·down_s(…) = p · FFN(x), and the weights p of the chosen groups sum to 1
    shared route   the FFN is the shared expert (gate 0: σ = ½, down × 2); routed experts are drawn and write 0

The router sees tokens differently for every group, so copies part as they train. Sparse upcycling (2212.05055);
fine-grained, with virtual groups: 2410.07524.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from grow.architectures import FAMILIES
from grow.architectures.architecture import Architecture
from grow.architectures.facts import Experts
from grow.architectures.family import Family
from grow.architectures.match import Match, Matched, Origin
from grow.architectures.upcycling_pairs import PAIRS, Pair
from grow.errors import BadInput, Refused
from grow.notation.axes import Row
from grow.notation.origins import Constant, Drawn, Read, SourcePart, Stack
from grow.planning.change import ROUTES, Upcycling
from grow.planning.growth_options import UpcyclingOptions
from grow.spelling import command, option


def read_so(matched: Match, asked: UpcyclingOptions) -> tuple[Match, Upcycling, int]:
    """The checkpoint as one of the target family, how that was done, and top_k."""
    pair = pair_of(matched.architecture)
    how = Upcycling(pair.source, pair.target, asked.granularity, asked.every, asked.route)
    return as_experts(matched, how), how, chosen_experts(asked.experts, asked.top_k, how)


def pair_of(source: Architecture) -> Pair:
    """The pair for a dense source; `Refused`, with what to do instead, when there is none."""
    family = source.family
    if family.experts is not None:
        raise Refused(
            "config.json: model_type",
            what=f"{family.model_type} has experts already",
            why="upcycling turns a dense FFN into experts",
            fix=command("widen", to={family.axes["experts"]: 2 * source.sizes["experts"]}),
        )
    pair = next((pair for pair in PAIRS if pair.source == family.model_type), None)
    if pair is None:
        raise Refused(
            "config.json: model_type",
            what=f"there is no family with experts that {family.model_type} can be read as",
            why="it takes one with the same attention and norms, gated experts and chosen weights that sum to 1",
            fix="a source of " + ", ".join(pair.source for pair in PAIRS),
        )
    for name, allowed in pair.needs.items():
        if (value := source.get(name)) not in allowed:
            raise Refused(
                f"config.json: {name}",
                what=f"{value!r}; {family.model_type} is read as {pair.target} with {allowed[0]!r}",
                why=f"the stock {pair.target} has nothing that would do the same",
                fix="a source without it",
            )
    return pair


def as_experts(matched: Match, how: Upcycling) -> Match:
    """The same checkpoint as one of the target family: `how.granularity` experts, of which a token gets all.

    Raises Refused where that is another function, or no checkpoint of the target.
    """
    pair = pair_of(matched.architecture)
    if pair.target != how.target or pair.source != how.source:
        raise BadInput(
            how.target,
            what=f"{how.source} -> {how.target} is not a known pair",
            why=f"{pair.source} is read as {pair.target}",
            fix="remove grow.json to compare by outputs alone",
        )
    target = FAMILIES[pair.target]
    assert target.experts is not None
    _check(target, target.experts, matched.architecture.sizes, how)
    into = Architecture(target, _config(matched.architecture, target, pair, how))
    return Match(into, tuple(_tensors(matched, into, how)), matched.duplicates, matched.stale)


def _check(target: Family, experts: Experts, sizes: Mapping[str, int], how: Upcycling) -> None:
    ffn, layers, g = sizes["ffn"], sizes["layers"], how.granularity
    if how.route not in ROUTES or (how.route == "shared" and not experts.shared):
        raise Refused(
            option(route=how.route),
            what=f"{target.model_type} has no shared expert" if how.route in ROUTES else "no such route",
            why="routes: " + ", ".join(ROUTES),
            fix=option(route="routed"),
        )
    if how.every != 1 and not (experts.layers and experts.layers.step):
        raise Refused(
            option(every=how.every),
            what=f"{target.model_type} has experts in every layer",
            why="its config has no field for dense layers",
            fix=option(every=1),
        )
    if not 1 <= how.every <= layers:
        raise BadInput(
            option(every=how.every),
            what=f"no layer of {layers} would have experts",
            why="layers every, 2·every, … get them",
            fix=option(every=layers if how.every > layers else 1),
        )
    target.check_caps(
        {**{axis: sizes[axis] for axis in ("heads", "head_dim", "layers")}, "experts": max(g, 1)},
        lambda name, size: option(granularity=size if name == target.axes["experts"] else g),
    )
    if g < 1 or ffn % g:
        near = sorted((k for k in range(1, min(ffn, 4096) + 1) if ffn % k == 0), key=lambda k: (abs(k - g), k))[:3]
        raise Refused(
            option(granularity=g),
            what=f"{ffn} units cannot be cut into {g} slices",
            details=(("equation", f"slice s holds units [s·F/G, (s+1)·F/G), F = {ffn}"),),
            why="all experts have one width",
            fix=" or ".join(option(granularity=k) for k in sorted(near)),
        )


def chosen_experts(experts: int, top_k: int | None, how: Upcycling) -> int:
    """top_k, when these numbers of experts and choices are exact and can train; `Refused` else."""
    g = how.granularity
    chosen = min(2 * g, experts) if top_k is None else top_k
    groups = how.route == "routed"
    if experts < 2 or (groups and experts % g):
        raise Refused(
            option(experts=experts),
            what=f"{experts} experts are not a whole number of groups of {g}"
            if experts > 1
            else "one expert leaves nothing to choose",
            why="a group is one copy of the whole FFN, and at least two experts make a router's work",
            fix=" or ".join(
                option(experts=k * g) for k in sorted({max(1, experts // g), experts // g + 1}) if k * g > 1
            ),
        )
    if not 1 <= chosen <= experts or (groups and chosen % g):
        exact = sorted({max(1, chosen // g), min(chosen // g + 1, experts // g)})
        raise Refused(
            option(top_k=chosen),
            what=f"of {experts} experts in groups of {g}" if groups and g > 1 else f"of {experts} experts",
            why="a token gets whole groups: top_k = granularity × groups" if groups else "1 to the number of experts",
            fix=" or ".join(option(top_k=k * g) for k in exact),
        )
    if groups and chosen == 1:
        raise Refused(
            option(top_k=1),
            what="one chosen expert",
            why="its weight is 1 whatever the router says, so the router has no gradient and never learns",
            fix=option(top_k=2),
        )
    return chosen


def _config(source: Architecture, target: Family, pair: Pair, how: Upcycling) -> dict[str, Any]:
    """The source's config as one of the target: G experts, all chosen."""
    family, said, sizes = source.family, source.config, source.sizes
    experts, rope = target.experts, said.get("rope_parameters") or said.get("rope_scaling") or {}
    assert experts is not None
    before, after = family.class_begins, target.class_begins
    head = source.class_name.removeprefix(before)
    if head not in pair.heads or not source.class_name.startswith(before):
        raise Refused(
            "config.json: architectures",
            what=f"{source.class_name}, and there is no {after}{head}",
            why=f"stock {target.model_type} has " + ", ".join(after + name for name in pair.heads),
            fix=f"save the source as {before}ForCausalLM or {before}Model",
        )
    carried = {name: value for name, value in pair.carried.items() if name not in said}
    if "rope_theta" in rope:
        carried.pop("rope_theta", None)
    config = {name: value for name, value in said.items() if name not in pair.dropped} | carried | dict(pair.sets)
    config |= {target.axes[axis]: size for axis, size in sizes.items() if axis in target.axes}
    units = sizes["ffn"] // how.granularity
    config |= {target.axes[experts.width]: units, target.axes["experts"]: how.granularity}
    config |= {name: how.granularity for field, name in target.synonyms.items() if field == target.axes["experts"]}
    if experts.shared_width:
        config[target.axes[experts.shared_width]] = sizes["ffn"]
    if experts.layers and experts.layers.step:
        config[experts.layers.step] = how.every
    if experts.layers and experts.layers.first:
        config[experts.layers.first] = 0
    for listed in target.layer_lists:
        if not config.get(listed.field) and listed.default(Architecture(target, config)) is not None:
            alike = listed.entries[:1] * sizes["layers"]  # the target would take other layers by default
            config[listed.field] = [*source.layer_entries.get(listed.field, alike)]
    config["head_dim"] = sizes["head_dim"]
    config |= {experts.top_k: how.granularity, "model_type": target.model_type, "architectures": [after + head]}
    return config


def _tensors(matched: Match, into: Architecture, how: Upcycling) -> Iterator[Matched]:
    """Every tensor of the target: the source's own, and where its FFN stood what the target has there instead."""
    family, target, experts = matched.family, into.family, into.family.experts
    assert experts is not None
    rows = {row.name: row for row in target.rows}
    old = {(t.row.name, t.index("layers")): t for t in matched.tensors}
    dense = dict.fromkeys(name for names in experts.parts.values() for name in names)  # the same order in any process
    for tensor in matched.tensors:
        layer = tensor.index("layers")
        # a class may have another prefix than the target's (LlamaForQuestionAnswering)
        bare = family.prefix + tensor.name == tensor.canonical
        if layer is None or tensor.row.name not in dense or not into.sparse(layer):
            name = tensor.name if bare else tensor.canonical
            yield replace(tensor, name=name, row=rows[tensor.row.name])
        elif tensor.row.name == next(iter(experts.parts.values()))[0]:  # where the FFN begins
            ffn = {name: old[name, layer] for name in dense}
            for made in _experts(target, experts, rows, ffn, layer, matched.architecture.sizes["ffn"], how):
                yield replace(made, name=made.canonical.removeprefix(target.prefix) if bare else made.canonical)


def experts_of(how: Upcycling, sizes: Mapping[str, int], layer: int, dtype: str) -> Iterator[Matched]:
    """What a layer's FFN is read as, from sizes alone: those of the target, before anything has grown."""
    target, dense = FAMILIES[how.target], {row.name: row for row in FAMILIES[how.source].rows}
    experts = target.experts
    assert experts is not None
    units, ffn = sizes[experts.width] * how.granularity, {}
    for name in dict.fromkeys(name for names in experts.parts.values() for name in names):
        at = dense[name].at(layers=layer)
        shape = dense[name].signature.shape({"ffn": units, "hidden": sizes["hidden"]})
        ffn[name] = Matched(at, at, dense[name], SourcePart(at, dtype, shape))
    yield from _experts(target, experts, {row.name: row for row in target.rows}, ffn, layer, units, how)


def _experts(
    target: Family,
    experts: Experts,
    rows: Mapping[str, Row],
    ffn: Mapping[str, Matched],
    layer: int,
    units: int,
    how: Upcycling,
) -> Iterator[Matched]:
    """What stands in one layer in place of its FFN."""
    slices, width, routed = how.granularity, units // how.granularity, how.route == "routed"
    gate = next(iter(ffn.values()))
    hidden = ffn[experts.parts[next(iter(experts.parts))][0]].shape[1]
    silent = Constant(0.0)

    def made(
        row: Row,
        like: Matched,
        shape: tuple[int, ...],
        origin: Origin,
        expert: int = 0,
        corner: tuple[int, int] = (0, 0),
    ) -> Matched:
        name = row.at(layers=layer, experts=expert)
        return Matched(name, name, row, SourcePart(like.stored.tensor, like.dtype, shape, corner), origin)

    def slice_of(row: Row, dense: str, s: int) -> Matched:
        like = ffn[dense]
        if _writes_hidden(like):
            origin = Read(float(slices)) if routed else silent
            return made(row, like, (hidden, width), origin, s, (0, s * width))
        return made(row, like, (width, hidden), Read() if routed else Drawn(), s, (s * width, 0))

    yield made(rows[experts.router], gate, (slices, hidden), Drawn(0.02, repeat=slices if routed else 1))
    for name, names in experts.parts.items():
        row = rows[name]
        if not row.signature.stacked:
            yield from (slice_of(row, dense, s) for s in range(slices) for dense in names)
        else:
            # a slice has the signature of its row of the dense table; in the stack they lie one below the other
            pieces = tuple(
                slice_of(replace(row, signature=ffn[dense].row.signature), dense, s)
                for s in range(slices)
                for dense in names
            )
            height = sum(piece.shape[0] for piece in pieces) // slices
            yield made(row, ffn[names[0]], (slices, height, pieces[0].shape[1]), Stack(pieces))
    for name, dense in experts.shared.items():
        like = ffn[dense]
        carried = Read() if not _writes_hidden(like) else silent if routed else Read(2.0)
        yield made(rows[name], like, like.shape, carried)
    if experts.shared_gate:
        yield made(rows[experts.shared_gate], gate, (1, hidden), Drawn(0.02) if routed else silent)


def _writes_hidden(t: Matched) -> bool:
    return t.row.signature.dims[0].has("hidden")
