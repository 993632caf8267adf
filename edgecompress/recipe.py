"""The recipe: what the user asks for, read from TOML and checked once at the door.

Each section is the settings value of one stage. A section that is absent is a stage that does not
run; `[export]` always does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Be frozen, and refuse every key that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class TrainSettings(Settings):
    """Say how a network is trained. Learning rate: linear warm-up, then cosine to zero."""

    epochs: Count = 20
    batch_size: Count = 128
    learning_rate: Positive = 2e-3
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.05
    warmup_ratio: Ratio = 0.05
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    clip_norm: Positive = 1.0
    accumulation_steps: Count = 1
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    views: Annotated[int, Field(ge=0)] = 0
    """How many augmented views of the training set there are; 0 = a fresh one each epoch. With a
    few, the teacher labels each view once and its logits are reused."""


class DistillSettings(TrainSettings):
    """Say how a student learns from its teacher (Hinton, Vinyals, Dean 2015)."""

    temperature: Positive = 4.0
    kd_weight: Ratio = 0.9


class PruneSettings(Settings):
    """Say how many channels go and which. `pruning_ratio` is the share of channels removed."""

    pruning_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.3
    importance: Literal["l1", "l2", "bn_scale", "taylor", "random"] = "l2"
    scope: Literal["global", "local"] = "local"
    round_to: Count = 8
    steps: Count = 1
    ignore: tuple[str, ...] = ()


class ExportSettings(Settings):
    """Say how the ONNX file is written."""

    opset: Annotated[int, Field(ge=17, le=23)] = 18
    softmax: bool = False


class QuantizeSettings(Settings):
    """Say which int8 candidates stand beside the float model."""

    schemes: tuple[Literal["static", "dynamic"], ...] = ("static", "dynamic")
    per_channel: bool = True
    reduce_range: bool = False
    calibration: Literal["minmax", "entropy", "percentile"] = "minmax"
    calibration_samples: Count = 512


class MeasureSettings(Settings):
    """Say how carefully the host is measured."""

    processes: tuple[Count, ...] = (5, 10, 20)
    seconds_per_process: Positive = 0.5
    screening_processes: Count = 3
    batch: Count = 1


class AcceptSettings(Settings):
    """Say how much of the teacher's score may be lost, absolute, in the metric's own unit."""

    max_drop: Annotated[float, Field(ge=0.0)]


class Recipe(Settings):
    """Hold a whole recipe. `task` is `file.py:function`, relative to the recipe; or `builtin`."""

    task: str = "digits"
    data: Path | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    teacher: TrainSettings | None = None
    distill: DistillSettings | None = None
    prune: PruneSettings | None = None
    redistill: DistillSettings | None = None
    export: ExportSettings = ExportSettings()
    quantize: QuantizeSettings | None = None
    measure: MeasureSettings | None = MeasureSettings()
    accept: AcceptSettings | None = None
