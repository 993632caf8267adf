"""The commands that say what ONNX files cost: measure, quantize. Neither needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecompress.cli import options
from edgecompress.cli.show import emit, emit_json, progress, say
from edgecompress.errors import EXIT_PASS, UsageError

if TYPE_CHECKING:
    from edgecompress.cli.models import OpenModel
    from edgecompress.measuring.explained import Explanation
    from edgecompress.measuring.targets.target import Target
    from edgecompress.records import Candidate


def measure(  # noqa: PLR0913 - each is an option of the command line
    models: options.Models,
    threads: Annotated[
        int, typer.Option("--threads", metavar="N", parser=options.count, help="Threads.")
    ] = 1,
    batch: Annotated[
        int | None,
        typer.Option("--batch", metavar="N", parser=options.count, help="Samples in a call."),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            "--processes", metavar="N", parser=options.count, help="Fresh processes a model."
        ),
    ] = 5,
    shape: options.Shapes = None,
    inputs: options.Inputs = None,
    target: options.TargetName = "host",
    sustained: Annotated[
        float | None,
        typer.Option(
            "--sustained",
            metavar="30s|5m|1h",
            parser=options.duration,
            help="Run one model for so long without a pause; say whether it slows down, and why.",
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say where the time goes, and why a model is slow.")
    ] = False,
    raw: Annotated[
        Path | None,
        typer.Option(
            "--raw",
            metavar="FILE.npz",
            help="Also write every call of every process: its wall time, its waiting for a core.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> int:
    """Measure ONNX files, here or on a phone or board: latency, cold start, memory, size."""
    from edgecompress.cli.costs import measured
    from edgecompress.cli.explaining import explained
    from edgecompress.cli.models import open_models
    from edgecompress.cli.raw import calls_of, refuse_unwritable, write_raw
    from edgecompress.measuring.targets.target import parse_target

    refuse_unwritable(raw)
    where = parse_target(target)
    if explain and target != "host":
        raise UsageError(f"--explain looks into this machine's kernels, not into those of {target}")
    if explain and sustained is not None:
        raise UsageError("--explain and --sustained: both given, each a run of its own; give one")
    opened = open_models(models, shape or (), inputs, batch)
    if sustained is not None:
        return _run_on(opened, sustained, (threads, batch or 1), where, (as_json, raw))
    with progress() as shown:
        found = measured(opened, (threads, batch or 1, processes), shown.wait, where)
        reasons = explained(opened, threads, shown.wait) if explain else ()
    if raw is not None:
        write_raw(raw, calls_of(found))
    _show_costs(found, as_json, explanations=reasons)
    return EXIT_PASS


def _run_on(
    opened: list[OpenModel],
    seconds: float,
    how: tuple[int, int],
    where: Target,
    asked: tuple[bool, Path | None],
) -> int:
    """Run one model for so long, with `how` many threads and samples a call, and show it.

    `asked` is whether JSON, and where every sample is wanted.
    """
    from edgecompress.cli.lasting import render_run, run_json, run_on
    from edgecompress.cli.raw import calls_of_run, write_raw
    from edgecompress.measuring.sustained import not_read

    (threads, batch), (as_json, raw) = how, asked
    with progress() as shown:
        run = run_on(opened, seconds, threads, shown.wait, where)
    if raw is not None:
        write_raw(raw, calls_of_run(opened[0].label, run))
    if as_json:
        emit_json(run_json(opened[0], run, batch))
    else:
        emit(render_run(opened[0].label, run))
    for line in not_read(run):
        say(f"warning: {line}")
    return EXIT_PASS


def quantize(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A float ONNX file.")],
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="FILE.npz",
            help="Training inputs by name, to calibrate on; with labels, a fourth of them scores.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where the int8 files go.")
    ] = Path("edgecompress-int8"),
    overrides: options.Overrides = None,
    as_json: options.Json = False,
) -> int:
    """Write int8 models of a float ONNX file, and say what each gains and costs."""
    from edgecompress.cli.controlling import held_out
    from edgecompress.cli.costs import quantized
    from edgecompress.cli.data import inputs_for, read_samples
    from edgecompress.cli.models import open_models
    from edgecompress.recipe import quantize_settings

    settings = quantize_settings(overrides or ())
    opened = open_models([model])[0]
    fit, held, unscored = held_out(opened, read_samples(data, labelled=False))
    samples = inputs_for(opened.facts, fit)
    with progress() as shown:
        made, skipped = quantized(opened, samples, out, settings, shown.wait, held)
    _show_costs(made, as_json, (*skipped, *unscored))
    return EXIT_PASS


def _show_costs(
    candidates: list[Candidate],
    as_json: bool,
    skipped: Sequence[str] = (),
    explanations: Sequence[Explanation] = (),
) -> None:
    from edgecompress.cli.costs import conditions, cost_table, device_lines
    from edgecompress.cli.explaining import explanation_json, explanation_text
    from edgecompress.report.document import candidate_json

    if as_json:
        models = [candidate_json(candidate, Path.cwd()) for candidate in candidates]
        for model, explanation in zip(models, explanations, strict=False):
            model["explanation"] = explanation_json(explanation)
        emit_json({"schema_version": 1, "models": models, "skipped": list(skipped)})
    else:
        emit(cost_table(candidates))
        for candidate, explanation in zip(candidates, explanations, strict=False):
            emit("\n" + explanation_text(candidate.label, explanation))
    for label, control in ((c.label, c.control) for c in candidates):
        if control is not None:
            say(f"{label}: {control.told}")
    for line in device_lines(candidates):
        say(f"device: {line}")
    for line in (*skipped, *conditions(candidates)):
        say(f"warning: {line}")
