"""The ONNX half of the chain: export, quantize, score, measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecompress.distilling.scoring import forward
from edgecompress.exporting.onnx import export
from edgecompress.exporting.parity import FLOAT, INT8, Tolerance, check_parity
from edgecompress.measuring.features import Features, read_features
from edgecompress.measuring.host import describe_host, saturates_int8
from edgecompress.measuring.latency import measure
from edgecompress.measuring.predict import predict
from edgecompress.measuring.targets.machine import fingerprint, machine_of
from edgecompress.measuring.targets.target import HOST, Target
from edgecompress.pipeline.networks import Network, TeacherInHand
from edgecompress.pipeline.run import Run
from edgecompress.profiles import Profile
from edgecompress.quantizing.schemes import QuantizedModel, quantize
from edgecompress.recipe import QuantizeSettings
from edgecompress.records import Candidate, Evaluation, Measurement, OnnxModel, Parity, SplitName
from edgecompress.runtime import admit, onnx_model
from edgecompress.runtime import run as run_model
from edgecompress.store import StageCode, digest_of
from edgecompress.tasks.metrics import evaluate
from edgecompress.tasks.task import Split
from edgecompress.teachers.adapters import predict_logits

_ONNX = ("onnx", "onnxruntime")
EXPORT = StageCode(
    "export", ("exporting", "students", "graphs.py"), ("torch", "onnx", "onnxscript", "onnxruntime")
)
QUANTIZE = StageCode("quantize", ("quantizing", "graphs.py"), _ONNX)
PARITY = StageCode("parity", ("exporting/parity.py", "tasks/inspection.py", "runtime.py"), _ONNX)
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
    settings = run.recipe.export
    key = {"network": network.digest, "settings": settings.model_dump(), "task": run.fingerprint}

    def make(folder: Path) -> Exported:
        example = run.task.example_inputs(3)
        path = folder / "model.onnx"
        model = export(network.module, example, path, settings, run.task.class_names)
        outputs = forward(network.module, probe)
        if settings.softmax:
            outputs = _softmax(outputs)
        return Exported(model, check_parity(outputs, model, probe, "torch", FLOAT, run.task.kind))

    made = run.store.once(EXPORT, Exported, key, make, title=f"export {label}")
    return _candidate(label, made.model, "fp32", made.parity)


def teacher_candidate(run: Run, teacher: TeacherInHand) -> Candidate | None:
    """Return the teacher as an ONNX model, to compare with; None where it is no such thing."""
    if teacher.network is not None:
        return export_network(run, teacher.network, "teacher")
    if teacher.onnx is not None and teacher.onnx.suffix == ".onnx":
        admit(teacher.onnx)
        return _candidate("teacher", onnx_model(teacher.onnx), "given", None)
    return None


def quantize_candidate(run: Run, profile: Profile, candidate: Candidate) -> tuple[Candidate, ...]:
    """Return the int8 candidates made from a float one; none without a `[quantize]` section."""
    if run.recipe.quantize is None or candidate.dropped is not None:
        return ()
    settings = for_device(run.recipe.quantize, profile)
    rows = _calibration_rows(run, settings.calibration_samples)
    key = {
        "model": candidate.model.sha256,
        "settings": settings.model_dump(),
        "task": run.fingerprint,
        "seed": run.recipe.seed,
    }
    made = run.store.once(
        QUANTIZE,
        tuple[QuantizedModel, ...],
        key,
        lambda folder: quantize(
            candidate.model, run.task.train.take(rows).inputs, folder, settings
        ),
        title=f"quantize {candidate.label}",
    )
    name = candidate.label.removesuffix("-fp32")
    for skipped in (m for m in made if m.model is None):
        run.store.say(f"quantize: {name}-{skipped.scheme} left out: {skipped.reason}")
    return tuple(
        _candidate(f"{name}-{m.scheme}", m.model, m.scheme, _int8_parity(run, candidate, m.model))
        for m in made
        if m.model is not None
    )


def int8_notes(run: Run, profile: Profile) -> tuple[str, ...]:
    """Say where the 8-bit products of this machine or the device would saturate."""
    if run.recipe.quantize is None:
        return ()
    seven = for_device(run.recipe.quantize, profile).reduce_range
    saturates = "an x86 without VNNI, where sums of 8-bit products saturate"
    if run.recipe.quantize.reduce_range == "auto" and seven:
        return (f"int8 weights use 7 bits: the device is {saturates}",)
    if not seven and saturates_int8(describe_host().isa):
        return (
            f"int8 models may score lower here than on the device: this machine is {saturates}; "
            "quantize.reduce_range = true is safe on both",
        )
    return ()


def for_device(settings: QuantizeSettings, profile: Profile) -> QuantizeSettings:
    """Return the settings with `reduce_range = "auto"` settled by the device's instructions."""
    if settings.reduce_range != "auto":
        return settings
    isa = describe_host().isa if profile.device.host else profile.device.isa
    return settings.model_copy(update={"reduce_range": saturates_int8(isa)})


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
            run.task.metric, run_model(candidate.model, data.inputs), _labels(data), split
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
    work = _work(run, {c.label: c.model for c in candidates if c.label in found})
    return tuple(
        replace(c, measurement=cost, prediction=predict(cost, profile, work[c.label]))
        if (cost := found.get(c.label))
        else c
        for c in candidates
    )


def _work(run: Run, models: Mapping[str, OnnxModel]) -> Mapping[str, Features | str]:
    """Count what the models compute, once for each set of them."""
    inputs = _inputs(run)
    if not models:
        return {}
    return run.store.once(
        COUNT,
        dict[str, Features | str],
        {
            "models": {label: model.sha256 for label, model in models.items()},
            "shapes": {name: list(array.shape) for name, array in inputs.items()},
        },
        lambda folder: read_features(models, dict.fromkeys(models, inputs)),
        title=f"count the work of {', '.join(models)}",
    )


def _inputs(run: Run) -> dict[str, NDArray[np.generic]]:
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
    inputs = _inputs(run)
    place = "" if target == HOST else f" on {target}"
    return run.store.once(
        MEASURE,
        dict[str, Measurement],
        key,
        lambda folder: measure(
            models,
            dict.fromkeys(models, inputs),
            settings,
            profile.runtime.threads,
            processes,
            decided and (lambda label, found: decided(label, found[label])),
            lambda text: run.tick(text, 0, 0),
            machine_of(target, profile.device.core),
        ),
        title=f"measure {', '.join(models)}{place}",
    )


def _int8_parity(run: Run, candidate: Candidate, model: OnnxModel) -> Parity:
    probe = run.task.validation.take(slice(0, PARITY_SAMPLES)).inputs
    return _compared(run, candidate, model, probe, INT8)


def _compared(
    run: Run,
    reference: Candidate,
    model: OnnxModel,
    probe: Mapping[str, NDArray[np.generic]],
    tolerance: Tolerance,
) -> Parity:
    key = {"model": model.sha256, "reference": reference.model.sha256, "task": run.fingerprint}
    return run.store.once(
        PARITY,
        Parity,
        key,
        lambda folder: check_parity(
            run_model(reference.model, probe),
            model,
            probe,
            reference.label,
            tolerance,
            run.task.kind,
        ),
        title=f"parity with {reference.label}",
    )


def _candidate(label: str, model: OnnxModel, scheme: str, parity: Parity | None) -> Candidate:
    dropped = None
    if parity is not None and not parity.passed:
        dropped = f"parity with {parity.reference} failed: {parity.reason}"
    return Candidate(label, model, scheme, parity, (), None, None, dropped)


def _calibration_rows(run: Run, wanted: int) -> NDArray[np.intp]:
    """Return rows of the training split, drawn with the recipe's seed."""
    rows = np.random.default_rng(run.recipe.seed).permutation(len(run.task.train))
    return np.sort(rows[:wanted])


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


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)
