"""How a float model becomes smaller numbers: the `[quantize]` section of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgecompress.settings import Count, Settings


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
