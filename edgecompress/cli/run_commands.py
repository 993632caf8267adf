"""The commands around a run: the whole chain, the chain up to a stage, and what came of it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecompress.cli import options
from edgecompress.cli.show import emit, emit_json, progress, say
from edgecompress.errors import EXIT_PASS, UsageError

if TYPE_CHECKING:
    from edgecompress.pipeline.run import RunOptions
    from edgecompress.pipeline.stages import StageName, Unfinished
    from edgecompress.recipe import Recipe
    from edgecompress.records import Report

RUN_FOLDER = Path("edgecompress-run")


def run(  # noqa: PLR0913 - each is an option of the command line
    profile: options.Profile,
    recipe: options.Recipe = None,
    out: options.Out = RUN_FOLDER,
    target: options.TargetName = "host",
    overrides: options.Overrides = None,
    max_time: options.MaxTime = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check recipe and profile, show the plan, do nothing.")
    ] = False,
    as_json: options.Json = False,
    require_measured: options.RequireMeasured = False,
    trust_code: options.TrustCode = False,
) -> int:
    """Run the whole chain and judge what comes out; run again to go on after a stop."""
    from edgecompress.measuring.targets.target import parse_target
    from edgecompress.profiles import load_profile

    where, device = parse_target(target), load_profile(profile)
    options.refuse_host_profiles(where, [device])
    asked = _load(recipe, overrides)
    if dry_run:
        from edgecompress.cli.plan import plan_document, plan_table

        emit_json(plan_document(asked, device, out)) if as_json else emit(plan_table(asked, device))
        return EXIT_PASS
    from edgecompress.distilling.loop import crew_of_launch
    from edgecompress.pipeline.compress import compress
    from edgecompress.report.write import write_report

    with _running(out, max_time, trust_code) as behaviour:
        behaviour = replace(behaviour, target=where, require_measured=require_measured)
        answer = compress(asked, device, out, behaviour)
    if not crew_of_launch().leads:  # of several processes, one speaks
        return options.EXIT_OF[answer.verdict.status]
    write_report(answer, answer.folder, anew=False)
    return _answer(answer, as_json)


def distill(  # noqa: PLR0913 - each is an option of the command line
    recipe: options.Recipe = None,
    profile: options.MaybeProfile = None,
    out: options.Out = RUN_FOLDER,
    overrides: options.Overrides = None,
    max_time: options.MaxTime = None,
    as_json: options.Json = False,
    trust_code: options.TrustCode = False,
) -> int:
    """Run the chain up to the distilled student and its control."""
    with _running(out, max_time, trust_code) as behaviour:
        made = _until("distill", _load(recipe, overrides), out, behaviour, profile)
    return _told(made, as_json)


def prune(  # noqa: PLR0913 - each is an option of the command line
    recipe: options.Recipe = None,
    profile: options.MaybeProfile = None,
    out: options.Out = RUN_FOLDER,
    overrides: options.Overrides = None,
    max_time: options.MaxTime = None,
    as_json: options.Json = False,
    trust_code: options.TrustCode = False,
) -> int:
    """Run the chain up to the pruned and re-distilled student."""
    with _running(out, max_time, trust_code) as behaviour:
        made = _until("prune", _load(recipe, overrides), out, behaviour, profile)
    return _told(made, as_json)


def export(  # noqa: PLR0913 - each is an option of the command line
    recipe: options.Recipe = None,
    profile: options.MaybeProfile = None,
    out: options.Out = RUN_FOLDER,
    overrides: options.Overrides = None,
    max_time: options.MaxTime = None,
    as_json: options.Json = False,
    trust_code: options.TrustCode = False,
) -> int:
    """Run the chain up to the float ONNX files, checked against torch."""
    with _running(out, max_time, trust_code) as behaviour:
        made = _until("export", _load(recipe, overrides), out, behaviour, profile)
    return _told(made, as_json)


def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    as_json: options.Json = False,
) -> int:
    """Show a finished run's report again, and write its files anew."""
    from edgecompress.report.record import RECORD_FILE, load_record
    from edgecompress.report.write import write_report

    found = load_record(folder.absolute() / RECORD_FILE)
    write_report(found, folder.absolute())
    return _answer(found, as_json)


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of finished runs.")],
    as_json: options.Json = False,
) -> int:
    """Set finished runs side by side, scores paired sample by sample with the first run's."""
    from edgecompress.cli.comparison import caveats, compare_runs, comparison_table

    if len(folders) < 2:
        raise UsageError(f"compare: given one run folder, {folders[0]}, expected two or more")
    rows = compare_runs(folders)
    if as_json:
        emit_json({"schema_version": 1, "runs": [row.document() for row in rows]})
    else:
        emit(comparison_table(rows))
    for caveat in caveats(rows):
        say(f"warning: {caveat}")
    return EXIT_PASS


def _load(recipe: Path | None, overrides: list[str] | None) -> Recipe:
    from edgecompress.recipe import load_recipe

    if recipe is None:
        say("no recipe given: running the built-in digits task")
    return load_recipe(recipe, overrides or ())


def _answer(answer: Report, as_json: bool) -> int:
    """Print a report and return the exit code that its verdict stands for."""
    from edgecompress.report.document import report_json
    from edgecompress.report.text import render_text

    emit_json(report_json(answer)) if as_json else emit(render_text(answer))
    return options.EXIT_OF[answer.verdict.status]


def _until(
    stage: StageName, recipe: Recipe, out: Path, behaviour: RunOptions, profile: str | None
) -> Unfinished:
    from edgecompress.pipeline.stages import run_until
    from edgecompress.profiles import load_profile

    device = None if profile is None else load_profile(profile)
    return run_until(stage, recipe, out, behaviour, device)


def _told(made: Unfinished, as_json: bool) -> int:
    """Print what a run that stopped early has made."""
    from edgecompress.cli.plan import unfinished_document, unfinished_table

    emit_json(unfinished_document(made)) if as_json else emit(unfinished_table(made))
    return EXIT_PASS


@contextmanager
def _running(out: Path, max_time: float | None, trust_code: bool) -> Iterator[RunOptions]:
    """Show progress while the block runs; say what is kept when it is interrupted."""
    from edgecompress.pipeline.run import RunOptions

    try:
        with progress() as shown:
            limit = None if max_time is None else 60 * max_time
            yield RunOptions(limit, trust_code, shown.say, shown.tick)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted: finished stages are kept in {shlex.quote(str(out))}; "
            "run the same command again to go on"
        ) from None
