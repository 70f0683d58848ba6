"""The rungs that run both models: outputs, proof, runtime dtype, behaviour, trainability, tasks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from grow.errors import GrowError
from grow.notation.dtypes import BITS, NAMES
from grow.verification.checks import cached_decoding, generation, labels, loss, sentence_embeddings
from grow.verification.checks.hidden_states import hidden_states
from grow.verification.checks.kernels import kernels
from grow.verification.checks.same_tokenizer import tokenizers
from grow.verification.checks.save_reload import save_reload
from grow.verification.checks.trainability import trainability
from grow.verification.checks.unreached import compare_unreached
from grow.verification.downstream.tasks import tasks
from grow.verification.explain import causes
from grow.verification.findings import OUTSIDE, Findings
from grow.verification.outputs.compare import RUN_ERRORS
from grow.verification.outputs.forward_passes import runtime_dtype, true_float64
from grow.verification.outputs.memory_needed import NoRoom
from grow.verification.outputs.noise_floors import STORAGE_K, storage_floor
from grow.verification.outputs.pair import Pair
from grow.verification.outputs.two_folders import SIDES, Differs, Side
from grow.verification.rungs import EXACT, RUNGS
from grow.verification.verdict import Check
from grow.verification.weights.chain import read_through
from grow.verification.weights.config_fields import read_by_stock
from grow.verification.weights.inferred_growth import stores_all
from grow.verification.weights.recorded_growth import NoSpace
from grow.verification.weights.stored_numbers import narrowest
from grow.verification.weights.two_checkpoints import TwoCheckpoints


class ModelRungs:
    """One pair on the rungs that run models; what they find goes to `findings`.

    recorded  whether this is the growth that grow.json records: another one is judged by its outputs, like one of
              which nothing is recorded
    limit     of outputs in true float64: `EXACT`, or what the rounding of stored weights explains
    readback  how an output of hidden size is read in the source's coordinates
    dtype     the coarsest dtype that weights were rounded to
    """

    def __init__(
        self,
        two: TwoCheckpoints,
        findings: Findings,
        pair: Pair,
        wanted: set[str],
        progress: Callable[[str], None],
        *,
        tasks: Sequence[str] = (),
        samples: int | None = None,
    ) -> None:
        self.two, self.findings, self.pair, self.wanted, self.progress = two, findings, pair, wanted, progress
        self.tasks, self.samples = tasks, samples
        self.recorded = bool(two.chain) and "certificate" not in findings.failed
        self.roundings = sum(bool(link.rounded) for link in two.chain) if self.recorded else 0
        self.limit = EXACT
        self.readback: Any = read_through([link.readback for link in two.chain])
        self.dtype = two.dtype

    def climb(self) -> None:
        """Every check that is wanted, in the order of the ladder; then where the models differ, or what no probe
        reached."""
        if self.wanted & {"true_float64", *RUNGS["behaviour"]} and not self.pair.together:
            self._ask_one_model_after_the_other()
        needs_proof = self.roundings > 0 and self.dtype != "F64" and not self.two.lossy
        if needs_proof:
            self.limit = self._storage_limit()
        if "true_float64" in self.wanted:
            self._run("true_float64", self._outputs)
        if "proof" in self.wanted and needs_proof and self.two.replay is not None:
            self._run("proof", self._proof)
        if "runtime_dtype" in self.wanted:
            self._run("runtime_dtype", lambda: runtime_dtype(self.pair, readback=self.readback))
        self._behaviour()
        if "trainability" in self.wanted:
            plans = self.two.replay.by_name() if self.two.replay else None
            self._run("trainability", lambda: trainability(self.pair, plans))
        if "tasks" in self.wanted:
            self._tasks()
        self._explain()
        self.findings.notes += [f"the probe {name} was left out: {why}" for name, why in self.pair.refused.items()]

    def _run(self, name: str, check: Callable[[], Check]) -> None:
        self.progress(name)
        self.findings.checks.append(check())

    def _ask_one_model_after_the_other(self) -> None:
        """Ask the source all that needs float64, then the grown model: two that do not fit side by side are loaded
        once.

        What goes wrong here goes wrong again in the check it belongs to, which says so.
        """
        for side in SIDES:
            for name, question in self._questions(side).items():
                if name in self.wanted:
                    self.progress(f"{name}: {side}")
                    with contextlib.suppress(Differs, NoRoom, GrowError, *RUN_ERRORS):
                        question()

    def _questions(self, side: Side) -> dict[str, Callable[[], Any]]:
        """Check -> what it asks of one model in float64, where this class can be asked it."""
        pair = self.pair
        probe = next((p for p in pair.probes if p.name == "random" and "input_ids" in p.inputs), None)
        writes = probe is not None and not pair.streaming and pair.can_generate("source")
        return {
            "true_float64": lambda: pair.outputs(side, "float64"),
            "loss": lambda: loss.asks_loss(pair) and loss.losses_of(pair, side),
            "cached_decoding": lambda: cached_decoding.decodes(pair) and cached_decoding.steps_of(pair, side),
            "generation": lambda: writes and generation.text_of(pair, side, probe, False),
            "sampling": lambda: writes and generation.text_of(pair, side, probe, True),
        }

    def _storage_limit(self) -> float:
        """How far outputs may be apart because weights were rounded to `dtype`; NaN where that cannot be measured."""
        self.progress("what storage explains")
        try:
            return max(1, self.roundings) * STORAGE_K * storage_floor(self.pair, NAMES[self.dtype])
        except NoRoom:
            return math.nan  # every check that needs it is skipped for the same reason

    def _compare_outputs(self) -> Check:
        return true_float64(self.pair, limit=self.limit, readback=self.readback)

    def _outputs(self) -> Check:
        """Outputs in true float64. Without a recorded growth, they may also be read as the likely one wrote them, or
        differ by what the rounding of stored weights explains."""
        check = self._compare_outputs()
        if check.status == "skip" and check.measured and self.two.likely:
            self.findings.notes.append("outputs of hidden size are read as most stored tensors say that they grew")
            self.readback = self.two.likely.readback
            check = self._compare_outputs()
        if check.status != "fail" or self.recorded or not check.measured:
            return check
        # what was rounded may be stored wider since
        self.dtype = min(self.dtype, narrowest(self.two.grown) or self.dtype, key=BITS.__getitem__)
        if self.dtype == "F64" or (self.two.likely and stores_all(self.two.likely)):
            return check
        self.limit = self._storage_limit()
        check = self._compare_outputs()
        return replace(check, measured={**check.measured, "within_storage": check.status == "pass"})

    def _proof(self) -> Check:
        """The same growth, repeated in float64, agrees to `EXACT`: what remains is the rounding of what is stored."""
        self.pair.release()
        replay = self.two.replay
        assert replay is not None
        try:
            with replay.proof_copy() as folder, self.pair.against(folder) as proof:
                return replace(true_float64(proof, limit=EXACT, readback=replay.readback), name="proof")
        except NoSpace as error:
            return Check("proof", "skip", reason=str(error))

    def _behaviour(self) -> None:
        two, pair, limit = self.two, self.pair, self.limit
        readback = read_through([link.readback for link in two.chain])
        checks = {
            "tokenizer": lambda: tokenizers(pair.folders["source"], pair.folders["grown"]),
            "generation_config": lambda: generation.generation_config(pair),
            "labels": lambda: labels.labels(pair),
            "embeddings": lambda: sentence_embeddings.embeddings(pair, two.source, two.grown, two.replay, limit=limit),
            "hidden_states": self._hidden_states,
            "loss": lambda: loss.loss(pair, limit=limit),
            "cached_decoding": lambda: cached_decoding.cached_decoding(pair, limit=limit, readback=readback),
            "generation": lambda: generation.generation(pair, limit=limit),
            "sampling": lambda: generation.sampling(pair, limit=limit),
            "kernels": lambda: kernels(pair, limit=limit, readback=readback),
            "save_reload": lambda: save_reload(pair),
        }
        without = set()
        if not sentence_embeddings.has_modules(two.source, two.grown):
            without.add(sentence_embeddings.NAME)
        if labels.NAME in self.wanted and not labels.has_labels(pair):
            without.add(labels.NAME)
        for name, check in checks.items():
            if name in self.wanted - without:
                self._run(name, check)

    def _hidden_states(self) -> Check:
        chain = self.two.chain

        def stream(states: str, final: bool) -> Any:
            return read_through([link.stream(final=final, states=states) for link in chain])

        def place(states: str, k: int) -> int:
            for link in chain:
                k = link.place(states, k)
            return k

        stored = None if self.limit == EXACT else NAMES[self.dtype]
        return hidden_states(self.pair, stream=stream, place=place, stored=stored, known=self.recorded)

    def _tasks(self) -> None:
        self.pair.release()
        folders = self.pair.folders["source"], self.pair.folders["grown"]
        self.findings.checks += tasks(
            *folders, self.tasks, limit=self.samples, tolerance=self.limit, progress=self.progress
        )

    def _explain(self) -> None:
        """Where the models differ; or, where outputs agree and nothing proves the weights, what no probe reached."""
        findings, two = self.findings, self.two
        if two.lossy:
            return
        agree = {"certificate"} if findings.passed("true_float64") else set()
        if set(findings.failed) - OUTSIDE - agree:
            self.progress("where")
            limit = 0.0 if math.isnan(self.limit) else self.limit
            findings.first = causes.by_running(self.pair, two.replay, two.stored or [], two.fields, limit, two.likely)
            if findings.first and not (findings.first["tensor"] or findings.first["field"]):
                findings.first |= two.first_not_finite(findings.first["text"])
        elif not findings.passed("certificate") and findings.passed("true_float64"):
            # without a certificate not every stored number was looked at: all depends on where the probes went
            self.progress("what no probe reached")
            self._compare_unreached()
            for look in (causes.unequal_numbers, causes.unequal_fields) if not two.chain else ():
                notes, missed = look(self.pair, two.stored)
                findings.notes += notes
                findings.unseen(missed)
            if two.chain:  # no output tells a field from what it should be: the probes may not reach it
                names = [field["field"] for field in two.fields]
                fields = read_by_stock(two.chain[-1].family.model_type, names)
                findings.unseen([f"config.json: {name}" for name in fields])

    def _compare_unreached(self) -> None:
        """Equal outputs are not a proof of what no probe reached: `true_float64` fails where that differs."""
        unreached = compare_unreached(self.pair, limit=self.limit, dtype=NAMES[self.dtype], readback=self.readback)
        self.findings.notes += unreached.notes
        self.findings.unseen(unreached.unseen)
        self.findings.change_outputs({"reached": unreached.counts})
        if unreached.fault:
            self.findings.change_outputs({}, status="fail", reason=unreached.fault["text"])
            self.findings.first = unreached.fault
