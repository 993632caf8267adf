"""The check command: ONNX files from anywhere against device profiles. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecompress.cli import options
from edgecompress.cli.show import emit, emit_json, progress, say
from edgecompress.errors import EdgecompressError, UsageError, gravest

if TYPE_CHECKING:
    from edgecompress.cli.data import Samples
    from edgecompress.measuring.targets.target import Target
    from edgecompress.profiles import Profile
    from edgecompress.recipe import Recipe

Data = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="FILE.npz", help="Inputs by name and their labels ('labels' or 'y')."
    ),
]


def check(  # noqa: PLR0913 - each is an option of the command line
    models: options.Models,
    profile: options.Profiles,
    data: Data = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe", metavar="RECIPE", help="Score on this recipe's test split, by its teacher."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="With --recipe: its run folder.")
    ] = Path("edgecompress-run"),
    shape: options.Shapes = None,
    inputs: options.Inputs = None,
    target: options.TargetName = "host",
    as_json: options.Json = False,
    require_measured: options.RequireMeasured = False,
    trust_code: options.TrustCode = False,
) -> int:
    """Judge ONNX files against device profiles: latency, memory, size, cold start, accuracy."""
    from edgecompress.cli.checking import check_models
    from edgecompress.cli.models import open_models
    from edgecompress.recipe import MeasureSettings, load_recipe
    from edgecompress.report.document import report_json, reports_json
    from edgecompress.report.text import render_text
    from edgecompress.verdict import demand_measured

    if data is not None and recipe is not None:
        raise UsageError("--data and --recipe: both given; each says what to score on, give one")
    devices, where = _where(profile, target)
    asked = load_recipe(recipe) if recipe else None
    refused: list[EdgecompressError] = []
    opened = open_models(models, shape or (), inputs, refused=refused.append)
    if not opened:
        raise refused[0]
    for error in refused:  # the sound models are judged all the same
        say(f"error: {error}")
    samples = _samples(data, asked, out, trust_code)
    settings = (asked.measure if asked else None) or MeasureSettings()
    with progress() as shown:
        reports = check_models(
            opened, devices, settings, samples, asked.accept if asked else None, shown.wait, where
        )
    if require_measured:
        reports = [replace(r, verdict=demand_measured(r.verdict)) for r in reports]
    if as_json:
        single = len(reports) == 1 and not refused
        emit_json(report_json(reports[0]) if single else reports_json(reports))
    else:
        emit("\n".join(render_text(found, files=False) for found in reports))
    verdicts = [options.EXIT_OF[found.verdict.status] for found in reports]
    return gravest([*verdicts, *(error.exit_code for error in refused)])


def _where(profiles: Sequence[str], target: str) -> tuple[list[Profile], Target]:
    """Return the profiles, each once, and the target that measures for them."""
    from edgecompress.measuring.targets.target import parse_target
    from edgecompress.profiles import load_profile

    where = parse_target(target)
    devices = [load_profile(name) for name in dict.fromkeys(profiles)]
    options.refuse_host_profiles(where, devices)
    return devices, where


def _samples(
    data: Path | None, recipe: Recipe | None, out: Path, trust_code: bool
) -> Samples | None:
    from edgecompress.cli.data import read_samples

    if data is not None:
        return read_samples(data)
    if recipe is None:
        return None
    from edgecompress.cli.teaching import task_samples

    return task_samples(recipe, out, trust_code)
