"""Several teachers as one: an ensemble of equals, and teachers that know some of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from edgecompress.errors import TeacherError
from edgecompress.records import Kind
from edgecompress.teachers.protocol import SMALLEST_PROBABILITY, Teacher, listed

_ROUNDS, _CLOSE = 500, 1e-7


@dataclass(frozen=True)
class Ensemble:
    """Name teachers of the same classes that answer together, each with a weight (default: alike).

    `members` are whatever a single teacher may be. A task's teacher returns this.
    """

    members: Sequence[object]
    weights: Sequence[float] = ()


@dataclass(frozen=True)
class Expert:
    """Name a teacher and the classes that it answers for, in the order of its outputs."""

    source: object
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class ClassSubsets:
    """Name experts that together know all classes of the task, each with a weight."""

    experts: Sequence[Expert]
    weights: Sequence[float] = ()


@dataclass(frozen=True)
class EnsembleTeacher:
    """Teach with the weighted mean of several teachers: of probabilities, or of plain numbers.

    `logits(x) = log sum_m w_m softmax(logits_m(x))`, weights that sum to one: a mixture (linear
    opinion pool), so one certain member does not silence the others as a mean of logits would let
    it. Labels that stand side by side are each mixed so, yes against no.
    """

    members: tuple[Teacher, ...]
    weights: tuple[float, ...]
    kind: Kind = "classification"

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the logits of the mixture, or the mean of numbers and vectors."""
        said = torch.stack([m.logits(inputs).double() for m in self.members])
        weights = torch.tensor(self.weights, dtype=torch.float64, device=said.device)
        weights = weights.reshape(-1, *[1] * (said.ndim - 1))
        match self.kind:
            case "classification" | "tokens":
                return torch.logsumexp(torch.log_softmax(said, dim=2) + weights.log(), dim=0)
            case "binary" | "multilabel":
                yes, no = (F.logsigmoid(side) + weights.log() for side in (said, -said))
                return torch.logsumexp(yes, dim=0) - torch.logsumexp(no, dim=0)
            case "regression" | "embedding":
                return (weights * said).sum(dim=0)


@dataclass(frozen=True)
class SubsetTeacher:
    """Teach all classes with experts that know some, `classes` telling which (column numbers).

    The answer is the distribution q over all classes that minimises the sum over experts m of
    `w_m KL(p_m || q restricted to the classes of m)` (Vongkulbhisal, Vinayavekhin,
    Visentini-Scarzanella 2019, "Unifying Heterogeneous Classifiers with Distillation": the
    cross-entropy method). It is the maximum likelihood of a generalised Bradley-Terry model, found
    by the minorize-maximize step `q_c <- sum_m w_m p_m(c) / sum_{m knows c} w_m / q(classes of m)`
    (Hunter 2004). Experts that all know everything give the ensemble; experts that share no class
    each get the share of their classes, since nothing compares them.
    """

    members: tuple[Teacher, ...]
    classes: tuple[tuple[int, ...], ...]
    weights: tuple[float, ...]

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the logarithm of the unified probabilities, over all classes."""
        answers = [
            torch.softmax(m.logits(inputs).double(), dim=1).cpu().numpy() for m in self.members
        ]
        unified = unify(answers, self.classes, self.weights)
        return torch.from_numpy(np.log(np.maximum(unified, SMALLEST_PROBABILITY)))


def unify(
    answers: Sequence[NDArray[np.float64]],
    classes: Sequence[Sequence[int]],
    weights: Sequence[float],
) -> NDArray[np.float64]:
    """Return probabilities over all classes, (samples, classes), from experts' probabilities.

    `answers[m]` has shape (samples, len(classes[m])). See `SubsetTeacher` for the formula.

    >>> disjoint = unify([np.array([[0.9, 0.1]]), np.array([[0.5, 0.5]])], [(0, 1), (2, 3)], (1, 1))
    >>> disjoint.round(3).tolist()
    [[0.45, 0.05, 0.25, 0.25]]
    """
    width = 1 + max(max(known) for known in classes)
    votes = np.zeros((len(answers[0]), width))
    for answer, known, weight in zip(answers, classes, weights, strict=True):
        votes[:, list(known)] += weight * answer
    q = np.full_like(votes, 1 / width)
    for _ in range(_ROUNDS):
        before, asked = q, np.zeros_like(q)
        for known, weight in zip(classes, weights, strict=True):
            asked[:, list(known)] += weight / q[:, list(known)].sum(axis=1, keepdims=True)
        q = np.maximum(votes / asked, SMALLEST_PROBABILITY)
        q = q / q.sum(axis=1, keepdims=True)
        if np.abs(q - before).max() < _CLOSE:
            break
    return q


def shares(weights: Sequence[float], members: int) -> tuple[float, ...]:
    """Return weights that sum to one, equal ones where none are given; raise TeacherError.

    >>> shares((3, 1), 2), shares((), 2)
    ((0.75, 0.25), (0.5, 0.5))
    """
    if not members:
        raise TeacherError("teacher: has no members; expected at least one")
    given = tuple(float(w) for w in weights) or (1.0,) * members
    if len(given) != members:
        raise TeacherError(
            f"teacher: {len(given)} weights for {members} members; expected one for each"
        )
    if not all(np.isfinite(given)) or min(given) <= 0:
        raise TeacherError(
            f"teacher: its weights are {listed(given)}; expected positive numbers; leave a member "
            "of no weight out"
        )
    return tuple(w / sum(given) for w in given)


def places(experts: Sequence[Expert], class_names: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Return for each expert the numbers of its classes; raise TeacherError for a gap."""
    found = []
    for expert in experts:
        unknown = [name for name in expert.class_names if name not in class_names]
        if unknown or len(set(expert.class_names)) != len(expert.class_names):
            what = f"class {unknown[0]!r}" if unknown else "a class twice"
            raise TeacherError(
                f"teacher: an expert of ({listed(expert.class_names)}) names {what}; expected some "
                f"of the task's class names ({listed(class_names)}), each once"
            )
        if len(expert.class_names) < 2:
            raise TeacherError(
                f"teacher: an expert names {len(expert.class_names)} classes; expected at least "
                "two, for between fewer there is nothing to tell apart"
            )
        found.append(tuple(class_names.index(name) for name in expert.class_names))
    unseen = sorted(set(range(len(class_names))) - {place for known in found for place in known})
    if unseen:
        raise TeacherError(
            f"teacher: no expert knows {', '.join(class_names[place] for place in unseen[:4])}; "
            "expected experts that together know every class"
        )
    return tuple(found)
