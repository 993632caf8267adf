"""The students command: what fits a device, before anything is trained."""

from __future__ import annotations

from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecompress.cli import options
from edgecompress.cli.show import emit, emit_json, progress, say
from edgecompress.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS, UsageError

if TYPE_CHECKING:
    from edgecompress.records import StudentOffer
    from edgecompress.students.ladder import Modality, Problem

_AXES = {3: "image", 2: "signal", 1: "table"}
_MOST = 10**7  # values in a sample: more is a slip, or nothing for a small device


def students(  # noqa: PLR0913 - each is an option of the command line
    profile: options.Profile,
    shape: Annotated[
        str,
        typer.Option(
            "--input",
            metavar="1x28x28",
            help="One sample: an image (channels x height x width), a signal (channels x time), "
            "the number of columns of a table, or of tokens of a text.",
        ),
    ],
    classes: Annotated[
        int,
        typer.Option(
            "--classes", metavar="N", parser=options.count, help="Numbers that the network answers."
        ),
    ],
    modality: Annotated[
        str | None,
        typer.Option(
            "--modality",
            metavar="image|signal|table|text",
            help="What the input is, where its shape does not say so.",
        ),
    ] = None,
    vocabulary: Annotated[
        list[int] | None,
        typer.Option(
            "--vocabulary",
            metavar="N",
            parser=options.count,
            help="Token ids of a text; of a table, codes of one more column that holds such "
            "(repeatable).",
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option("--limit", metavar="N", parser=options.count, help="Students, at most."),
    ] = 50,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.svg", help="Also draw time against file size."),
    ] = None,
    as_json: options.Json = False,
) -> int:
    """List students that fit a device, before training: latency, memory, size, each judged."""
    from edgecompress.profiles import load_profile

    device = load_profile(profile)
    if plot is not None and (plot.suffix != ".svg" or not plot.parent.is_dir()):
        raise UsageError(f"--plot {plot}: expected a file FILE.svg in a folder that exists")
    sizes = _sizes(shape)
    kind = _modality(modality, sizes)
    if vocabulary and kind not in ("table", "text"):
        raise UsageError(
            f"--vocabulary: given for {kind} inputs, which hold no codes; leave it out"
        )

    from edgecompress.cli.offers import offers_json, offers_table
    from edgecompress.pipeline.offers import student_offers
    from edgecompress.recipe import QuantizeSettings, Recipe
    from edgecompress.students.ladder import build, ladder

    problem = _problem(kind, sizes, classes, tuple(vocabulary or ()))
    int8 = QuantizeSettings() if "int8" in device.runtime.fast_formats else None
    offered = {spec: partial(build, spec, problem) for spec in ladder(problem, most=limit)}
    with progress() as shown:
        offers = student_offers(offered, problem, device, Recipe(quantize=int8), shown.tick)
    if plot is not None:
        _draw(offers, plot)
    emit_json(offers_json(offers, problem, device)) if as_json else emit(offers_table(offers))
    return _exit_code(offers)


def _draw(offers: tuple[StudentOffer, ...], file: Path) -> None:
    from edgecompress.report.plots import draw_students
    from edgecompress.store import write_atomic

    drawn = draw_students(offers)
    if drawn is None:
        say(f"warning: {file}: not drawn, for no student's time is known")
    else:
        write_atomic(file, drawn.encode())


def _exit_code(offers: tuple[StudentOffer, ...]) -> int:
    """Return 0 when a student fits, 1 when all exceed a budget, 3 when it cannot be told."""
    found = {offer.verdict.status for offer in offers}
    if "pass" in found:
        return EXIT_PASS
    return EXIT_INCONCLUSIVE if "inconclusive" in found else EXIT_FAIL


def _sizes(text: str) -> tuple[int, ...]:
    sizes = text.lower().split("x")
    if not 1 <= len(sizes) <= 3 or not all(s.isdecimal() and 1 <= int(s) <= _MOST for s in sizes):
        raise UsageError(
            f"--input {text}: expected the sizes of one sample without the batch, such as 1x28x28"
        )
    found = tuple(map(int, sizes))
    if prod(found) > _MOST:
        raise UsageError(f"--input {text}: {prod(found):,} values, expected at most {_MOST:,}")
    return found


def _modality(given: str | None, sizes: tuple[int, ...]) -> Modality:
    """Return the modality that is given, or that the number of axes tells."""
    match given or _AXES[len(sizes)], len(sizes):
        case ("image", 3) | ("signal", 2) | ("table" | "text", 1):
            return given or _AXES[len(sizes)]  # type: ignore[return-value]
        case (("image" | "signal" | "table" | "text"), _):
            axes = {"image": "three", "signal": "two"}.get(given or "", "one")
            raise UsageError(
                f"--modality {given}: given --input {'x'.join(map(str, sizes))}, but such an input "
                f"has {axes} size{'s' if axes != 'one' else ''}"
            )
    raise UsageError(f"--modality {given}: expected image, signal, table or text")


def _problem(
    kind: Modality, sizes: tuple[int, ...], outputs: int, vocabularies: tuple[int, ...]
) -> Problem:
    from edgecompress.students.ladder import Problem

    shapes = {"tokens" if kind == "text" else "x": sizes}
    if kind == "table" and vocabularies:
        shapes["codes"] = (len(vocabularies),)
    if kind == "text" and len(vocabularies) > 1:
        raise UsageError("--vocabulary: given more than once; a text has one")
    return Problem(kind, shapes, outputs, vocabularies)
