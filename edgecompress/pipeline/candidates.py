"""The ONNX half of the chain: export, score, measure; what is `quantized` comes between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecompress.distilling.scoring import forward
from edgecompress.exporting.differing import located
from edgecompress.exporting.layers import first_layer
from edgecompress.exporting.onnx import export_described
from edgecompress.exporting.parity import FLOAT, check_parity
from edgecompress.graphs import About
from edgecompress.measuring.features import Features, read_features
from edgecompress.measuring.host import describe_host
from edgecompress.measuring.latency import measure
from edgecompress.measuring.predict import predict
from edgecompress.measuring.targets.machine import fingerprint, machine_of
from edgecompress.measuring.targets.target import HOST, Target
from edgecompress.pipeline.folding import inputs_of, logits_of
from edgecompress.pipeline.networks import Network, TeacherInHand
from edgecompress.pipeline.run import Run
from edgecompress.profiles import Profile
from edgecompress.records import Candidate, Evaluation, Measurement, OnnxModel, Parity, SplitName
from edgecompress.runtime import admit, onnx_model
from edgecompress.store import StageCode, digest_of
from edgecompress.tasks.metrics import evaluate
from edgecompress.tasks.task import Split
from edgecompress.teachers.adapters import predict_logits

_ONNX = ("onnx", "onnxruntime")
EXPORT = StageCode(
    "export", ("exporting", "students", "graphs.py"), ("torch", "onnx", "onnxscript", "onnxruntime")
)
SCORE = StageCode("score", ("tasks", "runtime.py"), _ONNX)
TEST = StageCode("test", ("tasks", "runtime.py"), _ONNX)
MEASURE = StageCode("measure", ("measuring",), ("onnxruntime", "numpy"))
COUNT = StageCode("count", ("measuring/counting.py", "measuring/features.py"), ("onnx",))
PARITY_SAMPLES = 256

Decided = Callable[[str, Measurement], bool]


@dataclass(frozen=True)
class Exported:
    """Hold an exported model and its parity with the torch network it came from."""

    model: OnnxModel
    parity: Parity


def export_network(run: Run, network: Network, label: str) -> Candidate:
    """Return the network as a float candidate, compared with torch on real samples."""
    probe = run.task.validation.take(slice(0, PARITY_SAMPLES)).inputs
    settings = run.recipe.export.plain  # what is folded in comes last
    key = {"network": network.digest, "settings": settings.model_dump(), "task": run.fingerprint}
    about = About(run.task.class_names, run.task.kind, weights=network.digest)

    def make(folder: Path) -> Exported:
        example = run.task.example_inputs(3)
        path = folder / "model.onnx"
        lengths = run.task.free_lengths
        model = export_described(network.module, example, path, settings, about, lengths)
        outputs = forward(network.module, probe)
        parity = check_parity(outputs, model, probe, "torch", FLOAT, run.task.kind)
        return Exported(model, located(parity, lambda: first_layer(network.module, probe)))

    made = run.store.once(EXPORT, Exported, key, make, title=f"export {label}")
    return candidate_of(label, made.model, "fp32", made.parity)


def teacher_candidate(run: Run, teacher: TeacherInHand) -> Candidate | None:
    """Return the teacher as an ONNX model, to compare with; None where it is no such thing."""
    if teacher.network is not None:
        return export_network(run, teacher.network, "teacher")
    if teacher.onnx is not None and teacher.onnx.suffix == ".onnx":
        admit(teacher.onnx)
        return candidate_of("teacher", onnx_model(teacher.onnx), "given", None)
    return None


def teacher_score(run: Run, teacher: TeacherInHand, split: SplitName) -> Evaluation:
    """Return the score of the teacher itself, whatever it is, on a split."""
    data = _split(run, split)
    key = {"teacher": teacher.digest, "task": run.fingerprint, "split": split}
    return run.store.once(
        TEST if split == "test" else SCORE,
        Evaluation,
        key,
        lambda folder: evaluate(
            run.task.metric, predict_logits(teacher.teacher, data.inputs), _labels(data), split
        ),
        title=f"{split} score of teacher",
    )


def scored(run: Run, candidate: Candidate, split: SplitName) -> Candidate:
    """Return the candidate with its score on a split; the store counts reads of the test split."""
    if candidate.dropped is not None or candidate.evaluation(split) is not None:
        return candidate
    data = _split(run, split)
    key = {"model": candidate.model.sha256, "task": run.fingerprint, "split": split}
    evaluation = run.store.once(
        TEST if split == "test" else SCORE,
        Evaluation,
        key,
        lambda folder: evaluate(
            run.task.metric, logits_of(run, candidate, data.inputs), _labels(data), split
        ),
        title=f"{split} score of {candidate.label}",
    )
    return replace(candidate, evaluations=(*candidate.evaluations, evaluation))


def measured(
    run: Run,
    profile: Profile,
    candidates: Sequence[Candidate],
    processes: int | None,
    decided: Decided | None = None,
) -> tuple[Candidate, ...]:
    """Return the candidates with what they cost on this host and, predicted, on the device.

    `processes` fresh processes each; None lets `decided` end the recipe's looks.
    """
    found = _costs(run, profile, candidates, processes, decided)
    work = _work(run, [c for c in candidates if c.label in found])
    return tuple(
        replace(c, measurement=cost, prediction=predict(cost, profile, work[c.label]))
        if (cost := found.get(c.label))
        else c
        for c in candidates
    )


def _work(run: Run, candidates: Sequence[Candidate]) -> Mapping[str, Features | str]:
    """Count what the models compute, once for each set of them."""
    models = {c.label: c.model for c in candidates}
    if not models:
        return {}
    task_inputs = measuring_inputs(run)
    inputs = {c.label: inputs_of(run, c, task_inputs) for c in candidates}
    return run.store.once(
        COUNT,
        dict[str, Features | str],
        {
            "models": {label: model.sha256 for label, model in models.items()},
            "shapes": {name: list(array.shape) for name, array in task_inputs.items()},
        },
        lambda folder: read_features(models, inputs),
        title=f"count the work of {', '.join(models)}",
    )


def measuring_inputs(run: Run) -> dict[str, NDArray[np.generic]]:
    """Return the inputs that models are measured with."""
    batch = run.recipe.measure.batch if run.recipe.measure else 1
    return _repeated(run.task.validation.take(slice(0, 1)), batch)


def measured_on_device(
    run: Run, profile: Profile, candidates: Sequence[Candidate], decided: Decided
) -> tuple[Candidate, ...]:
    """Return the candidates with what they cost on the run's target, the profile's own device.

    Where the target is this host they stay as they are. The device must be there even for what is
    known already: only it can say that it is the same one.
    """
    target = run.options.target
    if target == HOST:
        return tuple(candidates)
    found = _costs(run, profile, candidates, None, decided, target)
    return tuple(replace(c, device=found.get(c.label)) for c in candidates)


def _costs(
    run: Run,
    profile: Profile,
    candidates: Sequence[Candidate],
    processes: int | None,
    decided: Decided | None,
    target: Target = HOST,
) -> Mapping[str, Measurement]:
    """Measure the candidates that are still in, once for each machine."""
    settings = run.recipe.measure
    models = {c.label: c.model for c in candidates if c.dropped is None}
    if settings is None or not models:
        return {}
    key = {
        "models": {label: model.sha256 for label, model in models.items()},
        "settings": settings.model_dump(),
        "processes": processes,
        "profile": digest_of(profile.model_dump(mode="json")),
        "host": describe_host().fingerprint if target == HOST else fingerprint(target),
        "task": run.fingerprint,
    }
    inputs = {c.label: inputs_of(run, c, measuring_inputs(run)) for c in candidates}
    place = "" if target == HOST else f" on {target}"
    return run.store.once(
        MEASURE,
        dict[str, Measurement],
        key,
        lambda folder: measure(
            models,
            inputs,
            settings,
            profile.runtime.threads,
            processes,
            decided and (lambda label, found: decided(label, found[label])),
            lambda text: run.tick(text, 0, 0),
            machine_of(target, profile.device.core),
        ),
        title=f"measure {', '.join(models)}{place}",
    )


def candidate_of(label: str, model: OnnxModel, scheme: str, parity: Parity | None) -> Candidate:
    """Return a candidate that nothing is known of yet but its parity; out where that failed."""
    dropped = None
    if parity is not None and not parity.passed:
        dropped = f"parity with {parity.reference} failed: {parity.reason}"
    return Candidate(label, model, scheme, parity, (), None, None, dropped)


def _split(run: Run, split: SplitName) -> Split:
    match split:
        case "train":
            return run.task.train
        case "validation":
            return run.task.validation
        case "test":
            return run.task.test


def _labels(split: Split) -> NDArray[np.generic]:
    assert split.labels is not None  # checked when the task was loaded
    return split.labels


def _repeated(one: Split, batch: int) -> dict[str, NDArray[np.generic]]:
    return {name: np.repeat(array, batch, axis=0) for name, array in one.inputs.items()}
