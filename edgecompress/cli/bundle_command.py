"""The command that bundles any ONNX file for an app: bundle. It needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecompress.cli import options
from edgecompress.cli.show import emit, emit_json, progress, say, table
from edgecompress.errors import EXIT_PASS, UsageError

if TYPE_CHECKING:
    from edgecompress.exporting.bundle import Bundle
    from edgecompress.records import Evaluation
    from edgecompress.runtime import Arrays, ModelFacts


def bundle(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An ONNX file.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The folder of the bundle.")
    ] = Path("edgecompress-bundle"),
    shape: options.Shapes = None,
    inputs: Annotated[
        Path | None,
        typer.Option("--inputs", metavar="FILE.npz", help="One call's inputs, by name."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="FILE.npz",
            help="Samples by input name: the first become golden calls; `labels` score the model.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> int:
    """Bundle an ONNX file for an app: .ort, golden calls, snippets, model card, digests."""
    import tempfile

    from edgecompress.cli.models import open_models
    from edgecompress.exporting.bundle import write_bundle
    from edgecompress.exporting.foreign import foreign_contents

    if data is not None and (inputs is not None or shape):
        other = "--inputs" if inputs is not None else "--shape"
        raise UsageError(f"--data and {other}: both say what the golden calls are; give one")
    _refuse_other_folders(out)
    opened = open_models([model], shape or (), inputs)[0]
    facts, made_up = opened.facts, data is None and inputs is None
    calls, scored = _calls(facts, opened.inputs, data)
    with progress() as shown, tempfile.TemporaryDirectory() as scratch:
        shown.wait(f"{opened.label}: bundling")
        contents = foreign_contents(facts, opened.label, calls, scored, made_up, Path(scratch))
        made = write_bundle(out, contents)
    _show(made, out, as_json)
    return EXIT_PASS


def _refuse_other_folders(out: Path) -> None:
    """Refuse to put a bundle in the place of what is none."""
    from edgecompress.exporting.bundle import holds_other_files

    if out.resolve() == Path.cwd():
        raise UsageError(f"--out {out}: is the folder that you are in; give a new folder")
    if out.is_symlink():
        raise UsageError(f"--out {out}: is a link; give the folder that it leads to")
    if out.is_dir() and holds_other_files(out):
        raise UsageError(
            f"--out {out}: holds other files, which a bundle would replace; give a new folder"
        )
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; give the name of a folder")


def _calls(
    facts: ModelFacts, made_up: Arrays, data: Path | None
) -> tuple[tuple[Arrays, ...], tuple[Evaluation, ...]]:
    """Return the golden calls, and how the model scores where the data have labels."""
    from edgecompress.cli.data import check_samples, inputs_for, read_samples, score
    from edgecompress.exporting.foreign import calls_of

    if data is None:
        return (made_up,), ()
    samples = read_samples(data, labelled=False)
    calls = calls_of(facts, inputs_for(facts, samples))
    if samples.labels is None:
        return calls, ()
    check_samples(facts, samples)
    return calls, (score(facts, samples),)


def _show(made: Bundle, out: Path, as_json: bool) -> None:
    manifest: Mapping[str, Any] = json.loads(made.manifest.path.read_bytes())
    if as_json:
        emit_json({"bundle": str(out), **manifest})
    else:
        rows = [("file", "bytes", "download", "what it is for")]
        for name, facts in manifest["files"].items():
            sizes = (f"{facts['size_bytes']:,}", f"{facts['download_bytes']:,}")
            rows.append((name, *sizes, facts["for"]))
        emit(f"Bundle  {out}\nPhones  {manifest['mobile']['verdict']}\n")
        emit(table(rows, right=(1, 2)))
    if made.ort_reason:
        say(f"warning: no model.ort: {made.ort_reason}")
