"""The ladder: every rung on one pair of checkpoints, and one verdict.

certificate    the law and W̃·E_in = E_out·W on the stored weights of every tensor, config, sha256
true_float64   outputs agree, with no rounding inside the forward pass; a rounded growth is repeated in float64
               (proof) and agrees to 1e-12, so what remains is storage
runtime_dtype  in the dtype people run, as close as the source is to itself
behaviour      tokenizer, generation config, labels, hidden states, loss, cached decoding, generation, kernels and
               batch shapes, save and reload
trainability   after a few optimizer steps: no dead parameter, no locked twin
recover        the source's weights computed back from the grown ones (when asked for)
"""

from __future__ import annotations

import contextlib
import math
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, cached_property
from importlib.metadata import version
from typing import Any

from grow.architectures import architecture_of
from grow.checkpoint.reader import Checkpoint
from grow.errors import BadInput, GrowError, Refused, no_such
from grow.notation.dtypes import BITS, ITEMSIZE, NAMES
from grow.planning.record import growth_document, read_record
from grow.spelling import option
from grow.verification.checks.same_tokenizer import tokenizers
from grow.verification.result import EXACT, LADDER, RUNG_OF, RUNGS, Check, Verification
from grow.verification.weights import chain as chains
from grow.verification.weights.chain import links, read_through
from grow.verification.weights.config_fields import read_by_stock
from grow.verification.weights.inferred_growth import misfit, stores_all, supposed
from grow.verification.weights.recorded_growth import NoSpace, Replay, config_differences, significant, unlike
from grow.verification.weights.stored_numbers import (
    StoredDifference,
    from_files,
    narrowed,
    narrowest,
    not_finite,
    same_shapes,
    stored_differences,
)
from grow.version import __version__


def verify_folders(
    source: Checkpoint,
    grown: Checkpoint,
    *,
    rungs: Sequence[str] = LADDER,
    tasks: Sequence[str] | None = None,
    samples: int | None = None,
    seed: int = 0,
    names: tuple[str, str] | None = None,
    progress: Callable[[str], None] = lambda check: None,
) -> Verification:
    """The ladder on two open checkpoints; `rungs` may name single checks. BadInput when the two cannot belong
    together.

    tasks    downstream tasks that both have to answer alike; () takes those that fit the model, None runs none
    samples  of each task, at most
    """
    wanted = checks_of([*rungs, *(["tasks"] if tasks is not None else [])])
    record = read_record(grown.path)
    if record is None:
        _check_order(source, grown)
    with links(record, source, grown) if record else contextlib.nullcontext(()) as chain:
        ladder = _Ladder(source, grown, chain, seed, progress)
        ladder.tasks, ladder.samples = tuple(tasks or ()), samples
        ladder.climb(wanted)
    return Verification(
        *(names or (str(source.path), str(grown.path))),
        tuple(ladder.done),
        tuple(ladder.notes),
        first=ladder.first,
        growth=growth_document(record) if record else None,
        config=tuple(config_differences(source.config, grown.config)),
        environment=environment(),
    )


OUTSIDE = {"tokenizer", "generation_config", "labels", "embeddings", "kernels", "save_reload"}
"""Checks that fail for other reasons than a module that computes something else."""


class _Ladder:
    """One pair on its way up: `done`, `notes` and, where something failed, `first`."""

    def __init__(
        self,
        source: Checkpoint,
        grown: Checkpoint,
        chain: Sequence[Replay],
        seed: int,
        progress: Callable[[str], None],
    ) -> None:
        self.source, self.grown, self.seed, self.progress = source, grown, seed, progress
        self.chain = chain
        """The growths between the two, the first one first: none without grow.json."""
        self.replay = chain[0] if len(chain) == 1 else None
        """The only one: what is known of one growth alone is asked of it."""
        self.done: list[Check] = []
        self.notes: list[str] = []
        self.first: dict[str, Any] | None = None
        self.tasks: tuple[str, ...] = ()
        self.samples: int | None = None
        self.stored: list[StoredDifference] | None = None
        """How the two differ number by number; None when a plan says more, or the shapes are not the same."""
        kind = None if same_shapes(source, grown) else str(source.config.get("model_type"))
        self.fields = chain[-1].fields() if chain else unlike(source.config, grown.config, kind)
        floats = {info.dtype for info in grown.tensors.values()} & ITEMSIZE.keys()  # beside counters and masks
        lost = [f"{link.record.method}: {link.record.lossy}" for link in chain if link.record.lossy]
        self.lossy = "; ".join(lost)
        self.narrow = min(floats, key=ITEMSIZE.__getitem__, default="F64")

    @cached_property
    def _likely(self) -> Replay | None:
        """Without grow.json, and where shapes are not the same: the growth that most stored tensors follow."""
        alone = self.replay is None and self.stored is None
        return supposed(self.source, self.grown) if alone else None

    @property
    def failed(self) -> dict[str, Check]:
        """What failed of the function, by name."""
        return {c.name: c for c in self.done if c.status == "fail" and c.rung != "trainability"}

    def climb(self, wanted: set[str]) -> None:
        if len(self.chain) > 1:
            self.notes.append(
                f"grow.json tells of {len(self.chain)} growths, which are held against the files one by one"
            )
        elif self.replay is None:
            self.notes.append("no grow.json in the grown checkpoint: no certificate, the outputs decide")
            if same_shapes(self.source, self.grown):
                self.stored = list(stored_differences(self.source, self.grown))
        if "tasks" in wanted:
            from grow.verification.downstream.tasks import prepare

            prepare(self.source.path, self.tasks)
        if "certificate" in wanted:
            self.progress("certificate")
            self.done.append(chains.certificate(self.chain) if self.chain else self._identical())
        if "recover" in wanted:
            self.progress("recover")
            self.done.append(self._recover())
        if wanted - {"certificate", "recover"}:
            self._models(wanted)
        if self.lossy:  # which says all there is to say about where they differ
            self.notes.append(f"grow.json says that this growth is not exact; {self.lossy}")
            return
        if self.failed and self.first is None:
            certificate = next((c.measured.get("first") for c in self.done if c.name == "certificate"), None)
            inside = [check for name, check in self.failed.items() if name not in OUTSIDE]
            explained = certificate or (misfit(self._likely) if inside and self._likely else None)
            stored, fields = (self.stored or [], self._unlike()) if inside else ([], [])
            self.first = from_files(explained, stored, fields, (inside or [*self.failed.values()])[0])
        if any(check.measured.get("within_storage") for check in self.done):
            self.notes.append(
                "the outputs agree as far as rounding the stored weights explains, which may be more than was rounded"
                + narrowed(self.source, self.grown)
            )

    def _unlike(self) -> list[dict[str, Any]]:
        """The fields that may explain a failure: of a model that does not run any that no growth changes."""
        fields = self._likely.fields() if self._likely else self.fields
        if fields:
            return fields
        kind = str(self.source.config.get("model_type"))
        changed = self.replay.record.config_changes.keys() if self.replay else ()
        every = significant(config_differences(self.source.config, self.grown.config), kind, neutral=frozenset())
        return [field for field in every if field["field"] not in changed]

    def _not_finite(self, text: str) -> dict[str, Any]:
        """Where nothing else says which number differs: the first that is none or infinite, of a sound source."""
        bad = not_finite(self.grown)
        if bad is None or not_finite(self.source) is not None:
            return {}
        place = ", ".join(map(str, bad["index"]))
        return bad | {"text": f"{text.split(';')[0]}; {bad['tensor']}[{place}] is {bad['found']}"}

    def _recover(self) -> Check:
        from grow.verification.weights.recover import recover

        if not self.chain:
            return Check("recover", "skip", reason="no grow.json: nothing says where the source's numbers are")
        checks = [recover(link) for link in reversed(self.chain)]
        return next((check for check in checks if check.status == "fail"), checks[-1])

    def _identical(self) -> Check:
        """Without a plan: the stored numbers themselves, where the two have one shape."""
        if self.stored is None:
            return Check("certificate", "skip", reason="no grow.json: no plan to check against")
        limit = "every stored number and every field of config.json is the same"
        faults = [str(d) for d in self.stored] + [
            f"config.json: {f['field']}: found {f['grown']!r}, wanted {f['source']!r}" for f in self.fields
        ]
        measured = {"tensors": len(self.source.tensors), "faults": faults[:20], "faulty": len(faults)}
        if not faults:
            return Check("certificate", "pass", {**measured, "largest_residual": 0.0, "same_numbers": True}, limit)
        return Check("certificate", "skip", measured, limit, f"the outputs decide: {'; '.join(faults[:3])}")

    def _models(self, wanted: set[str]) -> None:
        """The checks that run models; torch is imported here and nowhere before."""
        from grow.verification.explain import causes
        from grow.verification.outputs import forward_passes
        from grow.verification.outputs.pair import NoRoom, Pair

        replay, chain = self.replay, self.chain
        readback = read_through([link.readback for link in chain])
        # a growth that is not the recorded one is judged by its outputs, as one of which nothing is recorded
        told = bool(chain) and not self._broken
        rounds = sum(bool(link.rounded) for link in chain) if told else 0
        needs_proof = rounds > 0 and self.narrow != "F64" and not self.lossy
        with Pair(self.source.path, self.grown.path, seed=self.seed) as pair:

            def storage_limit() -> float:
                self.progress("what storage explains")
                try:
                    return (
                        max(1, rounds)
                        * forward_passes.STORAGE_K
                        * forward_passes.storage_floor(pair, NAMES[self.narrow])
                    )
                except NoRoom:
                    return math.nan  # every check that needs it is skipped for the same reason

            if wanted & {"true_float64", *RUNGS["behaviour"]} and not pair.together:
                _ask_in_turn(pair, wanted, self.progress)
            limit = storage_limit() if needs_proof else EXACT
            if "true_float64" in wanted:
                self.progress("true_float64")
                found = forward_passes.true_float64(pair, limit=limit, readback=readback)
                if found.status == "skip" and found.measured and self._likely:
                    self.notes.append("outputs of hidden size are read as most stored tensors say that they grew")
                    readback = self._likely.readback
                    found = forward_passes.true_float64(pair, limit=limit, readback=readback)
                if found.status == "fail" and not told and found.measured:
                    # what was rounded may be stored wider since
                    self.narrow = min(self.narrow, narrowest(self.grown) or self.narrow, key=BITS.__getitem__)
                may_round = not told and not (self._likely and stores_all(self._likely))
                if found.status == "fail" and may_round and self.narrow != "F64" and found.measured:
                    limit = storage_limit()
                    found = forward_passes.true_float64(pair, limit=limit, readback=readback)
                    found = replace(found, measured={**found.measured, "within_storage": found.status == "pass"})
                self.done.append(found)
            if "proof" in wanted and needs_proof and replay is not None:
                self.progress("proof")
                pair.release()
                self.done.append(_proof(replay, pair))
            if "runtime_dtype" in wanted:
                self.progress("runtime_dtype")
                self.done.append(forward_passes.runtime_dtype(pair, readback=readback))
            self.done.extend(self._behaviour(pair, wanted, limit))
            if "trainability" in wanted:
                from grow.verification.checks.trainability import trainability

                self.progress("trainability")
                self.done.append(trainability(pair, replay.by_name() if replay else None))
            if "tasks" in wanted:
                from grow.verification.downstream.tasks import tasks

                pair.release()
                folders = pair.folders["source"], pair.folders["grown"]
                self.done += tasks(*folders, self.tasks, limit=self.samples, tolerance=limit, progress=self.progress)
            agree = {"certificate"} if self._passed("true_float64") else set()
            if set(self.failed) - OUTSIDE - agree and not self.lossy:
                self.progress("where")
                limit = 0.0 if math.isnan(limit) else limit
                self.first = causes.by_running(pair, replay, self.stored or [], self.fields, limit, self._likely)
                if self.first and not (self.first["tensor"] or self.first["field"]):
                    self.first |= self._not_finite(self.first["text"])
            elif not self.lossy and not self._certified and self._passed("true_float64"):
                self.progress("what no probe reached")
                self._reach(pair, limit, readback)
                for look in (causes.unequal_numbers, causes.unequal_fields) if not chain else ():
                    notes, missed = look(pair, self.stored)
                    self.notes += notes
                    self._unseen(missed)
                if chain:  # no output tells a field from what it should be: the probes may not reach it
                    fields = read_by_stock(chain[-1].family.model_type, [field["field"] for field in self.fields])
                    self._unseen([f"config.json: {name}" for name in fields])
            self.notes += [f"the probe {name} was left out: {why}" for name, why in pair.refused.items()]

    def _passed(self, name: str) -> bool:
        return any(check.name == name and check.status == "pass" for check in self.done)

    @property
    def _broken(self) -> bool:
        """Whether this is not the growth that grow.json records."""
        return any(check.name == "certificate" and check.status == "fail" for check in self.done)

    @property
    def _certified(self) -> bool:
        """Whether every stored number was looked at: then nothing depends on where the probes went."""
        return self._passed("certificate")

    def _reach(self, pair: Any, limit: float, readback: Any) -> None:
        """Equal outputs are not a proof of what no probe reached: `true_float64` fails where that differs."""
        from grow.verification.checks.unreached import reach

        found = reach(pair, limit=limit, dtype=NAMES[self.narrow], readback=readback)
        self.notes += found.notes
        self._unseen(found.unseen)
        for k, check in enumerate(self.done):
            if check.name == "true_float64":
                measured = {**check.measured, "reached": found.counts}
                self.done[k] = replace(check, measured=measured)
                if found.fault:
                    self.done[k] = replace(check, status="fail", measured=measured, reason=found.fault["text"])
                    self.first = found.fault

    def _behaviour(self, pair: Any, wanted: set[str], limit: float) -> Iterator[Check]:
        from grow.verification.checks import behaviour, generation, labels, sentence_embeddings
        from grow.verification.checks import hidden_states as layers

        replay, chain = self.replay, self.chain
        readback = read_through([link.readback for link in chain])
        if not sentence_embeddings.has_modules(self.source, self.grown):
            wanted = wanted - {sentence_embeddings.NAME}
        if labels.NAME in wanted and not labels.has_labels(pair):
            wanted = wanted - {labels.NAME}

        def hidden_states() -> Check:
            def stream(final: bool) -> Any:
                return read_through([link.stream(final=final) for link in chain])

            def place(k: int) -> int:
                for link in chain:
                    k = link.change.depth.hidden_index(k)
                return k

            stored = None if limit == EXACT else NAMES[self.narrow]
            known = bool(chain) and not self._broken
            return layers.hidden_states(pair, stream=stream, place=place, stored=stored, known=known)

        checks = {
            "tokenizer": lambda: tokenizers(pair.folders["source"], pair.folders["grown"]),
            "generation_config": lambda: generation.generation_config(pair),
            "labels": lambda: labels.labels(pair),
            "embeddings": lambda: sentence_embeddings.embeddings(pair, self.source, self.grown, replay, limit=limit),
            "hidden_states": hidden_states,
            "loss": lambda: behaviour.loss(pair, limit=limit),
            "cached_decoding": lambda: behaviour.cached_decoding(pair, limit=limit, readback=readback),
            "generation": lambda: generation.generation(pair, limit=limit),
            "sampling": lambda: generation.sampling(pair, limit=limit),
            "kernels": lambda: behaviour.kernels(pair),
            "save_reload": lambda: behaviour.save_reload(pair),
        }
        for name, check in checks.items():
            if name in wanted:
                self.progress(name)
                yield check()

    def _unseen(self, names: list[str]) -> None:
        """Equal outputs on the probes are then no proof."""
        for k, check in enumerate(self.done):
            if names and check.name == "true_float64":
                unseen = [*check.measured.get("unseen", []), *names]
                self.done[k] = replace(check, measured={**check.measured, "unseen": unseen})


def _ask_in_turn(pair: Any, wanted: set[str], progress: Callable[[str], None]) -> None:
    """Ask the source all that needs float64, then the grown model: two that do not fit side by side are loaded once.

    What goes wrong here goes wrong again in the check it belongs to, which says so.
    """
    from grow.verification.checks import behaviour, generation
    from grow.verification.outputs.pair import Differs, NoRoom

    probe = next((p for p in pair.probes if p.name == "random" and "input_ids" in p.inputs), None)
    writes = probe is not None and not pair.streaming and pair.can_generate("source")
    for side in ("source", "grown"):
        questions: dict[str, Callable[[], Any]] = {
            "true_float64": lambda side=side: pair.outputs(side, "float64"),  # type: ignore[misc]
            "loss": lambda side=side: behaviour.losses_of(pair, side) if behaviour.asks_loss(pair) else None,  # type: ignore[misc]
            "cached_decoding": lambda side=side: behaviour.steps_of(pair, side) if behaviour.decodes(pair) else None,  # type: ignore[misc]
            "generation": lambda side=side: generation.text_of(pair, side, probe, False) if writes else None,  # type: ignore[misc]
            "sampling": lambda side=side: generation.text_of(pair, side, probe, True) if writes else None,  # type: ignore[misc]
        }
        for name, question in questions.items():
            if name in wanted:
                progress(f"{name}: {side}")
                with contextlib.suppress(Differs, NoRoom, GrowError, *behaviour.RUN_ERRORS):
                    question()


def _proof(replay: Replay, pair: Any) -> Check:
    from grow.verification.outputs import forward_passes

    try:
        with replay.proof_copy() as folder, pair.against(folder) as proof:
            return replace(forward_passes.true_float64(proof, limit=EXACT, readback=replay.readback), name="proof")
    except NoSpace as error:
        return Check("proof", "skip", reason=str(error))


def checks_of(rungs: Sequence[str]) -> set[str]:
    """The checks on the rungs that somebody named; a check may be named itself."""
    found: set[str] = set()
    for name in rungs:
        if name in RUNGS:
            found.update(RUNGS[name])
        elif name in RUNG_OF:
            found.add(name)
        else:
            known = dict.fromkeys([*RUNGS, *RUNG_OF])
            single = ", ".join(check for check in RUNG_OF if check not in RUNGS)
            raise BadInput(
                option(rungs=[name]),
                what=no_such("rung", name, known),
                why=f"rungs: {', '.join(RUNGS)}; single checks: {single}",
                fix=option(rungs=["certificate"]),
            )
    if not found:
        rungs = option("rungs")
        raise Refused(rungs, what="nothing to verify", why="at least one rung", fix=f"leave {rungs} out")
    return found


def environment() -> dict[str, Any]:
    """What the numbers were measured with."""
    packages = {name: _installed(name) for name in ("torch", "transformers", "numpy", "safetensors")}
    return {"grow": __version__, "python": platform.python_version(), **packages, "machine": platform.machine()}


@cache
def _installed(package: str) -> str:
    return version(package)


def _check_order(source: Checkpoint, grown: Checkpoint) -> None:
    """BadInput when the source's grow.json tells of a growth from the other one's sizes."""
    record = read_record(source.path)
    if record is None or record.sizes == record.new_sizes or grown.config.get("model_type") != record.model_type:
        return
    if architecture_of(grown.config).sizes == record.sizes:
        raise BadInput(
            str(source.path),
            what="was grown from a checkpoint like the one given as its result",
            why="its grow.json says so, and the other has none",
            fix="grow verify SOURCE GROWN, in this order",
        )
