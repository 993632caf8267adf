"""Let the teacher label what has no labels, for tasks without any ground truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgecompress.distilling.kinds import answers_as_labels, form_of
from edgecompress.tasks.checks import unlabelled_splits
from edgecompress.tasks.task import Split, Task
from edgecompress.teachers.adapters import CheckedTeacher, as_teacher, predict_logits


def labelled_by(
    teacher: object, task: Task, trust_code: bool = False
) -> tuple[Task, tuple[str, ...]]:
    """Return the task with the teacher's hard answers in the place of missing labels, and a note.

    `teacher` is what `as_teacher` takes, and is not looked at where no label is missing.
    The pool stays without labels: it is shown as a pool. A split that was labelled so is told from
    others by its arrays, whatever files its samples came from.
    """
    missing = unlabelled_splits(task)
    if not missing:
        return task, ()
    asked = as_teacher(teacher, form_of(task), trust_code)
    labelled = {name: _answered(asked, task, split) for name, split in missing.items()}
    names = " and ".join(", ".join(missing).rsplit(", ", 1))
    note = (
        f"task {task.name!r}: {names} {'have' if len(missing) > 1 else 'has'} no labels, so the "
        f"teacher's answers stand in for them; {task.metric.name} there is agreement with the "
        "teacher, not with any truth"
    )
    task = replace(
        task,
        train=labelled.get("train", task.train),
        validation=labelled.get("validation", task.validation),
        test=labelled.get("test", task.test),
    )
    return task, (note,)


def _answered(teacher: CheckedTeacher, task: Task, split: Split) -> Split:
    said = answers_as_labels(task.kind, predict_logits(teacher, split.inputs)).numpy()
    numbers = task.kind in ("regression", "embedding")
    return Split(split.inputs, said if numbers else said.astype(np.int64))
