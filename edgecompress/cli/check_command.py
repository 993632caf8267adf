"""The check command: ONNX files from anywhere against device profiles. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecompress.cli import options
from edgecompress.cli.options import share
from edgecompress.cli.show import emit, emit_json, progress, say
from edgecompress.errors import (
    ChildFailedError,
    DataError,
    EdgecompressError,
    ModelError,
    UsageError,
    gravest,
)

if TYPE_CHECKING:
    from edgecompress.cli.baselines import Baseline
    from edgecompress.cli.checking import Terms
    from edgecompress.cli.data import Samples
    from edgecompress.cli.models import OpenModel
    from edgecompress.measuring.targets.target import Target
    from edgecompress.profiles import Profile
    from edgecompress.recipe import AcceptSettings, Recipe
    from edgecompress.records import Report
    from edgecompress.report.fleet import Fleet

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
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            metavar="BASELINE.onnx|REPORT.json",
            help="Fail what is worse than this model: slower (p50, measured again in turns with it "
            "in this run), larger, or less accurate on the same data. Of a report only size and "
            "accuracy are compared.",
        ),
    ] = None,
    max_regression: Annotated[
        float | None,
        typer.Option(
            "--max-regression",
            metavar="SHARE",
            parser=share,
            help="With --baseline: how much slower or larger still passes (default 5%). Of the "
            "score max_drop of the recipe may be lost, without one 0.01.",
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(
            "--junit",
            metavar="FILE",
            help="Also write JUnit XML: a budget exceeded is a failure, one not decided an error.",
        ),
    ] = None,
    shape: options.Shapes = None,
    inputs: options.Inputs = None,
    target: options.TargetName = "host",
    as_json: options.Json = False,
    require_measured: options.RequireMeasured = False,
    trust_code: options.TrustCode = False,
) -> int:
    """Judge ONNX files against device profiles: latency, memory, size, cold start, accuracy.

    In GitHub Actions it also annotates the run and adds to its summary.
    """
    from edgecompress.cli.annotations import tell_github
    from edgecompress.cli.checking import Terms
    from edgecompress.cli.models import open_models
    from edgecompress.recipe import MeasureSettings, load_recipe
    from edgecompress.report.fleet import Fleet, Refusal

    _refuse_contradictions(data, recipe, junit, baseline, max_regression)
    devices, where = _where(profile, target)
    asked = load_recipe(recipe) if recipe else None
    refusals: list[Refusal] = []

    def refuse(path: Path, error: EdgecompressError) -> None:
        say(f"error: {error}")  # the sound models are judged all the same
        refusals.append(Refusal(str(path), str(error), error.exit_code))

    if junit is not None:
        with suppress(OSError):  # where it cannot be written either, writing will say so
            junit.unlink()  # an earlier answer is none to this question
    settings = (asked.measure if asked else None) or MeasureSettings()
    batch = settings.batch if settings.batch > 1 else None
    opened = open_models(models, shape or (), inputs, batch, refuse, _names_beside(baseline))
    reports: list[Report] = []
    if opened:
        accept = asked.accept if asked else None
        terms = Terms(
            settings=settings,
            samples=_samples(data, asked, out, trust_code),
            accept=accept,
            baseline=_baseline(
                baseline, max_regression, accept, shape or (), inputs, None if refusals else opened
            ),
            target=where,
        )
        reports = _checked(opened, devices, terms, refuse, require_measured)
    fleet = Fleet(tuple(reports), tuple(refusals))
    _deliver(fleet, junit, as_json)
    tell_github(fleet)
    verdicts = [options.EXIT_OF[found.verdict.status] for found in reports]
    return gravest([*verdicts, *(refusal.exit_code for refusal in refusals)])


def _refuse_contradictions(
    data: Path | None,
    recipe: Path | None,
    junit: Path | None,
    baseline: Path | None,
    max_regression: float | None,
) -> None:
    """Refuse options that make no sense together, before anything is measured."""
    if data is not None and recipe is not None:
        raise UsageError("--data and --recipe: both given; each says what to score on, give one")
    if junit is not None and junit.is_dir():
        raise UsageError(f"--junit {junit}: is a folder, expected a file to write")
    if max_regression is not None and baseline is None:
        raise UsageError("--max-regression: given without --baseline, which says worse than what")


def _names_beside(baseline: Path | None) -> tuple[str, ...] | None:
    """Return which inputs the baseline takes: none, or None for any until its file is opened."""
    from edgecompress.cli.baselines import is_report

    return () if baseline is None or is_report(baseline) else None


def _baseline(
    path: Path | None,
    ratio: float | None,
    accept: AcceptSettings | None,
    shapes: Sequence[str],
    inputs: Path | None,
    opened: Sequence[OpenModel] | None,
) -> Baseline | None:
    """Open the baseline beside the models `opened`; None where some of them were refused."""
    from edgecompress.baseline import Tolerance
    from edgecompress.cli.baselines import open_baseline

    if path is None:
        return None
    usual = Tolerance()
    tolerance = Tolerance(
        usual.ratio if ratio is None else ratio, accept.max_drop if accept else usual.drop
    )
    names = None if opened is None else {tensor.name for m in opened for tensor in m.facts.inputs}
    return open_baseline(path, tolerance, shapes, inputs, names)


def _checked(
    opened: list[OpenModel],
    devices: list[Profile],
    terms: Terms,
    refuse: Callable[[Path, EdgecompressError], None],
    require_measured: bool,
) -> list[Report]:
    """Return the reports of all models that run; of several, one that fails stops no other."""
    from edgecompress.cli.checking import check_models, runnable
    from edgecompress.verdict import demand_measured

    with progress() as shown:
        try:
            reports = check_models(opened, devices, terms, shown.wait)
        except (ModelError, DataError, ChildFailedError) as error:
            if len(opened) == 1 and terms.baseline is None:
                refuse(opened[0].facts.model.path, error)
                return []
            sound = runnable(opened, terms, shown.wait, refuse)
            if len(sound) == len(opened):  # it was the baseline, or chance
                raise
            reports = check_models(sound, devices, terms, shown.wait) if sound else []
    if require_measured:
        reports = [replace(r, verdict=demand_measured(r.verdict)) for r in reports]
    return reports


def _deliver(fleet: Fleet, junit: Path | None, as_json: bool) -> None:
    """Write the file that was asked for, and print the answer, if there is one, and its notes."""
    from edgecompress.report.fleet import fleet_json, render_fleet
    from edgecompress.report.junit import junit_xml
    from edgecompress.store import write_atomic

    if junit is not None:
        write_atomic(junit, junit_xml(fleet))
    for note in dict.fromkeys(note for report in fleet.reports for note in report.notes):
        say(f"note: {note}")
    if not fleet.reports and len(fleet.refusals) == 1:
        return  # the one error said it all
    if as_json:
        emit_json(fleet_json(fleet))
    else:
        emit(render_fleet(fleet))


def _where(profiles: Sequence[str], target: str) -> tuple[list[Profile], Target]:
    """Return the profiles, each once, and the target that measures for them."""
    from edgecompress.measuring.targets.target import parse_target
    from edgecompress.profiles import load_profile

    where = parse_target(target)
    devices: dict[str, Profile] = {}
    for given in profiles:
        device = load_profile(given)
        if devices.setdefault(device.name, device) != device:
            raise UsageError(
                f"--profile {given}: is another profile of the name {device.name!r}; change its "
                "name, for answers are told apart by it"
            )
    options.refuse_host_profiles(where, list(devices.values()))
    return list(devices.values()), where


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
