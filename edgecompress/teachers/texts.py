"""Teach from texts a student that reads ids: teacher and student each have their own tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgecompress.errors import TeacherError
from edgecompress.store import row_digests
from edgecompress.teachers.protocol import named


@dataclass(frozen=True)
class TextTeacher:
    """Answer for the texts that a student's ids were made of.

    `answer` takes texts and returns logits (texts, classes); `texts` are found by the digest of
    the ids that the student reads, made by `encode` once: use `text_teacher`.
    """

    answer: Callable[[Sequence[str]], NDArray[Any]]
    texts: Mapping[bytes, str] = field(repr=False)

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the logits of the samples' texts; raise TeacherError for ids of no known text."""
        keys = list(row_digests({name: t.cpu().numpy() for name, t in inputs.items()}))
        unknown = [place for place, key in enumerate(keys) if key not in self.texts]
        if unknown:
            raise TeacherError(
                f"teacher: {len(unknown)} of {len(keys)} samples asked for are ids of no text that "
                "it was given; give text_teacher the texts of train, validation, test and pool, "
                "and augment texts before they are tokenized, not ids"
            )
        # The model has a precision of its own, whatever that of the student's training.
        with torch.no_grad(), torch.autocast("cpu", enabled=False), named(inputs):
            return torch.from_numpy(np.asarray(self.answer([self.texts[key] for key in keys])))


def text_teacher(
    answer: Callable[[Sequence[str]], NDArray[Any]],
    encode: Callable[[Sequence[str]], Mapping[str, NDArray[Any]]],
    *parts: Sequence[str],
) -> TextTeacher:
    """Return a teacher that answers for all texts of `parts`; `encode` is the student's tokenizer.

    Of texts with the same ids the first one counts: to the student they are one.
    """
    texts: dict[bytes, str] = {}
    for part in parts:
        for key, text in zip(row_digests(encode(part)), part, strict=True):
            texts.setdefault(key, text)
    return TextTeacher(answer, texts)
