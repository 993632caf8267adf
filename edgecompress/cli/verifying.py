"""Run ONNX files on this host and on imitated processors, and compare their answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecompress.cli.data import Samples, check_samples, inputs_for, read_samples
from edgecompress.cli.models import OpenModel, open_models
from edgecompress.errors import (
    EXIT_FAIL,
    EXIT_INCONCLUSIVE,
    EXIT_PASS,
    EXIT_RESOURCE,
    ChildFailedError,
    EdgecompressError,
    ModelError,
    UsageError,
)
from edgecompress.measuring.host import fleet_of
from edgecompress.profiles import load_profile
from edgecompress.records import Evaluation
from edgecompress.runtime import Arrays, parse_shape, read_npz
from edgecompress.statistics import paired_drop
from edgecompress.tasks.metrics import evaluate
from edgecompress.verifying import golden
from edgecompress.verifying.emulators import Kits, absence, host_isa, obstacle, set_up
from edgecompress.verifying.golden import Golden
from edgecompress.verifying.machines import RefusedError, emulated, native, outputs_on
from edgecompress.verifying.processors import Isa, Processor, choose, imitable
from edgecompress.verifying.spread import Spread, largest_spread
from edgecompress.verifying.steps import Quantization, read_quantization
from edgecompress.verifying.verify import Status, Verification, compare, judge

Say = Callable[[str], None]

HERE = "this host"
MADE_UP = 64
_EXIT = {
    "pass": EXIT_PASS,
    "reported": EXIT_PASS,
    "fail": EXIT_FAIL,
    "skipped": EXIT_INCONCLUSIVE,
    "error": EXIT_RESOURCE,
}


@dataclass(frozen=True)
class Request:
    """Hold what to verify on: files of samples, shapes, how many at most, seconds a run."""

    processors: tuple[Processor, ...]
    kits: Kits
    data: Path | None
    inputs: Path | None
    shapes: Sequence[str]
    samples: int | None
    seconds: float


@dataclass(frozen=True)
class Scores:
    """Hold the accuracy here and there; `drop` is paired, `low` and `high` one-sided 95 %."""

    here: Evaluation
    there: Evaluation
    drop: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """Hold a model's answer on one processor, and where its inputs came from."""

    model: OpenModel
    inputs: str
    verification: Verification
    scores: Scores | None

    @property
    def exit_code(self) -> int:
        """Return the exit code of this answer alone."""
        return _EXIT[self.verification.status]


@dataclass(frozen=True)
class _Subject:
    """Hold a model with what is the same on all processors: calls, reference, labels."""

    model: OpenModel
    golden: Golden
    reference: Arrays
    quantization: Quantization
    samples: Samples | None


def spread_of(rows: Sequence[Row]) -> Spread | None:
    """Return how far one model's scores lie apart on this host and all that was imitated."""
    scored = {row.verification.processor: row.scores for row in rows if row.scores}
    if not scored:
        return None
    here = next(iter(scored.values())).here.scores
    return largest_spread({HERE: here, **{name: s.there.scores for name, s in scored.items()}})


def asked_processors(
    isas: Sequence[str], profiles: Sequence[str], cpus: Sequence[str]
) -> tuple[Processor, ...]:
    """Return the processors that the options name, in their order, each once."""
    if not isas and not profiles:
        raise UsageError("--isa: not given; expected --isa arm64, --isa x86-avx2 or --profile NAME")
    found = list(choose(isas, cpus)) if isas or cpus else []
    for name in profiles:
        device = load_profile(name).device
        fleet = fleet_of(device)
        if not (processors := imitable(device, fleet)):
            raise UsageError(
                f"--profile {name}: nothing of its fleet can be imitated (given "
                f"{', '.join(fleet) or 'none'}); give --isa arm64 or --isa x86-avx2"
            )
        found.extend(processors)
    return tuple(dict.fromkeys(found))


def missing_emulators(
    processors: Sequence[Processor], kits: Kits, wanted: bool, say: Say
) -> dict[Isa, str]:
    """Return why an instruction set cannot be imitated; with `wanted`, set up what is not there."""
    missing: dict[Isa, str] = {}
    for isa in dict.fromkeys(p.isa for p in processors if p.isa != host_isa()):
        if wanted and not obstacle() and not kits.ready(isa):
            set_up(isa, kits.cache, say)
        if reason := absence(isa, kits):
            missing[isa] = reason
    return missing


def verify_models(
    paths: Sequence[Path],
    request: Request,
    missing: Mapping[Isa, str],
    refused: Callable[[EdgecompressError], None],
    say: Say,
) -> list[Row]:
    """Return a row for every model on every processor; a bad file is told to `refused`."""
    rows = []
    for model in open_models(paths, request.shapes, refused=lambda _, error: refused(error)):
        try:
            subject = _subject(model, request)
        except EdgecompressError as error:
            refused(error)
            continue
        for processor in request.processors:
            say(f"{model.label}: on {processor.name}")
            rows.append(_row(subject, processor, missing.get(processor.isa, ""), request))
    return rows


def _subject(model: OpenModel, request: Request) -> _Subject:
    """Cut the inputs into calls and run them on this host."""
    facts = model.facts
    samples = read_samples(request.data) if request.data else None
    if samples is not None:
        check_samples(facts, samples)
    calls = _golden(model, request, samples)
    try:
        outputs = outputs_on(native(), facts.model, calls.calls, request.seconds)
    except RefusedError as error:
        raise ModelError(f"{facts.model.path}: cannot run: {error}") from error
    reference = {name: calls.rows(output) for name, output in outputs.items()}
    return _Subject(model, calls, reference, read_quantization(facts.model.path), samples)


def _golden(model: OpenModel, request: Request, samples: Samples | None) -> Golden:
    facts = model.facts
    if not facts.inputs:
        raise ModelError(f"{facts.model.path}: takes no inputs, so every call answers the same")
    bundled = golden.bundled_inputs(facts.model.path)
    if samples is None and request.inputs:
        samples = Samples(f"--inputs {request.inputs}", read_npz(request.inputs, "--inputs"), None)
    elif samples is None and bundled and not request.shapes:
        samples = Samples(str(bundled), golden.read_bundled(bundled), None)
    if samples is None:
        shapes = dict(map(parse_shape, request.shapes))
        return golden.made_up(facts, shapes, request.samples or MADE_UP)
    return golden.from_arrays(facts, inputs_for(facts, samples), samples.where, request.samples)


def _row(subject: _Subject, processor: Processor, missing: str, request: Request) -> Row:
    """Run a model on one processor and compare; what goes wrong there becomes the answer."""
    model, source = subject.model, subject.golden.source

    def answer(status: Status, reason: str) -> Row:
        found = Verification(model.label, processor.isa, processor.name, status, reason)
        return Row(model, source, found, None)

    if missing:
        return answer("skipped", missing)
    try:
        outputs = _outputs(subject, processor, request)
    except RefusedError as error:
        return answer("fail", f"ONNX Runtime refuses it there: {error}")
    except ChildFailedError as error:
        return answer("error", str(error))
    differences = compare(subject.reference, outputs, subject.quantization)
    status, reason = judge(differences, bounded=processor.isa == "arm64")
    if processor.isa == host_isa():
        reason = f"these are this host's own kernels; {reason}"
    found = Verification(model.label, processor.isa, processor.name, status, reason, differences)
    scores = None if any(d.problem for d in differences) else _scores(subject, outputs)
    return Row(model, source, found, scores)


def _outputs(subject: _Subject, processor: Processor, request: Request) -> Arrays:
    if processor.isa == host_isa():
        return subject.reference
    machine = emulated(request.kits, processor)
    calls = subject.golden
    outputs = outputs_on(machine, subject.model.facts.model, calls.calls, request.seconds)
    return {name: calls.rows(output) for name, output in outputs.items()}


def _scores(subject: _Subject, outputs: Arrays) -> Scores | None:
    """Score both processors' main output on the labels, sample by sample."""
    samples = subject.samples
    if samples is None or samples.labels is None:
        return None
    labels = samples.labels[subject.golden.taken]
    facts = subject.model.facts
    name = next((o.name for o in facts.outputs if "float" in o.dtype), facts.outputs[0].name)
    here, there = (
        evaluate(samples.metric, found[name], labels, "test")
        for found in (subject.reference, outputs)
    )
    return Scores(here, there, *paired_drop(here.scores, there.scores))
