"""How the ONNX file is written: the `[export]` section of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgecompress.errors import RecipeError
from edgecompress.settings import Positive, Settings

OPSET = 18  # the exporter's own; to others it converts
# The highest opset and file version (IR) that a release reads, as onnxruntime.ai publishes it
# (reference/compatibility). Later releases than the last read more.
_READS = {
    (0, 0): (10, 5), (1, 0): (11, 6), (1, 3): (12, 7), (1, 6): (13, 7), (1, 8): (14, 7),
    (1, 9): (15, 8), (1, 11): (16, 8), (1, 12): (17, 8), (1, 14): (18, 8), (1, 15): (19, 8),
    (1, 16): (19, 9), (1, 17): (20, 9), (1, 18): (21, 10),
}  # fmt: skip
_LAST = (1, 20)


class ExportSettings(Settings):
    """Say how the ONNX file is written, and what of an app's own work it does."""

    opset: Literal["auto"] | Annotated[int, Field(ge=18, le=23)] = Field(
        default="auto", description="ONNX opset; auto: 18, which the exporter writes best."
    )
    normalize: bool = Field(
        default=False, description="Take raw values; normalize them inside, as the task says."
    )
    scale: Positive = Field(default=1.0, description="Inside: (raw * scale - mean) / std.")
    mean: tuple[float, ...] = Field(default=(), description="One for all, or one a channel.")
    std: tuple[Positive, ...] = Field(default=(), description="One for all, or one a channel.")
    layout: Literal["nchw", "nhwc"] = Field(
        default="nchw", description="Order of the axes of images that the file takes."
    )
    input_type: Literal["float32", "uint8"] = Field(
        default="float32", description="Type of the raw values that the file takes."
    )
    softmax: bool = Field(default=False, description="Let the model return probabilities.")
    temperature: Positive = Field(default=1.0, description="Divide the logits by it at the end.")

    @property
    def changes_input(self) -> bool:
        """Return whether the file takes other inputs than the network."""
        return self.model_copy(update={"softmax": False, "temperature": 1.0, "opset": "auto"}) != (
            ExportSettings()
        )

    @property
    def plain(self) -> ExportSettings:
        """Return the settings without what is folded in."""
        return ExportSettings(opset=self.wanted_opset)

    @property
    def wanted_opset(self) -> int:
        """Return the opset, `auto` settled."""
        return OPSET if self.opset == "auto" else self.opset

    @model_validator(mode="after")
    def _normalizes_once(self) -> ExportSettings:
        own = {"scale", "mean", "std"} & self.model_fields_set
        if self.normalize and own:
            raise ValueError(
                f"normalize takes the task's own normalization, and {min(own)} is given too; "
                "remove one of them"
            )
        return self


def check_opset(settings: ExportSettings, runtime: str | None) -> None:
    """Raise RecipeError unless `runtime`, a release such as "1.17", reads the opset.

    None is a runtime of which nothing is known; it is taken to read all.
    """
    if runtime is None or is_read(runtime, settings.wanted_opset, 0):
        return
    highest = _reads(runtime)[0]
    remedy = (
        f"lower export.opset to {highest}"
        if highest >= OPSET
        else f"opset {OPSET} is the lowest that PyTorch writes, so ship the app with 1.14 or later"
    )
    raise RecipeError(
        f"recipe: export.opset: given {settings.wanted_opset}, but the profile's "
        f"runtime.onnxruntime {runtime} reads opsets up to {highest}; {remedy}"
    )


def is_read(runtime: str | None, opset: int, file_version: int) -> bool:
    """Return whether a release of ONNX Runtime reads files of this opset and file version.

    >>> is_read("1.17", 20, 9), is_read("1.17", 21, 10), is_read(None, 99, 99)
    (True, False, True)
    """
    if runtime is None or _release(runtime) > _LAST:
        return True
    most, version = _reads(runtime)
    return opset <= most and file_version <= version


def _release(runtime: str) -> tuple[int, int]:
    major, minor = runtime.split(".")
    return int(major), int(minor)


def _reads(runtime: str) -> tuple[int, int]:
    return _READS[max(release for release in _READS if release <= _release(runtime))]
