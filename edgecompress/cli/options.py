"""The options that several commands share, worded once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecompress.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS, UsageError

if TYPE_CHECKING:
    from edgecompress.measuring.targets.target import Target
    from edgecompress.profiles import Profile as DeviceProfile

EXIT_OF = {"pass": EXIT_PASS, "fail": EXIT_FAIL, "inconclusive": EXIT_INCONCLUSIVE}


def minutes(text: str) -> float:
    """Read a positive, finite number of minutes."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"given {text!r}, expected a number of minutes greater than 0")
    return value


def duration(text: str) -> float:
    """Read a duration such as `30s`, `5m` or `1h`, from a second to a day; return seconds."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    try:
        value = float(text[:-1]) * units[text[-1:]]
    except (ValueError, KeyError):
        value = math.nan
    if not 1 <= value <= 86_400:
        raise typer.BadParameter(f"given {text!r}, expected a duration from 1s to 24h, such as 5m")
    return value


def share(given: object) -> float:
    """Read a share such as `5%` or `0.05`; whoever writes `5` does not mean five times as much."""
    text = str(given).strip()
    most = 10 if text.endswith("%") else 1
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:
        raise typer.BadParameter(f"given {text!r}, expected a share such as 5% or 0.05")
    return value


def count(given: object) -> int:
    """Read a whole number from 1 to a million: text, or the default of the option."""
    text = str(given)
    if not (text.isdecimal() and 1 <= int(text) <= 1_000_000):
        raise typer.BadParameter(f"given {text!r}, expected a whole number from 1 to 1000000")
    return int(text)


def refuse_host_profiles(target: Target, profiles: Sequence[DeviceProfile]) -> None:
    """Refuse a device as target beside a profile of the machine that edgecompress runs on."""
    for profile in profiles if target.kind != "host" else ():
        if profile.device.host:
            raise UsageError(
                f"--target {target}: profile {profile.name} is of the machine that edgecompress "
                "runs on (device.host = true); give a profile of that device, or leave --target out"
            )


Recipe = Annotated[
    Path | None,
    typer.Argument(
        metavar="RECIPE", help="The recipe, a TOML file. Without one: the built-in digits task."
    ),
]
Models = Annotated[list[Path], typer.Argument(metavar="MODEL.onnx", help="ONNX files.")]
Profile = Annotated[
    str,
    typer.Option(
        "--profile",
        metavar="NAME_OR_PATH",
        help="A shipped device profile (see 'edgecompress profiles list') or a TOML file.",
    ),
]
MaybeProfile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME_OR_PATH",
        help="A device profile, where the recipe leaves a student or a target to its budget.",
    ),
]
Profiles = Annotated[
    list[str],
    typer.Option(
        "--profile", metavar="NAME_OR_PATH", help="A device profile; give several to check all."
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="The run folder.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="Change one key of the recipe; repeatable."
    ),
]
MaxTime = Annotated[
    float | None,
    typer.Option(
        "--max-time",
        metavar="MIN",
        parser=minutes,
        help="Stop after so many minutes; what is finished is kept.",
    ),
]
TrustCode = Annotated[
    bool,
    typer.Option("--trust-code", help="Let weights in pickle files run the code that they carry."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
TargetName = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="host|ssh:[USER@]HOST[:PORT]|adb[:SERIAL]",
        help="Where models are measured: here, or on a phone or board.",
    ),
]
RequireMeasured = Annotated[
    bool,
    typer.Option(
        "--require-measured", help="Let a budget that is met only by prediction not pass."
    ),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="NAME:1x3x224x224", help="The shape of an input; repeatable."),
]
Inputs = Annotated[
    Path | None,
    typer.Option("--inputs", metavar="FILE.npz", help="The inputs to measure with, by name."),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]
