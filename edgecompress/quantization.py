"""How a float model becomes smaller numbers: the `[quantize]` section of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgecompress.settings import Count, Positive, Settings


class AwareSettings(Settings):
    """Say how a student is trained on in 8 bits; all else is as in its distillation."""

    epochs: Count = Field(default=5, description="Passes over the training set.")
    learning_rate: Positive = Field(default=5e-4, description="Highest learning rate.")


class QuantizeSettings(Settings):
    """Say which int8 candidates stand beside the float model."""

    schemes: tuple[Literal["static", "dynamic"], ...] = Field(
        default=("static", "dynamic"), min_length=1, description="Kinds of int8 models to make."
    )
    per_channel: bool = Field(default=True, description="One scale for each output channel.")
    reduce_range: Literal["auto", True, False] = Field(
        default="auto",
        description="Use 7 bits for weights; auto: where 8 bits saturate (x86 without VNNI).",
    )
    calibration: Literal["minmax", "entropy", "percentile"] = Field(
        default="minmax", description="How the ranges of activations are found."
    )
    calibration_samples: Count = Field(
        default=512, description="Training samples that calibration sees."
    )
    aware: AwareSettings | None = Field(
        default=None,
        description="Distil the student on while it rounds as its int8 model will; left out, int8 "
        "is made after the training alone.",
    )
