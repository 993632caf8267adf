"""How a float model becomes smaller numbers: the `[quantize]` section of a recipe."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, field_validator

from edgecompress.settings import Count, NotNegative, Positive, Settings

Calibration = Literal["minmax", "entropy", "percentile", "mse"]
Repair = Literal["equalization", "smoothing", "rounding", "bias"]
Scheme = Literal[
    "static",
    "static-float-ends",
    "static-u8u8",
    "static-s8s8",
    "static-per-tensor",
    "dynamic",
    "fp16",
    "int8-weights",
    "int4-weights",
]


class AwareSettings(Settings):
    """Say how a student is trained on in 8 bits; all else is as in its distillation."""

    epochs: Count = Field(default=5, description="Passes over the training set.")
    learning_rate: Positive = Field(default=5e-4, description="Highest learning rate.")


class QuantizeSettings(Settings):
    """Say which smaller candidates stand beside the float model."""

    schemes: Literal["auto"] | tuple[Scheme, ...] = Field(
        default="auto",
        description="Kinds of smaller models to make; auto: those that the device computes fast "
        "and the model can gain by.",
    )
    per_channel: bool = Field(default=True, description="One scale for each output channel.")
    reduce_range: Literal["auto", True, False] = Field(
        default="auto",
        description="Use 7 bits for weights; auto: where 8 bits saturate (x86 without VNNI).",
    )
    calibration: Calibration = Field(
        default="minmax", description="How the ranges of activations are found."
    )
    calibration_samples: Count = Field(
        default=512, description="Training samples that calibration sees."
    )
    max_drop: NotNegative = Field(
        default=0.005,
        description="Largest loss against the float model on validation, in the metric's own unit; "
        "where all plain int8 loses more, accuracy control makes one more candidate.",
    )
    repairs: tuple[Repair, ...] = Field(
        default=get_args(Repair),
        description="What accuracy control may do to an int8 model at no cost at run time.",
    )
    aware: AwareSettings | None = Field(
        default=None,
        description="Distil the student on while it rounds as its int8 model will; left out, int8 "
        "is made after the training alone.",
    )

    @field_validator("schemes", mode="before")
    @classmethod
    def _names_schemes(cls, schemes: object) -> object:
        """Return "auto" or a list of schemes; refuse all else in one line."""
        known = get_args(Scheme)
        if schemes == "auto":
            return schemes
        if isinstance(schemes, list | tuple) and schemes and set(schemes) <= set(known):
            return tuple(schemes)
        raise ValueError(f'given {schemes!r}, expected "auto" or a list of {", ".join(known)}')
