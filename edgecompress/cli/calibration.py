"""Read what calibration models took on a new device, and write its profile."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgecompress.cli.models import open_models
from edgecompress.errors import UsageError
from edgecompress.measuring.calibrating import KINDS, calibrated
from edgecompress.measuring.features import Features, read_features
from edgecompress.profiles import PredictionBasis, Profile

SHORTEST_MS, LONGEST_MS = 1e-6, 1e7  # of one call; what lies outside is no such time
_EXPECTED = "the JSON of 'edgecompress measure --json', or MODEL.onnx=MS"


def with_calibration(text: str, profile: Profile, given: Sequence[str]) -> str:
    """Return a profile's text with a `[prediction]` fitted to the models' times in `given`."""
    if profile.prediction is None:
        raise UsageError(
            f"--calibrate: {profile.name} predicts nothing; give --from a device that is not here"
        )
    threads = profile.prediction.threads
    times = dict(pair for one in given for pair in _times(one, threads))
    opened = open_models(list(times))
    work = read_features(
        {m.label: m.facts.model for m in opened}, {m.label: m.inputs for m in opened}
    )
    timings: list[tuple[Features, float]] = []
    for model, (path, time) in zip(opened, times.items(), strict=True):
        features = work[model.label]
        if not isinstance(features, Features):
            raise UsageError(f"--calibrate {path}: {features}; take another model")
        timings.append((features, time))
    what = ", ".join(f"{path.stem} {time:.4g} ms" for path, time in times.items())
    basis = calibrated(profile.prediction, timings, what)
    ours = r"(?ms)^(?:#[^\n]*\n)*\[prediction[].].*?(?=^(?:#[^\n]*\n)*\[(?!prediction[].])|\Z)"
    kept = re.sub(ours, "", text)
    return f"{kept.rstrip()}\n\n{prediction_toml(basis)}"


def prediction_toml(basis: PredictionBasis) -> str:
    """Return a `[prediction]` as TOML."""
    plain = basis.model_dump(exclude_none=True, exclude={"floats", "int8", "interval_factor"})
    lines = ["[prediction]", *(f"{key} = {_toml(value)}" for key, value in plain.items())]
    for title in ("floats", "int8"):
        lines += ["", f"[prediction.{title}]"]
        for kind in KINDS:
            cost = getattr(getattr(basis, title), kind)
            lines.append(f"{kind} = {{ value = {cost.value:g}, within = {cost.within:g} }}")
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value, ensure_ascii=False)


def _times(given: str, threads: int) -> Iterator[tuple[Path, float]]:
    """Yield the models and their times in ms that one `--calibrate` gives."""
    name, equals, number = given.rpartition("=")
    if not equals:
        yield from _measured(Path(given), threads)
        return
    try:
        time = float(number)
    except ValueError:
        time = math.nan
    if not SHORTEST_MS <= time <= LONGEST_MS:
        raise UsageError(
            f"--calibrate {given}: expected a time in ms after '=', from {SHORTEST_MS:g} to "
            f"{LONGEST_MS:g}"
        )
    yield Path(name), time


def _measured(file: Path, threads: int) -> Iterator[tuple[Path, float]]:
    """Yield the models and typical times in a document of `measure --json`, one sample a call."""
    try:
        document: Any = json.loads(file.read_text())
        for model in document["models"]:
            cost = model["device"] or model["host"]
            if (how := (cost["threads"], cost["batch"])) != (threads, 1):
                raise UsageError(
                    f"--calibrate {file}: measured with {how[0]} threads and batch {how[1]}, "
                    f"expected --threads {threads} and no --batch; measure again"
                )
            time = float(cost["latency_ms"]["p50"])
            if not SHORTEST_MS <= time <= LONGEST_MS:
                raise ValueError
            yield Path(model["path"]), time
    except OSError as error:
        raise UsageError(f"--calibrate {file}: {error.strerror}; expected {_EXPECTED}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"--calibrate {file}: not such a document; expected {_EXPECTED}") from None
