"""What a network sees in an epoch, and what the teacher says of exactly that.

A view is the whole training set augmented with one seed. Teacher and student see the same view,
so soft targets may be kept: they belong to (view, sample) and not to a place in a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from edgecompress.distilling.losses import UNLABELLED
from edgecompress.store import write_atomic
from edgecompress.tasks.task import Task
from edgecompress.teachers.adapters import CheckedTeacher

CHUNK = 500
Augment = Callable[[dict[str, Tensor], torch.Generator], dict[str, Tensor]]


def mixed_seed(*parts: int) -> int:
    """Return one seed out of several numbers, so that every draw has a seed of its own.

    >>> mixed_seed(0, 1) != mixed_seed(1, 0)
    True
    """
    text = ",".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")


def generator(*parts: int) -> torch.Generator:
    """Return a random generator seeded from several numbers."""
    return torch.Generator().manual_seed(mixed_seed(*parts))


@dataclass
class Views:
    """Hold training samples and hand out their views. The last view is kept in memory.

    `count` is how many views there are; 0 means that no two epochs share one. Without `augment`
    there is one view, the samples as they are.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    augment: Augment | None
    count: int
    seed: int
    _last: tuple[int, dict[str, Tensor]] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def index(self, epoch: int) -> int:
        """Return which view an epoch sees."""
        if self.augment is None:
            return 0
        return epoch % self.count if self.count else epoch

    def view(self, index: int) -> dict[str, Tensor]:
        """Return the inputs of one view, sample order unchanged."""
        if self.augment is None:
            return self.inputs
        if self._last is None or self._last[0] != index:
            self._last = (index, self._augmented(self.augment, index))
        return self._last[1]

    def _augmented(self, augment: Augment, index: int) -> dict[str, Tensor]:
        seen = {name: torch.empty_like(tensor) for name, tensor in self.inputs.items()}
        for start in range(0, len(self), CHUNK):
            rows = slice(start, start + CHUNK)
            batch = {name: tensor[rows].clone() for name, tensor in self.inputs.items()}
            for name, tensor in augment(batch, generator(self.seed, index, start)).items():
                seen[name][rows] = tensor
        return seen


def task_views(task: Task, count: int, seed: int, pool: bool) -> Views:
    """Return the task's training views; with `pool`, the unlabelled samples join at the end."""
    parts = [task.train] + ([task.unlabelled] if pool and task.unlabelled is not None else [])
    names = list(task.train.inputs)
    inputs = {
        name: torch.from_numpy(np.concatenate([np.asarray(p.inputs[name]) for p in parts]))
        for name in names
    }
    labels = torch.full((sum(map(len, parts)),), UNLABELLED, dtype=torch.int64)
    labels[: len(task.train)] = torch.from_numpy(np.asarray(task.train.labels, dtype=np.int64))
    return Views(inputs, labels, task.augment, count, seed)


@dataclass
class SoftTargets:
    """Hold the teacher's logits for each view: made once, kept in memory and in `folder`.

    The folder must belong to one teacher. A file's name holds the digest of the view that the
    teacher saw, and that of its content, which is checked when it is read.
    """

    teacher: CheckedTeacher
    views: Views
    folder: Path | None = None
    autocast: bool = False
    tick: Callable[[str, int, int], None] = lambda text, done, total: None
    _made: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def of(self, view: int) -> Tensor:
        """Return the logits (samples, classes), float32, of one view."""
        if view not in self._made:
            keeps = self.folder is not None and (self.views.augment is None or self.views.count > 0)
            seen = content_digest(self.views.view(view)) if keeps else ""
            logits = self._kept(seen)
            if logits is None:
                logits = self._ask(view)
                self._keep(seen, logits)
            if self.views.count == 0 and self.views.augment is not None:
                self._made.clear()  # a fresh view is never seen again
            self._made[view] = logits
        return self._made[view]

    def _ask(self, view: int) -> Tensor:
        inputs, total = self.views.view(view), len(self.views)
        parts = []
        for start in range(0, total, CHUNK):
            self.tick(f"soft targets, view {view}", start, total)
            batch = {name: tensor[start : start + CHUNK] for name, tensor in inputs.items()}
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
                parts.append(self.teacher.logits(batch, first_sample=start).cpu())
        return torch.cat(parts)

    def _kept(self, seen: str) -> Tensor | None:
        if self.folder is None or not seen:
            return None
        for path in self.folder.glob(f"{seen}-*.safetensors"):
            data = path.read_bytes()
            if path.stem.endswith(hashlib.sha256(data).hexdigest()[:16]):
                return load_tensors(data)["logits"]
        return None

    def _keep(self, seen: str, logits: Tensor) -> None:
        if self.folder is None or not seen:
            return
        data = tensors_to_bytes({"logits": logits.contiguous()})
        digest = hashlib.sha256(data).hexdigest()[:16]
        write_atomic(self.folder / f"{seen}-{digest}.safetensors", data)


def content_digest(inputs: Mapping[str, Tensor]) -> str:
    """Return 16 digits that tell named tensors from others with other content."""
    digest = hashlib.sha256()
    for name, tensor in inputs.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def tensors(inputs: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Return named arrays as tensors."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()}
