"""How the ONNX file is written: the `[export]` section of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgecompress.settings import Positive, Settings


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
        return ExportSettings(opset=self.opset)

    @model_validator(mode="after")
    def _normalizes_once(self) -> ExportSettings:
        own = {"scale", "mean", "std"} & self.model_fields_set
        if self.normalize and own:
            raise ValueError(
                f"normalize takes the task's own normalization, and {min(own)} is given too; "
                "remove one of them"
            )
        return self
