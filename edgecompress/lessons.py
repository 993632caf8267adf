"""How a network is trained and what a student learns: [teacher], [distill] and [redistill].

A number that may change on the way is given plainly, or as `{ start = 5.0, end = 1.0 }`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from edgecompress.records import Family, StudentSpec
from edgecompress.settings import (
    TAG,
    Count,
    NotNegative,
    Positive,
    Ratio,
    Settings,
    did_you_mean,
)

ModulePath = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _papers_strength(data: Mapping[str, Any]) -> float:
    """Return the strength with which the paper of a mixing method reports its results."""
    return 1.0 if data.get("mixing") == "cutmix" else 0.2


class TrainSettings(Settings):
    """Say how a network is trained. Learning rate: linear warm-up, then cosine to zero."""

    epochs: Count = Field(default=20, description="Passes over the training set.")
    batch_size: Count = Field(default=128, description="Samples in one batch.")
    learning_rate: Positive = Field(default=2e-3, description="Highest learning rate.")
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="Optimizer.")
    weight_decay: NotNegative = Field(default=0.05, description="Decoupled weight decay.")
    warmup_ratio: Ratio = Field(default=0.05, description="Share of the steps that warm up.")
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.0, description="Share of each hard label spread over all classes."
    )
    clip_norm: Positive = Field(default=1.0, description="Largest norm of the gradient.")
    accumulate: Count = Field(
        default=1,
        description="Batches whose gradients make one step: the effective batch is "
        "batch_size x accumulate, in the memory of one batch.",
    )
    lr_scaling: Literal["none", "linear", "sqrt"] = Field(
        default="none",
        description="How the learning rate grows with `accumulate`: not at all, in proportion "
        "(for sgd) or with its square root (for adamw).",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="Arithmetic of training; auto takes bf16 where it is fast."
    )
    views: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=0,
        description="How many augmented views of the training set there are; 0 is a fresh one "
        "each epoch. With a few, the teacher labels each view once and its logits are reused.",
    )
    mixing: Literal["none", "mixup", "cutmix", "munge"] = Field(
        default="none",
        description="Mix each sample with another in every view: averages (mixup), a box of the "
        "other image (cutmix), or single values of the nearest neighbour (munge, for tables).",
    )
    mixing_strength: Annotated[float, Field(gt=0.0, le=100.0)] = Field(
        default_factory=_papers_strength,
        description="mixup, cutmix: alpha of the Beta(alpha, alpha) that the share is drawn from, "
        "left out 0.2 and 1; munge: probability that a value is taken, left out 0.2.",
    )
    munge_spread: Positive = Field(
        default=5.0,
        description="munge: a number is drawn around the neighbour's with a standard deviation "
        "of their distance divided by this.",
    )

    @model_validator(mode="after")
    def _mixes_what_is_given(self) -> Self:
        strength = _papers_strength({"mixing": self.mixing})
        if self.mixing == "none" and self.mixing_strength != strength:
            raise ValueError(
                "given mixing_strength without mixing, which reads it; remove it, or give "
                'mixing = "mixup"'
            )
        if self.mixing == "munge" and self.mixing_strength > 1:
            raise ValueError(
                f"given mixing_strength = {self.mixing_strength:g}, but munge takes a value with "
                "that probability; expected at most 1"
            )
        if self.mixing != "munge" and self.munge_spread != 5.0:
            raise ValueError(
                'given munge_spread, which only munge reads; remove it, or give mixing = "munge"'
            )
        return self


class Schedule(Settings):
    """Say how a number goes from the first step of a training to its last."""

    start: float = Field(description="Value at the first step.")
    end: float = Field(description="Value at the last step.")
    schedule: Literal["linear", "cosine", "exponential"] = Field(
        default="linear", description="Shape of the way from start to end."
    )

    @model_validator(mode="after")
    def _has_a_way(self) -> Self:
        if self.schedule == "exponential" and not self.start * self.end > 0:
            raise ValueError(
                f"given start = {self.start:g}, end = {self.end:g}, but no exponential reaches 0; "
                'take schedule = "cosine"'
            )
        return self


class TemperatureSchedule(Schedule):
    """Say how the temperature goes from the first step to the last."""

    start: Positive = Field(description="Temperature at the first step.")
    end: Positive = Field(description="Temperature at the last step.")


class WeightSchedule(Schedule):
    """Say how the share of the soft loss goes from the first step to the last."""

    start: Ratio = Field(description="Share at the first step.")
    end: Ratio = Field(description="Share at the last step.")


def _kind(value: object) -> str:
    """Return the tag of what was given where a number or a schedule may stand."""
    return f"{TAG}schedule" if isinstance(value, Mapping | Schedule) else f"{TAG}number"


Temperature = Annotated[
    Annotated[Positive, Tag(f"{TAG}number")]
    | Annotated[TemperatureSchedule, Tag(f"{TAG}schedule")],
    Discriminator(_kind),
]
Weight = Annotated[
    Annotated[Ratio, Tag(f"{TAG}number")] | Annotated[WeightSchedule, Tag(f"{TAG}schedule")],
    Discriminator(_kind),
]


class FeatureSettings(Settings):
    """Say which layers inside the student learn from which inside the teacher."""

    layers: tuple[tuple[ModulePath, ModulePath], ...] = Field(
        min_length=1, description="Pairs of module paths: [in the student, in the teacher]."
    )
    loss: Literal["hint", "attention", "relational"] = Field(
        default="hint", description="What is compared: features, attention maps, or distances."
    )
    weight: Positive | None = Field(
        default=None,
        description="Factor of the feature loss, added to the others; left out, the one of its "
        "paper: hint 1, attention 1000, relational 25.",
    )

    @property
    def factor(self) -> float:
        """Return the weight given, or that of the paper."""
        if self.weight is not None:
            return self.weight
        match self.loss:
            case "hint":
                return 1.0
            case "attention":
                return 1000.0
            case "relational":
                return 25.0


def _papers_temperature(data: Mapping[str, Any]) -> float:
    """Return the temperature with which the paper of a loss reports its results."""
    match data.get("loss"):
        case "standardized":
            return 2.0
        case "dist":
            return 1.0
        case _:
            return 4.0


class DistillSettings(TrainSettings):
    """Say how a student learns from its teacher (Hinton, Vinyals, Dean 2015)."""

    loss: Literal["auto", "kd", "dkd", "dist", "standardized", "mse", "multi", "cosine"] = Field(
        default="auto",
        description="Soft loss: Hinton's, decoupled, correlations (DIST), of standardized "
        "logits, squared error, Hinton's at several temperatures, or the angle between "
        "embeddings; auto: kd, for numbers mse, for embeddings cosine.",
    )
    temperature: Temperature = Field(
        default_factory=_papers_temperature,
        description="Divides the logits of teacher and student before the softmax. Left out, "
        "the one of the loss's paper: 4, standardized 2, dist 1.",
    )
    kd_weight: Weight = Field(
        default=0.9, description="Share of the soft loss; the hard loss has the rest."
    )
    dkd_alpha: NotNegative = Field(
        default=1.0, description="dkd: factor of the label's class against all others."
    )
    dkd_beta: NotNegative = Field(
        default=8.0, description="dkd: factor of the other classes among themselves."
    )
    dist_beta: NotNegative = Field(
        default=1.0, description="dist: factor of the correlation over the classes of a sample."
    )
    dist_gamma: NotNegative = Field(
        default=1.0, description="dist: factor of the correlation over the samples of a class."
    )
    temperatures: tuple[Positive, ...] = Field(
        default=(2.0, 3.0, 4.0, 5.0, 6.0),
        min_length=1,
        description="multi: the temperatures whose soft losses are averaged.",
    )
    calibrate_teacher: Literal["auto", True, False] = Field(
        default="auto",
        description="Divide the teacher's logits by the one temperature that makes its certainty "
        "honest on validation; auto: where held-out folds gain by it beyond noise.",
    )
    narrow_by: Literal["projection", "pca"] = Field(
        default="projection",
        description="For a student whose embeddings are narrower than those it learns from: it is "
        "taught in front of a projection that stays behind, or the embeddings are reduced by PCA.",
    )
    features: FeatureSettings | None = Field(
        default=None,
        description="Teach layers inside the student too; for torch teachers, which then run at "
        "every step.",
    )
    soft_targets: str = Field(
        default="fp32",
        description='How the teacher\'s logits are kept: "fp32" (exact), "fp16", or "top-K", e.g. '
        '"top-8": the K largest and the mass of the rest.',
    )
    tune: Annotated[int, Field(ge=0, le=13)] = Field(
        default=0,
        description="Short trainings, a fifth of the epochs each, that choose temperature and "
        "kd_weight on validation; 0 takes those given.",
    )

    student: str = Field(
        default="task",
        description='Who learns: "task", the task\'s own student; "teacher", a fresh one of the '
        'teacher\'s architecture (born-again networks); "auto", or a family such as "ds_cnn": the '
        "best of those that fit the profile's budgets; or a label that `edgecompress students` "
        'lists, such as "ds_cnn-w0.5-d1".',
    )
    peers: bool = Field(
        default=False,
        description="Train an arm `codistilled` too: two students with different first weights "
        "that teach each other, without the teacher.",
    )
    seeds: tuple[Seed, ...] = Field(
        default=(),
        description="Train all arms once with each of these seeds; left out, with the recipe's.",
    )

    @field_validator("student")
    @classmethod
    def _names_a_student(cls, student: str) -> str:
        known = ("task", "teacher", "auto", *get_args(Family))
        if student not in known and StudentSpec.named(student) is None:
            raise ValueError(
                f"given {student!r}, expected {', '.join(known)}, or a family with its "
                f'multipliers, e.g. "ds_cnn-w0.5-d1"{did_you_mean(student, known)}'
            )
        return student

    @model_validator(mode="after")
    def _repeats_no_seed(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(
                f"given seeds = {list(self.seeds)}, but one seed trains the same networks each "
                "time; expected different ones"
            )
        return self

    @model_validator(mode="after")
    def _has_something_to_tune(self) -> Self:
        if self.tune == 1:
            raise ValueError(
                "given tune = 1, but one trial chooses nothing; expected 0, or 2 to 13"
            )
        if self.tune and any(isinstance(v, Schedule) for v in (self.temperature, self.kd_weight)):
            raise ValueError(
                "given tune with a schedule, but trials choose between numbers; give temperature "
                "and kd_weight as numbers, or remove tune"
            )
        return self

    @model_validator(mode="after")
    def _has_one_label_where_it_needs_one(self) -> Self:
        if self.loss == "dkd" and self.mixing in ("mixup", "cutmix"):
            raise ValueError(
                f'given loss = "dkd" with mixing = "{self.mixing}", but dkd needs one label for '
                'each sample; take loss = "kd", or mixing = "munge"'
            )
        return self

    @model_validator(mode="after")
    def _keeps_soft_targets_in_a_known_way(self) -> Self:
        if not re.fullmatch(r"fp32|fp16|top-[1-9]\d{0,4}", self.soft_targets):
            raise ValueError(
                f'given soft_targets = "{self.soft_targets}", expected "fp32", "fp16" or "top-K" '
                'with a number, e.g. "top-8"'
            )
        if self.features is not None and self.soft_targets != "fp32":
            raise ValueError(
                f'given soft_targets = "{self.soft_targets}" with features, whose teacher is asked '
                "at every step, so that nothing is kept; remove it"
            )
        return self

    @model_validator(mode="after")
    def _reads_what_is_given(self) -> Self:
        for key, losses in _READ_BY.items():
            default = (
                type(self)
                .model_fields[key]
                .get_default(call_default_factory=True, validated_data={"loss": self.loss})
            )
            if self.loss not in losses and getattr(self, key) != default:
                raise ValueError(
                    f'given {key} with loss = "{self.loss}", which does not read it; remove it, '
                    f'or take loss = "{losses[0]}"'
                )
        return self


class RedistillSettings(DistillSettings):
    """Say how a pruned network learns again."""

    teachers: Literal["both", "teacher", "student"] = Field(
        default="teacher",
        description='Whom it learns from: "teacher", "student", which is the network as it was '
        'before pruning, or "both": the mean of their calibrated probabilities.',
    )

    @model_validator(mode="after")
    def _has_layers_to_learn_from(self) -> Self:
        if self.features is not None and self.teachers == "both":
            raise ValueError(
                'given features with teachers = "both", but layers are those of one network; take '
                '"teacher" or "student"'
            )
        return self


_READ_BY = {
    "temperature": ("kd", "dkd", "dist", "standardized", "auto"),
    "dkd_alpha": ("dkd",),
    "dkd_beta": ("dkd",),
    "dist_beta": ("dist",),
    "dist_gamma": ("dist",),
    "temperatures": ("multi",),
}
