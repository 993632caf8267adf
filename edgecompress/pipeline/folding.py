"""The last thing done to a candidate: what of the app's own work the recipe folds into its file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgecompress.exporting.folding import Folding, folded, folding_of
from edgecompress.exporting.parity import FLOAT, Tolerance, check_parity
from edgecompress.exports import check_opset, is_read
from edgecompress.pipeline.run import Run
from edgecompress.profiles import Profile
from edgecompress.records import Candidate, OnnxModel, Parity
from edgecompress.runtime import run as run_model
from edgecompress.store import StageCode, artifact, write_atomic
from edgecompress.tasks.task import Arrays

FOLD = StageCode(
    "fold", ("exporting/folding.py", "exports.py", "graphs.py"), ("onnx", "onnxruntime")
)
_PROBES = 256
# The same kernels on the same numbers, but one unit in the last place may round to another step.
_SMALL = Tolerance(max_rel_error=None, agreement=0.99)


@dataclass(frozen=True)
class FoldedModel:
    """Hold a model with its app's work inside, and its parity with what it was made of."""

    model: OnnxModel
    parity: Parity


def run_folding(run: Run) -> Folding:
    """Return what the recipe folds into what ships."""
    return folding_of(run.recipe.export, run.task.example_inputs(2), run.task.normalization)


def check_export(run: Run, profile: Profile) -> None:
    """Refuse what cannot be folded in, or read on the device, before anything is trained."""
    check_opset(run.recipe.export, profile.runtime.onnxruntime)
    run_folding(run).raw(run.task.validation.take(slice(0, _PROBES)).inputs)


def folded_candidate(run: Run, profile: Profile, candidate: Candidate) -> Candidate:
    """Return the candidate as it ships, to be scored anew; itself where nothing is folded in.

    Everything before compares networks with their own inputs; from here on it takes raw values.
    What the profile's runtime cannot read is out.
    """
    folding = run_folding(run)
    if candidate.dropped is not None:
        return candidate
    if reason := _unreadable(candidate.model, profile.runtime.onnxruntime):
        return replace(candidate, dropped=reason)
    if not folding:
        return candidate
    key = {
        "model": candidate.model.sha256,
        "settings": run.recipe.export.model_dump(),
        "task": run.fingerprint,
    }

    def make(folder: Path) -> FoldedModel:
        whole = folded(onnx.load(candidate.model.path), folding)
        path = folder.absolute() / "model.onnx"
        write_atomic(path, whole.SerializeToString(deterministic=True))
        model = artifact(path, OnnxModel)
        raw = folding.raw(run.task.validation.take(slice(0, _PROBES)).inputs)
        expected = folding.answer(run_model(candidate.model, folding.network_inputs(raw)))
        exact = FLOAT if candidate.scheme == "fp32" else _SMALL
        parity = check_parity(expected, model, raw, candidate.label, exact, run.task.kind)
        return FoldedModel(model, parity)

    made = run.store.once(FOLD, FoldedModel, key, make, title=f"fold {candidate.label}")
    dropped = None
    if not made.parity.passed:
        dropped = f"parity with itself before folding failed: {made.parity.reason}"
    return replace(
        candidate,
        model=made.model,
        unfolded=candidate.model,
        evaluations=(),
        dropped=dropped,
    )


def _unreadable(model: OnnxModel, runtime: str | None) -> str:
    """Return why a release of ONNX Runtime cannot read a file, or nothing."""
    if runtime is None:
        return ""
    found = onnx.load(model.path, load_external_data=False)
    opset = max((e.version for e in found.opset_import if e.domain in ("", "ai.onnx")), default=0)
    if is_read(runtime, opset, found.ir_version):
        return ""
    return f"opset {opset} in a file of version {found.ir_version}, too new for runtime {runtime}"


def inputs_of(run: Run, candidate: Candidate, inputs: Arrays) -> dict[str, NDArray[Any]]:
    """Return the task's inputs as the candidate's file takes them."""
    return run_folding(run).raw(inputs) if candidate.unfolded else dict(inputs)


def logits_of(run: Run, candidate: Candidate, inputs: Arrays) -> NDArray[np.generic]:
    """Return the candidate's answers to the task's inputs, as logits where the task has those."""
    return as_logits(run, candidate, run_model(candidate.model, inputs_of(run, candidate, inputs)))


def as_logits(run: Run, candidate: Candidate, answer: NDArray[Any]) -> NDArray[np.generic]:
    """Return what the candidate's file answered as the logits that metrics take."""
    return run_folding(run).logits(answer) if candidate.unfolded else answer
