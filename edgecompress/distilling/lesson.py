"""What an arm learns from: samples, the teacher's word on them, and the loss between."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from edgecompress.distilling.hints import Answer, Hints
from edgecompress.distilling.kinds import Aim, hard_part, soft_part
from edgecompress.distilling.losses import Loss
from edgecompress.distilling.narrowing import widened
from edgecompress.distilling.soft_targets import SoftTargets
from edgecompress.distilling.views import Views
from edgecompress.errors import TrainingError
from edgecompress.lessons import Schedule
from edgecompress.recipe import DistillSettings
from edgecompress.records import Kind


@dataclass(frozen=True)
class Moment:
    """Say when a loss is asked for: the share of the training that is done, 0 to 1.

    `labelled` is the share of the whole batch that has labels, where only a part of it is shown.
    """

    done: float = 0.0
    labelled: float | None = None


@dataclass(frozen=True)
class Lesson:
    """Hold what an arm learns from. Without `settings` it learns from hard labels alone.

    `samples` is how many samples an epoch shows: arms that are compared show equally many. With
    `hints` the teacher is asked at every step, else its `soft` targets are read. `own` is a user's
    loss in the place of the recipe's. `aim` is what answers are held against, by the task's kind.
    """

    views: Views
    samples: int
    settings: DistillSettings | None = None
    soft: SoftTargets | None = None
    hints: Hints | None = None
    own: Loss | None = None
    aim: Aim = field(default_factory=Aim)

    @property
    def kind(self) -> Kind:
        """Return the kind of the task."""
        return self.aim.kind

    def pupil(self, student: nn.Module, inputs: Mapping[str, Tensor]) -> nn.Module:
        """Return the student with all that learns beside it and stays behind when it ships.

        `inputs` are a few samples that show the shapes.
        """
        pupil = self.hints.pupil(student, inputs) if self.hints is not None else student
        if self.kind != "embedding":
            return pupil
        return widened(pupil, self.views.labels.shape[1], inputs, self.views.seed)

    def word(self, view: int, rows: Tensor, inputs: Mapping[str, Tensor]) -> Answer | None:
        """Return what the teacher says of `rows` of a view, whose `inputs` are given."""
        if self.hints is not None:
            return self.hints.ask(inputs)
        return None if self.soft is None else Answer(self.soft.of(view, rows))

    def loss(
        self,
        answer: Answer,
        word: Answer | None,
        labels: Tensor,
        label_smoothing: float = 0.0,
        moment: Moment = Moment(),
    ) -> Tensor:
        """Return the arm's loss on one batch of the student's answers and the teacher's."""
        if word is None or self.settings is None:
            return self._hard(answer.logits, labels, label_smoothing, moment)
        taught = word.logits.to(labels.device)
        if self.own is not None:
            loss = _one_number(self.own(answer.logits, taught, labels))
        else:
            weight = value_at(self.settings.kd_weight, moment.done)
            temperature = value_at(self.settings.temperature, moment.done)
            soft = soft_part(self.aim, self.settings, answer.logits, taught, labels, temperature)
            hard = self._hard(answer.logits, labels, label_smoothing, moment)
            loss = weight * soft + (1.0 - weight) * hard
        if self.hints is not None:
            loss = loss + self.hints.loss(answer.features, word.features)
        return loss

    def _hard(
        self, logits: Tensor, labels: Tensor, label_smoothing: float, moment: Moment
    ) -> Tensor:
        count = None if moment.labelled is None else moment.labelled * len(labels)
        return hard_part(self.aim, logits, labels, label_smoothing, count)


def value_at(given: float | Schedule, done: float) -> float:
    """Return a number of the recipe when the share `done` of the training is done.

    >>> from edgecompress.lessons import TemperatureSchedule
    >>> decay = TemperatureSchedule(start=5.0, end=1.0, schedule="cosine")
    >>> [value_at(decay, done) for done in (0.0, 0.5, 1.0)], value_at(4.0, 0.5)
    ([5.0, 3.0, 1.0], 4.0)
    """
    if not isinstance(given, Schedule):
        return given
    start, end = given.start, given.end
    match given.schedule:
        case "linear":
            return start + (end - start) * done
        case "cosine":
            return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * done))
        case "exponential":
            return start * math.exp(done * math.log(end / start))


def _one_number(loss: object) -> Tensor:
    if isinstance(loss, Tensor) and loss.ndim == 0 and loss.requires_grad:
        return loss
    given = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
    raise TrainingError(
        f"loss: the function returned {given}; expected one number as a tensor, made from the "
        "student's logits, averaged over the samples"
    )
