"""Say what ONNX files cost on this machine, and what int8 makes of one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from edgecompress.cli.controlling import controlled
from edgecompress.cli.data import Samples
from edgecompress.cli.models import OpenModel
from edgecompress.cli.show import table
from edgecompress.exporting.differing import first_value, located
from edgecompress.exporting.parity import INT8, check_parity
from edgecompress.graphs import kind_of
from edgecompress.measuring.host import describe_host, saturates_int8
from edgecompress.measuring.latency import measure
from edgecompress.measuring.readings import pace_in_words
from edgecompress.measuring.targets.machine import machine_of
from edgecompress.measuring.targets.target import HOST, Target
from edgecompress.quantizing.fitting import schemes_for
from edgecompress.quantizing.schemes import quantize
from edgecompress.recipe import MeasureSettings, QuantizeSettings
from edgecompress.records import Candidate, Measurement, OnnxModel, UsualPace
from edgecompress.report import words
from edgecompress.report.figures import load_memory_bytes, samples_per_s
from edgecompress.runtime import Arrays, run, takes_any_batch

Say = Callable[[str], None]

PARITY_SAMPLES = 2048
OFF_PACE = 0.02  # from the usual pace: then it is said
NOTABLE = 1.05  # times as long with the waiting: then both are shown


def measured(
    models: Sequence[OpenModel], how: tuple[int, int, int], say: Say, target: Target = HOST
) -> list[Candidate]:
    """Return each model with its measurement, on this host or on `target`, in the order given.

    `how`: threads, batch, processes.
    """
    candidates = [_given(model.label, model.facts.model) for model in models]
    inputs = {model.label: model.inputs for model in models}
    return _with_costs(candidates, inputs, how, say, target)


def quantized(
    source: OpenModel,
    samples: Arrays,
    out: Path,
    settings: QuantizeSettings,
    say: Say,
    held: Samples | None = None,
) -> tuple[list[Candidate], list[str]]:
    """Write smaller models of `source` into `out`; return all, measured, and why some are missing.

    `samples` serve twice: to calibrate, and to compare each int8 model with the float one. On
    `held`, which have labels, all are scored, and accuracy control acts.
    """
    settings = _settled(settings, source)
    made = quantize(source.facts.model, samples, out, settings)
    probe = {name: array[:PARITY_SAMPLES] for name, array in samples.items()}
    reference = run(source.facts.model, probe)
    tolerance = replace(INT8, any_batch=takes_any_batch(source.facts))
    kind = kind_of(source.facts.model.path)
    candidates = [_given(source.label, source.facts.model)]
    for int8 in made:
        if int8.model is not None:
            found = check_parity(reference, int8.model, probe, source.label, tolerance, kind)
            parity = located(found, partial(first_value, source.facts.model, int8.model, probe))
            dropped = None if parity.passed else parity.reason
            candidates.append(
                Candidate(int8.scheme, int8.model, int8.scheme, parity, (), None, None, dropped)
            )
    skipped = [f"{m.scheme}: not made: {m.reason}" for m in made if m.model is None]
    if held is not None:
        data = (samples, held)
        candidates, notes = controlled(source, candidates, data, out, settings, say)
        skipped += notes
    inputs = {candidate.label: source.inputs for candidate in candidates}
    return _with_costs(candidates, inputs, (1, 1, MeasureSettings().processes[0]), say), skipped


def _settled(settings: QuantizeSettings, source: OpenModel) -> QuantizeSettings:
    """Return the settings with "auto" settled: no profile tells more than what measures here."""
    isa = describe_host().isa
    seven, settled = saturates_int8(isa), dict[str, object]()
    if settings.reduce_range == "auto":
        settled["reduce_range"] = seven
    if settings.schemes == "auto":
        formats = ("int8", *({"fp16"} & set(isa)))
        settled["schemes"] = schemes_for(source.facts.model.path, formats, seven)
    return settings.model_copy(update=settled)


def cost_table(candidates: Sequence[Candidate]) -> str:
    """Return one row a model: latency, cold start, throughput, memory, size, parity.

    Wall times stand beside where waiting for a core was notable, and parity where one was checked.
    """
    waited = any(c.measurement and _waited(c.measurement) for c in candidates)
    compared = any(candidate.parity for candidate in candidates)
    scored = next((c.evaluations[0].metric for c in candidates if c.evaluations), None)
    head = (
        *("model", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "cold ms"),
        *(("wall p50", "wall p95") if waited else ()),
        *("samples/s", "memory", "at load", "size"),
        *(("same class",) if compared else ()),
        *((scored.name,) if scored else ()),
    )
    rows = [head, *(_cost_row(candidate, waited, compared) for candidate in candidates)]
    return table(rows, right=range(1, len(head)))


def _cost_row(candidate: Candidate, waited: bool, compared: bool) -> tuple[str, ...]:
    cost, parity = candidate.device or candidate.measurement, candidate.parity
    assert cost is not None
    wall = cost.wall_latency_ms
    latency = wall if candidate.device else cost.latency_ms  # its interruptions are its own
    figures = (latency.p50, latency.p90, latency.p95, latency.p99, cost.cold_start_ms)
    beside = (wall.p50, wall.p95) if waited else ()
    throughput = samples_per_s(latency.p50, cost.batch)
    sizes = (cost.peak_memory_bytes, load_memory_bytes(cost), candidate.model.size_bytes)
    agreement = f"{parity.agreement:.2%}" if parity else words.NOTHING
    return (
        candidate.label,
        *(words.number(value) for value in (*figures, *beside, throughput)),
        *(words.size(count) for count in sizes),
        *((agreement,) if compared else ()),
        *(words.score(evaluation.metric) for evaluation in candidate.evaluations),
    )


def _waited(cost: Measurement) -> bool:
    """Return whether waiting for a core made calls notably longer."""
    return cost.wall_latency_ms.p95 > NOTABLE * cost.latency_ms.p95


def conditions(candidates: Sequence[Candidate]) -> list[str]:
    """Return what the machine could not control, and what failed, each once."""
    costs = [cost for c in candidates for cost in (c.measurement, c.device) if cost]
    limits = [line for cost in costs for line in cost.uncontrolled]
    limits += _pace_lines(costs)
    dropped = (
        f"{c.label} differs from the float model: {c.dropped}" for c in candidates if c.dropped
    )
    return list(dict.fromkeys((*limits, *dropped)))


def _pace_lines(costs: Sequence[Measurement]) -> Iterator[str]:
    """Say that the machine was far from its usual pace, once for all that took turns."""
    together: dict[UsualPace, list[float]] = {}
    for cost in costs:
        if cost.usual is not None and cost.pace is not None:
            together.setdefault(cost.usual, []).extend(cost.pace)
    for usual, pace in together.items():
        if abs(median(pace) - 1) > OFF_PACE:
            known = f"as known from {usual.occasions} occasions"
            yield f"this machine ran {pace_in_words(pace)} than usual meanwhile, {known}"


def device_lines(candidates: Sequence[Candidate]) -> list[str]:
    """Return what the device is and how it was found and left, each once."""
    costs = (c.device for c in candidates if c.device)
    return list(dict.fromkeys(line for cost in costs for line in (cost.host, *cost.conditions)))


def _given(label: str, model: OnnxModel) -> Candidate:
    return Candidate(label, model, "given", None, (), None, None)


def _with_costs(
    candidates: Sequence[Candidate],
    inputs: Mapping[str, Arrays],
    conditions: tuple[int, int, int],
    say: Say,
    target: Target = HOST,
) -> list[Candidate]:
    """Measure with `conditions`: threads, batch, processes."""
    threads, batch, processes = conditions
    models = {candidate.label: candidate.model for candidate in candidates}
    settings = MeasureSettings(batch=batch)
    machine = machine_of(target)
    found = measure(models, inputs, settings, threads, processes, progress=say, machine=machine)
    if target == HOST:
        return [replace(c, measurement=found[c.label]) for c in candidates]
    return [replace(c, device=found[c.label]) for c in candidates]
