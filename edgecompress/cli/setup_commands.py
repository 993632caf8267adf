"""The commands around a run: device profiles, a first recipe, and what this machine can do."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from edgecompress.cli import options
from edgecompress.cli.show import emit, emit_json, table
from edgecompress.errors import EXIT_PASS, ProfileError, UsageError

profiles = typer.Typer(
    help="List, show and write device profiles.", rich_markup_mode=None, add_completion=False
)


@profiles.command("list")
def list_profiles(as_json: options.Json = False) -> int:
    """List the device profiles that ship with edgecompress, with their budgets."""
    from edgecompress.profiles import load_profile, shipped_profiles

    found = [load_profile(name) for name in shipped_profiles()]
    if as_json:
        emit_json({"schema_version": 1, "profiles": [_as_json(profile) for profile in found]})
        return EXIT_PASS
    head = ("profile", "p95 ms", "memory MB", "size MB", "cold ms", "latency is", "device")
    rows = [
        (
            profile.name,
            *(
                "-" if limit is None else f"{limit:g}"
                for limit in (
                    profile.budget.latency_ms.p95,
                    profile.budget.peak_memory_mb,
                    profile.budget.model_size_mb,
                    profile.budget.cold_start_ms,
                )
            ),
            _basis(profile.device.host, profile.prediction is not None),
            profile.device.description,
        )
        for profile in found
    ]
    emit(table([head, *rows], right=(1, 2, 3, 4)))
    return EXIT_PASS


@profiles.command("show")
def show_profile(
    name: Annotated[str, typer.Argument(metavar="NAME_OR_PATH", help="The profile.")],
    as_json: options.Json = False,
) -> int:
    """Show one device profile: its file, with the source of each figure."""
    from edgecompress.profiles import load_profile, profile_path

    profile = load_profile(name)
    if as_json:
        emit_json({"schema_version": 1, **_as_json(profile)})
    else:
        emit(profile_path(name).read_text("utf-8-sig"))
    return EXIT_PASS


@profiles.command("new")
def new_profile(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new profile's name.")],
    base: Annotated[
        str, typer.Option("--from", metavar="NAME_OR_PATH", help="The profile to start from.")
    ] = "android-cpu",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to; default NAME.toml.")
    ] = None,
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            "--calibrate",
            metavar="FILE_OR_MODEL=MS",
            help="What models took there: the JSON of 'measure --target', or MODEL.onnx=MS.",
        ),
    ] = None,
    force: options.Force = False,
) -> int:
    """Write a copy of a device profile to edit, or with --calibrate one fitted to a device."""
    from edgecompress.cli.calibration import with_calibration
    from edgecompress.profiles import load_profile, profile_path, shipped_profiles

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UsageError(f"profile name {name!r}: expected letters, digits, '-', '_' and '.'")
    if name in shipped_profiles():
        raise UsageError(f"profile name {name!r}: ships with edgecompress; take another name")
    origin = load_profile(base)
    text = profile_path(base).read_text("utf-8-sig")
    if calibrate:
        text = with_calibration(text, origin, calibrate)
    named = re.sub(r"(?m)^name\s*=.*$", f'name = "{name}"', text, count=1)
    file = out or Path(f"{name}.toml")
    _write({file: f"# A copy of {base}: edit it, then use --profile {file}\n{named}"}, force)
    if load_profile(str(file)).name != name:
        raise ProfileError(f'{file}: name: could not be set; write name = "{name}" at its top')
    emit(f"wrote {file}")
    return EXIT_PASS


@profiles.command("calibration-models")
def calibration_models(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the models go.")] = Path(
        "calibration"
    ),
    force: options.Force = False,
) -> int:
    """Write the three small models to run on a new device for 'profiles new --calibrate'.

    Two compute in floats, one in 8 bits.
    """
    from edgecompress.measuring.calibration_models import calibration_models as make

    files = {out / name: content for name, content in make().items()}
    _write(files, force)
    emit("\n".join(f"wrote {path}" for path in files))
    there = "--target ssh:USER@HOST --json > there.json"
    emit(f"run them there: edgecompress measure {out}/*.onnx {there}")
    emit("then: edgecompress profiles new NAME --from android-cpu --calibrate there.json")
    return EXIT_PASS


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write.")] = Path(),
    force: options.Force = False,
) -> int:
    """Write a commented recipe, a task that runs as it is, and schemas for the editor."""
    from edgecompress.profiles import profile_schema
    from edgecompress.recipe import recipe_schema

    templates = files("edgecompress.cli") / "templates"
    written = {
        folder / "recipe.toml": (templates / "recipe.toml").read_text("utf-8"),
        folder / "my_task.py": (templates / "my_task.py").read_text("utf-8"),
        folder / "recipe.schema.json": json.dumps(recipe_schema(), indent=2) + "\n",
        folder / "profile.schema.json": json.dumps(profile_schema(), indent=2) + "\n",
    }
    _write(written, force)
    emit("\n".join(f"wrote {path}" for path in written))
    emit(f"try: edgecompress run {folder / 'recipe.toml'} --profile android-cpu")
    return EXIT_PASS


def doctor(as_json: options.Json = False) -> int:
    """Say what this machine can measure, which instructions it has, and what is missing."""
    from edgecompress.cli.diagnosis import diagnose

    found = diagnose()
    if as_json:
        emit_json({"schema_version": 1, **found.document()})
        return EXIT_PASS
    emit(table(found.facts))
    emit("\n".join(f"- {words}" for words in found.missing) or "nothing is missing")
    return EXIT_PASS


def _basis(host: bool, predicted: bool) -> str:
    return "measured" if host else "predicted" if predicted else "unknown"


def _as_json(profile: object) -> dict[str, object]:
    from edgecompress.profiles import Profile

    assert isinstance(profile, Profile)
    document: dict[str, object] = profile.model_dump(mode="json")
    return document


def _write(contents: Mapping[Path, str | bytes], force: bool) -> None:
    """Write all files, or none when one of them is there already."""
    from edgecompress.store import write_atomic

    there = [str(path) for path in contents if path.exists() or path.is_symlink()]
    if there and not force:
        raise UsageError(f"{', '.join(there)}: there already; add --force to overwrite")
    for path, text in contents.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UsageError(f"{path.parent}: is a file, expected a folder") from None
        if path.is_dir():
            raise UsageError(f"{path}: is a folder, expected a file to write")
        write_atomic(path, text.encode() if isinstance(text, str) else text)
