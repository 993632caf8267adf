"""The int8 candidate that was trained for: distilled on while it rounds as its int8 model will."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from torch import nn

from edgecompress.distilling.choice import DISTILLED
from edgecompress.distilling.rules import settled
from edgecompress.distilling.scoring import forward
from edgecompress.exporting.parity import Tolerance, check_parity
from edgecompress.pipeline.arms import Adjusting, Course
from edgecompress.pipeline.candidates import Exported, candidate_of
from edgecompress.pipeline.networks import TeacherInHand
from edgecompress.pipeline.quantized import calibration_rows, for_device
from edgecompress.pipeline.run import Run
from edgecompress.profiles import Profile
from edgecompress.pruning.masks import Masks
from edgecompress.quantization import AwareSettings
from edgecompress.quantizing.aware import Beginning, begin, fake_quantized, finish
from edgecompress.quantizing.fake import FakeQuantized
from edgecompress.quantizing.static import StaticForm
from edgecompress.recipe import DistillSettings, QuantizeSettings
from edgecompress.records import Candidate
from edgecompress.store import StageCode, digest_of
from edgecompress.tasks.task import Arrays
from edgecompress.teachers.weights import load_weights_

_LIBRARIES = ("torch", "onnx", "onnxruntime")
BEGIN = StageCode("aware-begin", ("quantizing", "graphs.py"), _LIBRARIES)
FINISH = StageCode(
    "aware-int8",
    ("quantizing", "graphs.py", "exporting/parity.py", "tasks/inspection.py", "runtime.py"),
    _LIBRARIES,
)
FAKE = "torch fake-quantized"
AGREEMENT = 0.99  # what ships is what was trained, or the training was for nothing


def aware_candidate(
    run: Run, profile: Profile, teacher: TeacherInHand, whole: Candidate
) -> tuple[Candidate, ...]:
    """Return what the float candidate `whole` becomes by training in 8 bits, if the recipe asks.

    It learns from the teacher by the losses, samples and steps of its own distillation. None for
    a network that PyTorch cannot imitate in 8 bits, with the reason in words.
    """
    settings = run.recipe.quantize
    if settings is None or settings.aware is None or whole.dropped is not None:
        return ()
    label = _label(whole)
    form = _form(for_device(settings, profile))
    beginning = _begun(run, whole, form)
    if beginning.reason:
        run.store.say(f"quantize: {_left_out(whole, beginning)}")
        return ()
    network = fake_quantized(beginning, form)
    lesson = _lesson(run, whole, settings.aware)
    origin = digest_of([whole.model.sha256, asdict(form)])
    zeros = Adjusting({"zeros": "stay"}, zeros_stay) if _is_sparse(run, whole) else None
    course = Course(run, "aware", network, teacher.calibrated(lesson), zeros, origin)
    arm = course.arm(DISTILLED, lesson, run.recipe.seed)
    load_weights_(network, arm.weights.path)
    made = _finished(run, network, beginning, form, arm.weights.sha256)
    run.store.say(f"quantize: {label}: {made.parity.reason} ({made.parity.agreement:.2%})")
    return (candidate_of(label, made.model, "int8-aware", made.parity),)


def aware_notes(run: Run, profile: Profile, candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Say which of the float candidates could not be trained in 8 bits, though the recipe asks."""
    settings = run.recipe.quantize
    if settings is None or settings.aware is None:
        return ()
    form = _form(for_device(settings, profile))
    floats = [
        replace(c, model=c.unfolded or c.model)
        for c in candidates
        if c.scheme == "fp32" and c.parity and c.parity.passed
    ]
    begun = [(whole, _begun(run, whole, form)) for whole in floats]
    return tuple(_left_out(whole, first) for whole, first in begun if first.reason)


def _label(whole: Candidate) -> str:
    return f"{whole.label.removesuffix('-fp32')}-int8-aware"


def _left_out(whole: Candidate, beginning: Beginning) -> str:
    return f"{_label(whole)} left out: {beginning.reason}"


def _is_sparse(run: Run, whole: Candidate) -> bool:
    """Return whether pruning set single weights to 0, which training must leave there."""
    prune = run.recipe.prune
    return whole.label == "pruned-fp32" and prune is not None and prune.kind == "unstructured"


def zeros_stay(network: nn.Module) -> Masks:
    """Return what keeps weights that are 0 at 0, biases apart; in 8 bits 0 is 0 too."""
    weights = {name: p.detach() for name, p in network.named_parameters() if p.ndim > 1}
    return Masks({name: weight != 0 for name, weight in weights.items()})


def _form(settings: QuantizeSettings) -> StaticForm:
    return StaticForm(
        per_channel=settings.per_channel,
        reduce_range=settings.reduce_range is True,
        calibration=settings.calibration,
    )


def _lesson(run: Run, whole: Candidate, aware: AwareSettings) -> DistillSettings:
    """Return how the network was distilled last, for as long and as fast as 8 bits want it.

    Layers inside it are not taught: it has none of the names that `features` knows. Sums are
    taken in float32, for bfloat16 has no room for 8 bits and the steps between them.
    """
    recipe = run.recipe
    last = recipe.redistill if whole.label == "pruned-fp32" else None
    lesson = last or recipe.distill or settled(run.task, DistillSettings())
    asked = {"epochs": aware.epochs, "learning_rate": aware.learning_rate, "precision": "fp32"}
    return lesson.model_copy(update={**asked, "features": None, "seeds": (), "tune": 0})


def _begun(run: Run, whole: Candidate, form: StaticForm) -> Beginning:
    key = {
        "model": whole.model.sha256,
        "form": asdict(form),
        "samples": _samples(run),
        "task": run.fingerprint,
        "seed": run.recipe.seed,
    }
    return run.store.once(
        BEGIN,
        Beginning,
        key,
        lambda folder: begin(whole.model, _calibration(run), form, folder),
        title=f"set the rounding of {whole.label}",
    )


def _finished(
    run: Run, network: FakeQuantized, beginning: Beginning, form: StaticForm, weights: str
) -> Exported:
    """Return the int8 model of the trained network, held against that network on validation."""
    assert beginning.source is not None
    key = {
        "source": beginning.source.sha256,
        "weights": weights,
        "form": asdict(form),
        "samples": _samples(run),
        "task": run.fingerprint,
        "seed": run.recipe.seed,
    }

    def make(folder: Path) -> Exported:
        path = folder / "int8-aware.onnx"
        model = finish(network, beginning, _calibration(run), form, path, weights)
        inputs = run.task.validation.inputs
        outputs = forward(network, inputs)
        parity = check_parity(outputs, model, inputs, FAKE, as_trained(len(outputs)), run.task.kind)
        return Exported(model, parity)

    return run.store.once(FINISH, Exported, key, make, title="write int8 as it was trained")


def as_trained(samples: int) -> Tolerance:
    """Return how far what ships may lie from what was trained; of few samples, one is no matter.

    Its answer may lie between two classes, where the last bit of a sum decides.
    """
    return Tolerance(max_rel_error=None, agreement=min(AGREEMENT, 1 - 1.5 / samples))


def _samples(run: Run) -> int:
    assert run.recipe.quantize is not None
    return run.recipe.quantize.calibration_samples


def _calibration(run: Run) -> Arrays:
    return run.task.train.take(calibration_rows(run, _samples(run))).inputs
