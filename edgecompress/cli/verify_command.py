"""The verify command: ONNX files on the kernels of other processors. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecompress.cli import options
from edgecompress.cli.show import emit, emit_json, progress, say
from edgecompress.errors import EXIT_INCONCLUSIVE, EXIT_PASS, EdgecompressError, UsageError, gravest


def verify(  # noqa: PLR0913 - each is an option of the command line
    models: Annotated[
        list[Path] | None, typer.Argument(metavar="MODEL.onnx", help="ONNX files.")
    ] = None,
    isa: Annotated[
        list[str] | None,
        typer.Option(
            "--isa", metavar="arm64|x86-avx2", help="Whose kernels to imitate; repeatable."
        ),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            "--profile", metavar="NAME_OR_PATH", help="Those of this device and its fleet."
        ),
    ] = None,
    cpu: Annotated[
        list[str] | None,
        typer.Option(
            "--cpu",
            metavar="cortex-a53|cortex-a76|...",
            help="The arm64 cores; by default one without and one with dot products.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="FILE.npz", help="Inputs and their labels: also scores accuracy."
        ),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option("--inputs", metavar="FILE.npz", help="The samples to run, by input name."),
    ] = None,
    shape: options.Shapes = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            metavar="N",
            parser=options.count,
            help="At most so many; by default all that are given, or 64 made up.",
        ),
    ] = None,
    set_up: Annotated[
        bool,
        typer.Option("--set-up", help="First download the emulators, where they are not there."),
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            metavar="DIR",
            help="Where the emulators lie; default edgecompress/emulation in the user's cache.",
        ),
    ] = None,
    max_time: Annotated[
        float,
        typer.Option(
            "--max-time",
            metavar="MIN",
            parser=options.minutes,
            help="Minutes for one model on one processor.",
        ),
    ] = 10.0,
    as_json: options.Json = False,
) -> int:
    """Check that ONNX files answer alike on Arm, and on x86 without VNNI, by emulation."""
    from edgecompress.cli.verified import verification_json, verification_table
    from edgecompress.cli.verifying import (
        Request,
        asked_processors,
        missing_emulators,
        verify_models,
    )
    from edgecompress.verifying.emulators import Kits, default_cache

    if not models and not set_up:
        raise UsageError("MODEL.onnx: not given; name the ONNX files to verify")
    if data is not None and inputs is not None:
        raise UsageError("--data and --inputs: both given; each says what to run, give one")
    processors = asked_processors(isa or (), profile or (), cpu or ())
    kits = Kits((cache or default_cache()).absolute())
    request = Request(processors, kits, data, inputs, shape or (), samples, max_time * 60)
    refused: list[EdgecompressError] = []
    with progress() as shown:
        missing = missing_emulators(processors, kits, set_up, shown.say)
        rows = verify_models(models or (), request, missing, refused.append, shown.wait)
    if not models:
        emit("\n".join(missing.values()) or f"set up in {kits.cache}")
        return EXIT_INCONCLUSIVE if missing else EXIT_PASS
    for error in refused:  # the sound models are verified all the same
        say(f"error: {error}")
    if as_json:
        emit_json(verification_json(rows))
    elif rows:
        emit(verification_table(rows))
    return gravest([*(row.exit_code for row in rows), *(error.exit_code for error in refused)])
