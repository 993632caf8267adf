"""The teacher's word on every sample of a view: asked once, kept in a file mapped into memory.

A file is named after all that its rows depend on: the teacher, the view it saw, and the form in
which they are kept. Beside it stands a journal of the chunks that are filled, with their digests,
so a killed filling goes on where it stood and a torn or damaged chunk is asked for again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgecompress.distilling.checkpoint import weights_digest
from edgecompress.distilling.views import View, Views, content_digest
from edgecompress.errors import RecipeError
from edgecompress.records import Kind
from edgecompress.store import Crew, digest_of
from edgecompress.teachers.adapters import CheckedTeacher, ModuleTeacher, fingerprint

PROBE_SAMPLES = 64
ONCE = "once-"  # begins the names of files whose view is seen in one epoch only
LARGEST_HALF = float(np.finfo(np.float16).max)
SMALLEST = 1e-30


def packed(form: str, logits: NDArray[np.float32]) -> NDArray[Any]:
    """Return logits (batch, classes, ...) as they are kept: "fp32", "fp16" or "top-K".

    Of top-K the K largest logits are kept, and as `rest` the one number which, in the place of
    each other logit, leaves all of their mass: logsumexp(others) - log(classes - K). So the
    softmax of the kept classes is what it was, and the rest share theirs evenly.
    """
    if form == "fp32":
        return logits
    if form == "fp16":
        return np.clip(logits, -LARGEST_HALF, LARGEST_HALF).astype(np.float16)
    count, classes = int(form.removeprefix("top-")), logits.shape[1]
    if logits.ndim != 2 or count > classes - 2:
        raise RecipeError(
            f'recipe: distill.soft_targets: given "{form}", but the teacher answers with shape '
            f"{logits.shape[1:]} a sample; expected classes, at least {count + 2}; take "
            '"fp32" or "fp16"'
        )
    first = np.argsort(-logits, axis=1, kind="stable")[:, :count]
    others = logits.astype(np.float64)
    np.put_along_axis(others, first, -np.inf, axis=1)
    highest = others.max(axis=1)
    mass = np.exp(others - highest[:, None]).sum(axis=1)
    index = np.min_scalar_type(classes - 1)
    rows = np.empty(
        len(logits), [("logits", "<f4", (count,)), ("classes", index, (count,)), ("rest", "<f4")]
    )
    rows["logits"], rows["classes"] = np.take_along_axis(logits, first, axis=1), first
    rows["rest"] = highest + np.log(mass / (classes - count))
    return rows


def unpacked(rows: NDArray[Any], classes: int) -> NDArray[np.float32]:
    """Return float32 logits out of what `packed` made of them."""
    if rows.dtype.names is None:
        return rows.astype(np.float32, copy=False)
    logits = np.repeat(rows["rest"][:, None], classes, axis=1)
    np.put_along_axis(logits, rows["classes"].astype(np.intp), rows["logits"], axis=1)
    return logits


@dataclass(frozen=True)
class Cost:
    """Say what keeping soft targets in fewer bytes changed, over all samples of a view.

    `divergence` is the mean KL(asked ‖ kept) at temperature 1, `agreement` the share of samples
    (labels, tokens) with the same most likely class. Of numbers and vectors `divergence` is the
    root of the mean squared error over that of the mean square, and `agreement` None.
    """

    divergence: float
    agreement: float | None

    def in_words(self, form: str) -> str:
        """Return the cost as a clause of a report."""
        if self.agreement is None:
            return f"soft targets kept as {form}: {self.divergence:.2g} of their size is lost"
        return (
            f"soft targets kept as {form}: KL {self.divergence:.2g} from the teacher's own, "
            f"{self.agreement:.2%} with the same first class"
        )


@dataclass
class SoftTargets:
    """Hold the teacher's logits for each view, in `folder` or, without one, in memory.

    Processes of a `crew` fill chunks in turns and then read the same file, so the folder must be
    one that they share.
    """

    teacher: CheckedTeacher
    views: Views
    folder: Path | None = None
    autocast: bool = False
    tick: Callable[[str, int, int], None] = lambda text, done, total: None
    form: str = "fp32"
    crew: Crew = field(default_factory=Crew)
    _made: dict[int, _Shelf] = field(default_factory=dict, repr=False)

    def of(self, view: int, rows: Tensor) -> Tensor:
        """Return the logits (batch, classes, ...), float32, of some rows of a view."""
        if view not in self._made:
            if not self.views.count:
                self._made.clear()  # a fresh view is never seen again
            self._made[view] = self._shelf(view)
        shelf = self._made[view]
        return torch.from_numpy(unpacked(np.take(shelf.rows, rows.numpy(), axis=0), shelf.classes))

    def cost(self) -> Cost | None:
        """Return what the form costs, on the views read so far; None for "fp32": nothing."""
        if self.form == "fp32" or not self._made:
            return None
        figures = np.sum([shelf.figures() for shelf in self._made.values()], axis=0)
        if self.views.kind in ("regression", "embedding"):
            return Cost(float(np.sqrt(figures[0] / max(figures[1], SMALLEST))), None)
        return Cost(float(figures[0] / figures[2]), float(figures[1] / figures[2]))

    def note(self) -> str:
        """Return the cost in words; nothing where there is none."""
        cost = self.cost()
        return "" if cost is None else cost.in_words(self.form)

    def _shelf(self, view: int) -> _Shelf:
        seen = self.views.view(view)
        # From all over the view: files are often sorted by class, and of one class certain
        # teachers say the same.
        probe = self._ask(seen, slice(0, None, -(-len(self.views) // PROBE_SAMPLES)))
        crew = self.crew if self.folder is not None else Crew()
        path = self._path(seen, probe)
        shelf = _Shelf(path, self.form, self.views.kind, probe, len(self.views), crew)
        known = shelf.filled()
        chunks = list(self.views.chunks())
        for chunk in [c for c in chunks[crew.rank :: crew.size] if (c.start, c.stop) not in known]:
            self.tick(f"soft targets, view {view}", chunk.start, len(self.views))
            shelf.put(chunk, self._ask(seen, chunk))
        crew.agree(None)
        return shelf

    def _ask(self, seen: View, rows: slice) -> NDArray[np.float32]:
        place = teacher_device(self.teacher)
        with torch.no_grad(), torch.autocast(place, torch.bfloat16, enabled=self.autocast):
            answer = self.teacher.logits(seen.slice(rows), rows.start, rows.step or 1)
        return answer.cpu().numpy()

    def _path(self, seen: View, probe: NDArray[np.float32]) -> Path | None:
        """Return the file of a view, whose name no other teacher, view or form has."""
        if self.folder is None:
            return None
        inner = self.teacher.inner
        name = digest_of(
            {
                "form": self.form,
                "teacher": fingerprint(self.teacher),
                "weights": weights_digest(inner.module) if isinstance(inner, ModuleTeacher) else "",
                "answers": content_digest({"probe": probe}),
                "view": content_digest(seen.inputs),
            }
        )[:16]
        once = "" if self.views.count else ONCE
        if once and self.crew.leads:
            for old in self.folder.glob(f"{ONCE}*"):
                if not old.name.startswith(f"{once}{name}"):
                    old.unlink()
        return self.folder / f"{once}{name}.npy"


class _Shelf:
    """Hold one view's rows: an array mapped from a file with its journals, or one in memory."""

    def __init__(
        self,
        path: Path | None,
        form: str,
        kind: Kind,
        probe: NDArray[np.float32],
        samples: int,
        crew: Crew,
    ) -> None:
        self.path, self.form, self.kind, self.crew = path, form, kind, crew
        self.classes, like = probe.shape[1], packed(form, probe)
        self._put: list[tuple[float, float, float]] = []
        if path is None:
            self.rows = np.zeros((samples, *like.shape[1:]), like.dtype)
            return
        if crew.leads:
            _require_file(path, like.dtype, (samples, *like.shape[1:]))
        crew.agree(None)
        self.rows = np.lib.format.open_memmap(path, "r+")

    def put(self, chunk: slice, logits: NDArray[np.float32]) -> None:
        """Keep a chunk's logits: first its rows, then the line that says so."""
        rows = packed(self.form, logits)
        self.rows[chunk] = rows
        figures = (0.0, 0.0, 0.0)
        if self.form != "fp32":
            figures = _figures(self.kind, logits, unpacked(rows, self.classes))
        self._put.append(figures)
        if self.path is not None:
            words = (chunk.start, chunk.stop, _digest(rows), *figures)
            with self.path.with_suffix(f".{self.crew.rank}.journal").open("a") as journal:
                journal.write(" ".join(map(str, words)) + "\n")

    def filled(self) -> set[tuple[int, int]]:
        """Return the chunks (start, stop) that are filled and have their digest."""
        found = {}
        for start, stop, digest, *figures in self._lines():
            if _digest(self.rows[int(start) : int(stop)]) == digest:
                found[int(start), int(stop)] = figures
        return set(found)

    def figures(self) -> NDArray[np.float64]:
        """Return the sums over all chunks, also those that another process or run filled."""
        lines = {line[0]: tuple(map(float, line[3:])) for line in self._lines()}
        known = self._put if self.path is None else lines.values()
        sums: NDArray[np.float64] = np.array(list(known)).sum(axis=0)
        return sums

    def _lines(self) -> Iterator[list[str]]:
        if self.path is None:
            return
        for journal in sorted(self.path.parent.glob(f"{self.path.stem}.*.journal")):
            for line in journal.read_text(errors="replace").splitlines(keepends=True):
                words = line.split()
                if line.endswith("\n") and len(words) == 6:  # else a kill tore it
                    yield words


def teacher_device(teacher: CheckedTeacher) -> str:
    """Return the kind of device that a teacher computes on; a torch module stays on its own."""
    weights = teacher.inner.module.parameters() if isinstance(teacher.inner, ModuleTeacher) else ()
    return next((weight.device.type for weight in weights), "cpu")


def _require_file(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Make the file, empty, unless it is there with this type and shape."""
    try:
        there = np.lib.format.open_memmap(path, "r")
        if there.dtype == dtype and there.shape == shape:
            return
    except (OSError, ValueError):  # none, or a kill tore its first bytes
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    np.lib.format.open_memmap(path, "w+", dtype, shape)


def _digest(rows: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()[:32]


def _figures(
    kind: Kind, asked: NDArray[np.float32], kept: NDArray[np.float32]
) -> tuple[float, float, float]:
    """Return a chunk's sums: divergence, agreement and how many there are of each.

    Classes are on axis 1, each token or pixel counts as one; a label is one of two classes. Of
    numbers: the squared errors, the squares, and nothing.
    """
    true, found = torch.from_numpy(asked).double(), torch.from_numpy(kept).double()
    if kind in ("regression", "embedding"):
        return float((true - found).square().sum()), float(true.square().sum()), 0.0
    if kind in ("binary", "multilabel"):
        true, found = (torch.stack([z, torch.zeros_like(z)], dim=1) for z in (true, found))
    log_p, log_q = true.log_softmax(dim=1), found.log_softmax(dim=1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(dim=1)
    same = true.argmax(dim=1) == found.argmax(dim=1)
    return float(divergence.sum()), float(same.sum()), float(same.numel())
