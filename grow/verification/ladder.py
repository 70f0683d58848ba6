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
from collections.abc import Callable, Sequence

from grow.architectures import architecture_of
from grow.checkpoint.reader import Checkpoint
from grow.errors import BadInput
from grow.planning.record import growth_document, read_record
from grow.verification.findings import OUTSIDE, Findings
from grow.verification.rungs import LADDER, checks_of
from grow.verification.verdict import Check, Verification, environment
from grow.verification.weights.chain import certificate_of_chain, growths_between
from grow.verification.weights.config_fields import config_differences
from grow.verification.weights.inferred_growth import misfit
from grow.verification.weights.recover import recover
from grow.verification.weights.stored_numbers import from_files, narrowed
from grow.verification.weights.two_checkpoints import TwoCheckpoints


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
    with growths_between(record, source, grown) if record else contextlib.nullcontext(()) as chain:
        two = TwoCheckpoints(source, grown, chain)
        findings = Findings(notes=_notes_on_record(two))
        if "tasks" in wanted:
            from grow.verification.downstream.tasks import prepare

            prepare(source.path, tuple(tasks or ()))
        _check_files(two, findings, wanted, progress)
        if wanted - {"certificate", "recover"}:
            # torch is imported here and nowhere before
            from grow.verification.model_rungs import ModelRungs
            from grow.verification.outputs.pair import Pair

            with Pair(source.path, grown.path, seed=seed) as pair:
                ModelRungs(two, findings, pair, wanted, progress, tasks=tuple(tasks or ()), samples=samples).climb()
        _conclude(two, findings)
    return Verification(
        *(names or (str(source.path), str(grown.path))),
        tuple(findings.checks),
        tuple(findings.notes),
        first=findings.first,
        growth=growth_document(record) if record else None,
        config=tuple(config_differences(source.config, grown.config)),
        environment=environment(),
    )


def _notes_on_record(two: TwoCheckpoints) -> list[str]:
    if len(two.chain) > 1:
        return [f"grow.json tells of {len(two.chain)} growths, which are held against the files one by one"]
    return [] if two.chain else ["no grow.json in the grown checkpoint: no certificate, the outputs decide"]


def _check_files(two: TwoCheckpoints, findings: Findings, wanted: set[str], progress: Callable[[str], None]) -> None:
    """The rungs that read the files alone."""
    if "certificate" in wanted:
        progress("certificate")
        findings.checks.append(certificate_of_chain(two.chain) if two.chain else two.identical())
    if "recover" in wanted:
        progress("recover")
        findings.checks.append(_recover(two))


def _recover(two: TwoCheckpoints) -> Check:
    if not two.chain:
        return Check("recover", "skip", reason="no grow.json: nothing says where the source's numbers are")
    checks = [recover(link) for link in reversed(two.chain)]
    return next((check for check in checks if check.status == "fail"), checks[-1])


def _conclude(two: TwoCheckpoints, findings: Findings) -> None:
    """The first difference as far as the files show it, where no module was named; and what the outputs leave open."""
    if two.lossy:  # which says all there is to say about where they differ
        findings.notes.append(f"grow.json says that this growth is not exact; {two.lossy}")
        return
    failed = findings.failed
    if failed and findings.first is None:
        fault = next((check.measured.get("first") for check in findings.checks if check.name == "certificate"), None)
        inside = [check for name, check in failed.items() if name not in OUTSIDE]
        if inside:
            fault = fault or (misfit(two.likely) if two.likely else None)
            findings.first = from_files(fault, two.stored or [], two.explaining_fields(), inside[0])
        else:
            findings.first = from_files(fault, [], [], next(iter(failed.values())))
    if any(check.measured.get("within_storage") for check in findings.checks):
        findings.notes.append(
            "the outputs agree as far as rounding the stored weights explains, which may be more than was rounded"
            + narrowed(two.source, two.grown)
        )


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
            fix="give the source first, then what grew from it",
        )
