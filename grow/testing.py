"""Losslessness as a test: a pytest plugin, and two assertions that work without it.

    from grow.testing import assert_lossless, assert_same_logits

    def test_the_release_is_the_old_model():
        assert_lossless("small", "releases/small-base")

    @pytest.mark.grow_pair(source="small", to="2x")
    def test_my_exporter(grow_pair, tmp_path):
        export(grow_pair.grown, tmp_path / "exported")
        assert_same_logits(grow_pair.source, tmp_path / "exported")

    def test_against_what_was_recorded(grow_golden):                 # tests/golden/small.safetensors
        grow_golden("releases/small-base", name="small", source="small")

pytest loads the plugin by itself where grow is installed, else with `-p grow.testing`. `pytest --grow-update` records
the golden files anew. torch and transformers are imported when the first assertion runs, not with the plugin.

PYTEST_DONT_REWRITE: no assert statement in here, and no warning where grow was imported first.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from grow.api import verify, widen
from grow.errors import GrowError, did_you_mean
from grow.files.header import show
from grow.files.locate import locate
from grow.growth.results import Growth
from grow.planning.plan import Plan
from grow.verification.rungs import EXACT, FUNCTION, checks_of
from grow.verification.verdict import Verification

MARK = "grow_pair(source, to, **options): grow `source` to `to` once per session, as grow.widen does; for the fixture"
EXAMPLE = '@pytest.mark.grow_pair(source="small", to="2x")'


@dataclass(frozen=True)
class GrownPair:
    """A source and what grew from it: two folders, the plan, and what `grow.widen` returned.

    Tests share the folders; copy one before changing it.
    """

    source: Path
    grown: Path
    plan: Plan
    growth: Growth


def assert_lossless(source: Any, grown: Any, *, rungs: Sequence[str] = FUNCTION, seed: int = 0) -> Verification:
    """`grow.verify` calls the pair lossless, or certified where `rungs` leave the outputs out; AssertionError with what
    it found otherwise.

    source, grown  folders, hub ids, bundled names, models in memory, or a `Growth`, whose plan then helps the proof
    rungs          as in `grow.verify`; ("certificate",) takes no torch for two folders

    >>> verification = assert_lossless("small", "small-base")           # doctest: +SKIP
    >>> verification.verdict                                            # doctest: +SKIP
    'lossless'
    """
    __tracebackhide__ = True
    with folder_of(source) as a, folder_of(grown) as b:
        verification = replace(verify(a, b, rungs=rungs, seed=seed), source=_name(source), grown=_name(grown))
    if verification.exit_code or (not verification.lossless and "true_float64" in checks_of(rungs)):
        raise AssertionError(report(verification))
    return verification


def assert_same_logits(a: Any, b: Any, inputs: Mapping[str, Any] | None = None, *, tolerance: float = EXACT) -> float:
    """Two models give the same outputs in true float64; returns max |Δ| in units of the std of the outputs of `a`.

    a, b       as in `assert_lossless`
    inputs     arguments of the forward pass, integers and masks as they are; None asks the probes of `grow.verify`
    tolerance  of that unit; weights that were rounded to float32 differ by 1e-7 or so

    Hidden outputs, whose width grows, are compared only where a class gives nothing else.

    >>> assert_same_logits(model, bigger, tokenizer("To be", return_tensors="pt"))         # doctest: +SKIP
    4.1e-15
    """
    __tracebackhide__ = True
    from grow.verification.outputs.compare import HIDDEN_OUTPUTS, difference

    with folder_of(a) as first, folder_of(b) as second:
        both = _answers(first, second, inputs)
    outside = {key for key in both[0] if key.rsplit("/", 1)[1] not in HIDDEN_OUTPUTS}
    old, new = ({key: v for key, v in side.items() if key in outside or not outside} for side in both)
    apart = difference(old, new)
    if apart.reason:
        raise AssertionError(f"the outputs cannot be the same: {apart.reason}")
    if not apart.relative <= tolerance:
        key, row, column = re.fullmatch(r"(.*)\[(\d+), (\d+)\]", apart.where).groups()  # type: ignore[union-attr]
        x, y = (float(side[key][int(row), int(column)]) for side in (old, new))
        size = f"max |Δ| {apart.max_abs:.3g}, std {apart.std:.3g}"
        raise AssertionError(
            f"{apart.where} is {y:.17g}, wanted {x:.17g}\n"
            f"  max |Δ| / std  {apart.relative:.3g} > {tolerance:.3g}  ({size})"
        )
    return apart.relative


def report(verification: Verification) -> str:
    """A verification as a person reads it below a failed test."""
    failed = [check for check in verification.checks if check.status == "fail"]
    lines = [f"{verification.verdict}: {verification.grown}, which should compute what {verification.source} computes"]
    if failed:
        lines.append(f"  first failure: {failed[0].name}: {failed[0].reason}")
    if verification.first:
        lines.append(f"  where: {verification.first.get('text')}")
    width = max(len(check.name) for check in verification.checks)
    for check in verification.checks:
        value = check.measured.get("relative")
        number = f"{value:.1e}" if isinstance(value, float) else ""
        why = check.limit if check.status == "pass" else check.reason
        lines.append(f"  {check.name:<{width}}  {check.status}  {number:<7}  {why}".rstrip())
    return "\n".join([*lines, *(f"  note: {note}" for note in verification.notes)])


@contextlib.contextmanager
def folder_of(thing: Any) -> Iterator[Path]:
    """The folder of a checkpoint, or a temporary one with a model in it."""
    plan = None
    if isinstance(thing, Growth):
        if thing.path is not None:
            yield thing.path
            return
        thing, plan = thing.model, thing.plan
    if not hasattr(thing, "save_pretrained"):
        yield locate(thing)
        return
    from grow.growth.saved_model import save, save_grown

    with tempfile.TemporaryDirectory(prefix="grow-testing-") as name:
        folder = Path(name) / type(thing).__name__
        if plan is None:
            save(thing, folder)
        else:
            save_grown(thing, plan, folder, source="in memory")
        yield folder


def _name(thing: Any) -> str:
    """What a report calls it."""
    if isinstance(thing, Growth):
        thing = thing.model if thing.path is None else thing.path
    return f"{type(thing).__name__} in memory" if hasattr(thing, "save_pretrained") else show(thing, 4096)


def _answers(a: Path, b: Path, inputs: Mapping[str, Any] | None) -> tuple[Any, Any]:
    """The outputs of both in true float64, "probe/output" -> (rows, width)."""
    from grow.verification.outputs.pair import Pair
    from grow.verification.outputs.two_folders import Differs

    if inputs is None:
        pair = Pair(a, b)
    else:
        import torch

        from grow.verification.golden.golden_probes import Given
        from grow.verification.probes import Probe, Probes

        given = {name: torch.as_tensor(value) for name, value in inputs.items()}
        counted = given.get("attention_mask")
        if counted is None or counted.ndim != 2:
            main = next(iter(given.values()))
            counted = torch.ones(main.shape[:2] if main.ndim == 2 else (len(main), 1))
        pair = Given(a, b, Probes(0, [Probe("inputs", given, counted.bool())]))
    with pair:
        try:
            return pair.outputs("source", "float64"), pair.outputs("grown", "float64")
        except Differs as error:
            raise AssertionError(str(error)) from None


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("grow", "lossless growth")
    group.addoption("--grow-update", action="store_true", help="Record the golden files of grow_golden anew.")
    parser.addini("grow_golden_dir", "Folder of the golden files, below the root.", default="tests/golden")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARK)


@pytest.fixture(scope="session")
def _grow_pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., GrownPair]:
    """Grows each set of arguments once."""
    made: dict[str, GrownPair] = {}

    def get(arguments: Mapping[str, Any]) -> GrownPair:
        key = repr(sorted(arguments.items()))
        if key not in made:
            source, to = arguments["source"], arguments["to"]
            options = {"verify": False} | {k: v for k, v in arguments.items() if k not in ("source", "to")}
            folder = tmp_path_factory.mktemp("grow_pair") / "grown"
            growth = widen(source, to, out=folder, **options)
            made[key] = GrownPair(locate(source, revision=options.get("revision")), folder, growth.plan, growth)
        return made[key]

    return get


@pytest.fixture
def grow_pair(request: pytest.FixtureRequest, _grow_pairs: Callable[..., GrownPair]) -> GrownPair:
    """A checkpoint and its growth, made once per session for each set of arguments; not verified.

    @pytest.mark.grow_pair(source="small", to="2x", seed=1)                    # or, for several:
    @pytest.mark.parametrize("grow_pair", [{"source": "small", "to": "2x"}, ...], indirect=True)
    """
    mark = request.node.get_closest_marker("grow_pair")
    arguments = getattr(request, "param", None) or (mark.kwargs if mark else {})
    if mark and mark.args:
        _usage(request, f"has arguments without a name: {mark.args!r}")
    for name in ("source", "to"):
        if name not in arguments:
            _usage(request, f"is asked for without {name}=" if arguments else "is asked for without a mark")
    options = set(inspect.signature(widen).parameters) - {"src", "out", "progress", "on_rung"}
    for name in set(arguments) - options - {"source"}:
        _usage(request, f"has no option {name!r}; {did_you_mean(name, options)}".rstrip("; "))
    try:
        return _grow_pairs(arguments)
    except GrowError as error:
        return pytest.fail(f"grow_pair: {error}", pytrace=False)


def _usage(request: pytest.FixtureRequest, what: str) -> None:
    pytest.fail(
        f"{request.node.nodeid}: grow_pair {what}\n  why        it grows what the mark says\n  fix        {EXAMPLE}",
        pytrace=False,
    )


@pytest.fixture(scope="session")
def _grow_recorded() -> set[Path]:
    """Golden files that this session has recorded."""
    return set()


@pytest.fixture
def grow_golden(
    request: pytest.FixtureRequest, pytestconfig: pytest.Config, _grow_recorded: set[Path]
) -> Callable[..., Verification]:
    """`grow_golden(grown, name="small", source="small")`: `grown` answers what tests/golden/small.safetensors says.

    grown   folder, hub id, bundled name, model or `Growth`
    source  whose answers --grow-update records; left out, those of `grown`, against which later ones are compared

    --grow-update records each file once per session, so a second test with its name is compared with the first. The
    folder is the ini option `grow_golden_dir`. Returns the `Verification`; AssertionError when it is not lossless.
    """
    folder = pytestconfig.rootpath / str(pytestconfig.getini("grow_golden_dir"))
    update = bool(pytestconfig.getoption("--grow-update"))

    def compare(grown: Any, name: str, *, source: Any = None, seed: int = 0) -> Verification:
        __tracebackhide__ = True
        if not re.fullmatch(r"\w[\w.-]*", name):
            pytest.fail(f'grow_golden: {name!r} is not a plain name\n  fix        name="small"', pytrace=False)
        path = folder / f"{name}.safetensors"
        if not path.is_file() and not update:
            pytest.fail(
                f"{path}: there is no such golden file\n"
                "  why        it holds the answers to compare with\n"
                f"  fix        pytest --grow-update {request.node.nodeid!r}, then commit the file",
                pytrace=False,
            )
        from grow.verification.golden import against, record

        try:
            if update and path not in _grow_recorded:
                folder.mkdir(parents=True, exist_ok=True)
                answering = grown if source is None else source
                with folder_of(answering) as recorded:
                    record(recorded, path, seed=seed, overwrite=True, name=_name(answering))
                _grow_recorded.add(path)
            with folder_of(grown) as checked:
                verification = against(path, checked, names=(str(path), _name(grown)))
        except GrowError as error:
            pytest.fail(f"grow_golden: {error}", pytrace=False)
        if verification.exit_code:
            raise AssertionError(report(verification))
        return verification

    return compare
