"""A family is a table: one row per tensor, and next to it the facts that shapes cannot show.

`Family` holds the data; the modules in `grow/families/` fill it in and contain no code. Conditions (`Row.when`,
`Norm.writes_stream`, …) are words that must all hold: a config field is true, `not` before it is not,
`a==b` and `a!=b` compare two fields, `ForCausalLM|ForMaskedLM` is true for those model classes. `sparse` and `dense`
ask whether a layer has experts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from grow.errors import BadInput, Refused, did_you_mean, listing, near_miss
from grow.families.config_values import TRAINS, check_values
from grow.families.stock_source import stock_of
from grow.files.config_json import NOT_PLAIN, SIZES
from grow.notation.axes import INDICES, Row, parse_table
from grow.notation.rope import SPELLED, check_rope
from grow.notation.size_limits import check_caps
from grow.spelling import option

UNITS = ("ffn", "expert_ffn", "shared_ffn")  # of a dense layer (or of all), of an expert, of the shared expert
WIDTHS = ("hidden", "heads", "kv_heads", "head_dim", *UNITS)
COUNTS = ("layers", "vocab", "positions", "experts")
GROWABLE = (*WIDTHS, *COUNTS)


@dataclass(frozen=True)
class Norm:
    """The norm on the residual stream.

    kind           "rms" or "layernorm"
    writes_stream  condition under which the norm's output is the residual stream (post-LN)
    affine         condition under which it has a gain (and a bias)
    bare           condition under which something reads the stream without a norm in between
    """

    kind: str
    writes_stream: str = "never"
    affine: str = "always"
    bare: str = "never"


@dataclass(frozen=True)
class Attention:
    """What sits between q and k.

    scaled      condition under which scores are divided by √head_dim
    rope        None; "half" (rotates coordinates i and i + head_dim/2); "partial" (the first
                `partial_rotary_factor · head_dim` coordinates are rotated, the rest pass through)
    qk_norm     an RMSNorm over head_dim on q and on k
    whole_norm  that norm is over all heads at once
    index_scaled  condition under which scores are divided by the layer's index + 1, too
    """

    scaled: str = "always"
    rope: str | None = None
    qk_norm: bool = False
    whole_norm: bool = False
    index_scaled: str = "never"


@dataclass(frozen=True)
class Chain:
    """The modules of a post-norm layer, for inserting layers: x -> first(x + attention) -> last(… + writes(reads(…))).

    Names with `{layers}`; `first` and `last` are the LayerNorms, `reads` and `writes` the two matrices of the FFN.
    """

    first: str
    reads: str
    writes: str
    last: str


@dataclass(frozen=True)
class Window:
    """Per-layer attention kinds that stock code derives when `field` is not given: layers from `first` on are of the
    second kind where `switch` is true.

    even  the second kind are the layers 0, 2, … below `first` instead
    """

    field: str = "layer_types"
    switch: str = "use_sliding_window"
    first: str = "max_window_layers"
    kinds: tuple[str, str] = ("full_attention", "sliding_attention")
    even: bool = False

    def kind(self, layer: int, first: int) -> str:
        return self.kinds[layer % 2 == 0 and layer < first if self.even else layer >= first]


@dataclass(frozen=True)
class Experts:
    """Where a family keeps its experts, and how its router weighs them.

    width       the axis of an expert's units
    top_k       config field: how many experts a token gets
    normed      condition under which their weights sum to 1
    switch      config field that makes `normed` hold, "" where it always does
    router      row of the router
    parts       row of the experts -> the rows of a dense FFN (in Llama's names) that it stacks
    shared      row of the shared expert -> the row of a dense FFN that it is
    shared_gate row of its gate, a sigmoid
    only, step  config fields: layers without experts, and every how many layers there are some
    fused       name of a parameter of the stock class, under which it may be stored too -> the rows of the table that
                lie in it, of every expert one behind the other; one row that is no expert's has another name there
    """

    width: str
    top_k: str
    router: str
    parts: Mapping[str, tuple[str, ...]]
    normed: str = "always"
    switch: str = ""
    shared: Mapping[str, str] = field(default_factory=dict)
    shared_gate: str = ""
    only: str = ""
    step: str = ""
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Tie:
    """One stored table is the embedding (a producer) and the head (a consumer) when `when` holds.

    The norm in front of the head absorbs the difference: `norms` are its gain and bias, there when `norms_when`
    holds. `head` is the tensor to write when the two must part because no norm can absorb it. `biases` are two names
    of the head's bias, which are tied as well; the first is the table's.
    """

    table: str
    head: str
    norms: tuple[str, ...]
    when: str
    norms_when: str = "always"
    biases: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Family:
    """Everything `grow` knows about one `model_type`.

    table     rows in the notation of `grow.notation.axes`; names with the base model's prefix
    prefix    what base-model checkpoints (`LlamaModel`) leave out of the names
    aliases   other prefixes that stock classes put there (`LlamaForQuestionAnswering`)
    axes      axis -> config field
    defaults  field -> its value when config.json leaves it out; "=other" repeats another field
    derived_head_dim   the stock code computes head_dim = hidden / heads and reads no field
    fixed     field -> the only values for which the table is true
    reads     fields that the growth interprets (beyond `axes`)
    harmless  fields that no width growth can disturb
    spelling  (stored, table) suffixes: older or on-disk names of the same tensor
    stale     suffixes of stored buffers that stock code ignores; they are left out of the result
    divides   the stock config refuses hidden % heads != 0
    eps       of the norms: a config field or a number
    chain     the modules of a layer whose norms write the stream
    branch_norms  rows that are gains on a branch's output; `silent_gain` is the stored number that makes them 0
    window    how stock code derives per-layer attention kinds
    layer_lists  config fields with one entry per layer
    default_theta  of RoPE, when the config says none
    experts   where the experts are, None for a dense family
    synonyms  field -> another name that stock code reads and writes for it
    nulls     field -> what null means where that is not what leaving it out means; "=other" as in defaults
    rope_spelling  fields outside `rope_parameters` in which stock code looks for θ and the rotated fraction
    positions_from  config field whose value + 1 is the first row of the position table that is a position
    sizes     size name -> config fields
    """

    model_type: str
    table: str
    prefix: str
    axes: Mapping[str, str]
    norm: Norm
    attention: Attention
    tie: Tie | None
    sizes: Mapping[str, Mapping[str, int]]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    derived_head_dim: bool = False
    divides: bool = False
    fixed: Mapping[str, tuple] = field(default_factory=dict)
    reads: frozenset[str] = frozenset()
    harmless: frozenset[str] = frozenset()
    spelling: tuple[tuple[str, str], ...] = ()
    stale: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    summary: str = ""
    eps: str | float = "rms_norm_eps"
    chain: Chain | None = None
    branch_norms: tuple[str, ...] = ()
    silent_gain: float = 0.0
    window: Window | None = None
    layer_lists: tuple[str, ...] = ("layer_types",)
    positions_from: str = ""
    default_theta: float = 1e4
    experts: Experts | None = None
    synonyms: Mapping[str, str] = field(default_factory=dict)
    nulls: Mapping[str, Any] = field(default_factory=dict)
    rope_spelling: tuple[str, str] = SPELLED

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        return parse_table(self.table)

    @property
    def known_fields(self) -> frozenset[str]:
        """Config fields that somebody has read and knows what growth does to; those of `TRAINS` come on top."""
        known = COMMON_FIELDS | self.harmless | self.reads | {*self.fixed, *self.axes.values(), *self.defaults}
        known |= {*self.synonyms.values()}
        if self.experts:
            facts = self.experts
            known |= set(filter(None, (facts.top_k, facts.switch, facts.only, facts.step)))
        return frozenset(known)

    def knows(self, name: str) -> bool:
        """Whether somebody has read this config field."""
        return name in self.known_fields or bool(TRAINS.fullmatch(name))

    def get(self, config: Mapping[str, Any], name: str) -> Any:
        """A config field, or the value that the stock config gives it when it is left out."""
        value = config.get(name)
        if value is None and name in self.synonyms:
            value = config.get(self.synonyms[name])
        if value is None:
            value = (self.nulls if name in config and name in self.nulls else self.defaults).get(name)
            if isinstance(value, str) and value.startswith("="):
                value = self.get(config, value[1:])
        return value

    def spelled(self, name: str) -> str:
        """A stored name as the table spells it."""
        for stored, suffix in self.spelling:
            if name.endswith(stored):
                name = name.removesuffix(stored) + suffix
        return name

    def rope_config(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The config as `grow.notation.rope` reads it: where it says nothing, as the stock class takes it."""
        said = {"max_position_embeddings": self.get(config, self.axes["positions"])}
        said |= {"rope_spelling": self.rope_spelling, "default.rope_theta": self.default_theta}
        said["default.partial_rotary_factor"] = self.defaults.get("partial_rotary_factor")
        return {**config, **said}

    def sparse(self, config: Mapping[str, Any], layer: int) -> bool:
        """Whether this layer has experts."""
        if self.experts is None or not self.experts.step:
            return self.experts is not None
        only, step = self.get(config, self.experts.only) or (), int(self.get(config, self.experts.step) or 1)
        return layer not in only and (layer + 1) % step == 0

    def holds(self, config: Mapping[str, Any], when: str, layer: int | None = None) -> bool:
        """Whether every word of a condition holds for this config; without a layer it may be that of any."""
        words = iter(when.split())
        for word in words:
            wanted = word != "not"
            if not wanted:
                word = next(words)
            if word in ("sparse", "dense"):
                if layer is not None and (self.sparse(config, layer) == (word == "sparse")) != wanted:
                    return False
            elif self._word(config, word) != wanted:
                return False
        return True

    def _word(self, config: Mapping[str, Any], word: str) -> bool:
        if word in ("always", "optional"):
            return True
        if word == "never":
            return False
        if "==" in word:
            a, b = word.split("==")
            return self.get(config, a) == self.get(config, b)
        if "!=" in word:
            a, b = word.split("!=")
            return self.get(config, a) != self.get(config, b)
        if word[0].isupper():
            named = config.get("architectures")  # nobody may have looked at it yet
            name = str(named[0]) if isinstance(named, list) and named else "?"
            return any(name.endswith(suffix) for suffix in word.split("|"))
        return bool(self.get(config, word))

    def hidden_context(self, config: Mapping[str, Any]) -> str:
        """What sits on the hidden axis, for `grow.notation.operators`: "rms", "layernorm" or "plain"."""
        plain = self.holds(config, self.norm.writes_stream) or self.holds(config, self.norm.bare)
        return "plain" if plain or not self.holds(config, self.norm.affine) else self.norm.kind

    def sizes_of(self, config: Mapping[str, Any]) -> dict[str, int]:
        """Axis -> size, head_dim and kv_heads resolved; BadInput when the fields contradict each other."""
        sizes: dict[str, int] = {}
        for axis, name in self.axes.items():
            value = self.get(config, name)
            if axis == "ffn" and value is None:
                value = 4 * sizes["hidden"]  # n_inner = None
            if axis == "head_dim" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise BadInput(
                    f"config.json: {name}",
                    what=f"{value!r}, wanted a positive integer",
                    why=f"{name} is the size of the axis {axis}",
                    fix=f"set {name} to the size that the weights have",
                )
            sizes[axis] = value
        sizes.setdefault("kv_heads", sizes["heads"])
        self.check_caps(sizes, "config.json: ")
        if "head_dim" not in sizes:
            if sizes["hidden"] % sizes["heads"]:
                raise BadInput(
                    f"config.json: {self.axes['heads']}",
                    what=f"{sizes['heads']} heads do not divide hidden {sizes['hidden']}",
                    why="head_dim = hidden / heads",
                    fix=self._divisor_hint(sizes["hidden"], sizes["heads"]),
                )
            sizes["head_dim"] = sizes["hidden"] // sizes["heads"]
            self.check_caps(sizes, "config.json: ")
        if sizes["heads"] % sizes["kv_heads"]:
            raise BadInput(
                f"config.json: {self.axes['kv_heads']}",
                what=f"{sizes['kv_heads']} kv heads do not divide {sizes['heads']} heads",
                why="each kv head serves heads / kv_heads query heads",
                fix=self._divisor_hint(sizes["heads"], sizes["kv_heads"], "kv_heads"),
            )
        return sizes

    def check_caps(self, sizes: Mapping[str, int], prefix: str) -> None:
        """BadInput where a size, or what a model of such sizes is made of, is larger than grow looks at."""
        count = {index: sizes.get(index, 1) for index in INDICES}
        tensors = sum(
            math.prod(n for index, n in count.items() if f"{{{index}}}" in row.name or row.signature.counts(index))
            for row in self.rows
        )
        check_caps(sizes, self.axes, prefix=prefix, table=not self.attention.rope, tensors=tensors)

    def _divisor_hint(self, whole: int, part: int, axis: str = "heads") -> str:
        divisors = [k for k in range(1, whole + 1) if whole % k == 0]
        near = sorted(sorted(divisors, key=lambda k: abs(k - part))[:3])
        return f"{self.axes[axis]} = " + " or ".join(map(str, near))

    def check_config(self, config: Mapping[str, Any], harmless: Collection[str] = ()) -> tuple[str, ...]:
        """Refuse a config with a value that stock code does not take, or a field that may change the function.

        harmless  fields that the user vouches for although stock code reads them
        Returns notes on fields that come along although nobody reads them.
        """
        check_values(self, config)
        for name, allowed in self.fixed.items():
            if name in config and config[name] not in allowed and config[name] is not None:
                raise Refused(
                    f"config.json: {name}",
                    what=f"{config[name]!r}; {self.model_type} is grown with {listing(map(repr, allowed))}",
                    why="another value makes another function than the one the table describes",
                    fix="grow a checkpoint without it",
                )
        notes = self._check_unknown(config, harmless)
        sizes = self.sizes_of(config)
        if self.divides and sizes["hidden"] % sizes["heads"]:
            raise BadInput(
                f"config.json: {self.axes['hidden']}",
                what=f"{sizes['heads']} heads do not divide hidden {sizes['hidden']}",
                why=f"the stock {self.model_type} config refuses it",
                fix=self._divisor_hint(sizes["hidden"], sizes["heads"]),
            )
        if self.attention.rope:
            partial = self.attention.rope == "partial"
            check_rope(self.rope_config(config), sizes["head_dim"], partial=partial)
        return notes

    def _check_unknown(self, config: Mapping[str, Any], harmless: Collection[str]) -> tuple[str, ...]:
        """Fields that the family does not know: refused where stock code reads them, told of where it does not."""
        known = self.known_fields
        unknown = sorted(name for name in config if not self.knows(name) and name not in harmless)
        if not unknown:
            return ()
        stock = stock_of(self.model_type)
        readings = stock.readings(unknown)
        misspelt = {name: near_miss(name, known) for name in unknown}
        generates = {name for name in unknown if name in stock.generates and name not in stock.fields}
        null = {name for name in unknown if config[name] is None and name not in stock.fields}
        idle = {name for name in unknown if not readings[name].at_all and not misspelt[name]}
        idle |= generates | {name for name in null if name in NOT_PLAIN or not readings[name].of_null}
        faults = [name for name in unknown if name not in idle]
        if not faults:
            told = [name for name in unknown if config[name] is not None and name not in generates]
            return (
                (f"config.json: no stock code reads {listing(told)}: what is there comes along as it is",)
                if told
                else ()
            )
        hint = misspelt[faults[0]] or did_you_mean(faults[0], known)
        sizes = [name for name in faults if SIZES.fullmatch(name)]
        raise Refused(
            f"config.json: {listing(faults)}",
            what=f"fields that the family {self.model_type} does not know",
            why="a field that nobody has read may change the function" + (f"; {hint}" if hint else ""),
            fix=f"remove {listing(sizes)} from a copy of config.json: a size that is no axis here would stay behind"
            if sizes
            else f"if they are harmless: {option(assume_harmless=faults)}",
        )


# Read by no forward pass, or by generation, training and bookkeeping only.
COMMON_FIELDS = frozenset(
    """
    architectures model_type dtype torch_dtype transformers_version use_cache return_dict output_attentions
    output_hidden_states initializer_range id2label label2id num_labels problem_type finetuning_task
    task_specific_params bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id mask_token_id
    decoder_start_token_id bad_words_ids max_length min_length do_sample num_beams temperature top_k top_p
    repetition_penalty chunk_size_feed_forward gradient_checkpointing tokenizer_class prefix torchscript
    _name_or_path _commit_hash _attn_implementation_autoset _num_labels is_encoder_decoder output_past pruned_heads
    tie_weights_ use_bfloat16 unk_token_id license language languages tags transformers.js_config is_decoder
    tie_encoder_decoder
    """.split()
)

# Activations that act on each unit alone; all of them leave unread and copied units independent.
ELEMENTWISE = (
    "silu", "swish", "gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh", "gelu_python_tanh",
    "quick_gelu", "relu", "relu2", "relu6", "leaky_relu", "mish", "sigmoid", "tanh", "linear", "laplace", "gelu_10",
)  # fmt: skip
