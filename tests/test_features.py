"""Feature losses against references of their own, and layers of two networks brought together."""

from collections.abc import Callable, Iterator
from itertools import combinations, permutations
from pathlib import Path

import loss_references as ref
import numpy as np
import pytest
import torch
from tiny_lessons import Maps, blobs, dense
from torch import Tensor, nn

from edgecompress.distilling.arms import train_arm
from edgecompress.distilling.checkpoint import weights_digest
from edgecompress.distilling.choice import CONTROL, DISTILLED
from edgecompress.distilling.distill import distill
from edgecompress.distilling.features import attention_loss, hint_loss, relational_loss
from edgecompress.distilling.hints import Hints
from edgecompress.distilling.loop import Bench
from edgecompress.errors import RecipeError
from edgecompress.recipe import DistillSettings, FeatureSettings
from edgecompress.teachers.adapters import as_teacher

HIDDEN = FeatureSettings(layers=(("body.0", "body.0"),))
QUICK = DistillSettings(
    epochs=3, batch_size=16, learning_rate=1e-2, precision="fp32", features=HIDDEN
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- the losses -----------------------------------------------------------------------------


def _halved(maps: ref.Array) -> ref.Array:
    """Return maps averaged over squares of 2 x 2."""
    samples, channels, height, width = maps.shape
    return maps.reshape(samples, channels, height // 2, 2, width // 2, 2).mean(axis=(3, 5))


def _hint(s: ref.Array, t: ref.Array) -> complex:
    t = _halved(t) if s.shape != t.shape else t
    return complex(((s - t) ** 2).mean()) / 2


def _attention(s: ref.Array, t: ref.Array) -> complex:
    ours, theirs = (s**2).mean(axis=1, keepdims=True), (t**2).mean(axis=1, keepdims=True)
    theirs = _halved(theirs) if ours.shape != theirs.shape else theirs
    each = [
        ((a / np.sqrt((a * a).sum()) - b / np.sqrt((b * b).sum())) ** 2).mean()
        for a, b in zip(ours, theirs, strict=True)
    ]
    return complex(np.mean(each))


def _huber(difference: complex) -> complex:
    if abs(difference.real) < 1:
        return difference**2 / 2
    return (difference if difference.real > 0 else -difference) - 0.5


def _relational(s: ref.Array, t: ref.Array) -> complex:
    def length(v: ref.Array) -> complex:
        return complex(np.sqrt((v * v).sum()))

    def distances(f: ref.Array) -> ref.Array:
        each = np.array([length(f[i] - f[j]) for i, j in combinations(range(len(f)), 2)])
        return each / each.mean()

    def angles(f: ref.Array) -> ref.Array:
        return np.array(
            [
                ((f[i] - f[j]) * (f[k] - f[j])).sum() / (length(f[i] - f[j]) * length(f[k] - f[j]))
                for i, j, k in permutations(range(len(f)), 3)
            ]
        )

    s, t = s.reshape(len(s), -1), t.reshape(len(t), -1)
    by_distance = np.mean([_huber(d) for d in distances(s) - distances(t)])
    by_angle = np.mean([_huber(d) for d in angles(s) - angles(t)])
    return complex(by_distance + 2 * by_angle)


VECTORS, MAPS = ((5, 7), (5, 7)), ((4, 3, 2, 2), (4, 3, 4, 4))
LOSSES = {"hint": (hint_loss, _hint), "attention": (attention_loss, _attention)}
RELATIONAL = {"relational": (relational_loss, _relational)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("scale", [0.1, 1.0, 200.0])
@pytest.mark.parametrize(
    ("ours", "theirs", "shapes"),
    [
        (*LOSSES["hint"], VECTORS),
        (*LOSSES["hint"], MAPS),
        (*LOSSES["attention"], MAPS),
        (*LOSSES["attention"], ((4, 3, 2, 2), (4, 5, 2, 2))),
        (*RELATIONAL["relational"], ((5, 7), (5, 4))),
        (*RELATIONAL["relational"], MAPS),
    ],
)
def test_loss_and_gradient_are_those_of_the_paper(
    ours: Callable[[Tensor, Tensor], Tensor],
    theirs: Callable[[ref.Array, ref.Array], complex],
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    scale: float,
    dtype: torch.dtype,
) -> None:
    random = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(s, generator=random).to(dtype) * scale for s in shapes)
    loss = ours(student.requires_grad_(), teacher)
    (gradient,) = torch.autograd.grad(loss, student)
    plain, fixed = student.detach().double().numpy(), teacher.double().numpy().astype(complex)
    places = list(np.ndindex(*shapes[0]))
    slopes = ref.derivatives(lambda x: theirs(x, fixed), plain, places)
    relative = 1e-6 if dtype == torch.float64 else 1e-5
    assert float(loss.detach()) == pytest.approx(
        theirs(plain.astype(complex), fixed).real, relative
    )
    error = np.abs(gradient.double().numpy().ravel() - slopes).max()
    assert error <= relative * np.abs(slopes).max()


def test_relations_do_not_mind_scale_or_place_or_equal_samples() -> None:
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(relational_loss(3 * features + 100, features)) == pytest.approx(0.0, abs=1e-12)
    assert float(relational_loss(features.flip(0), features)) > 0.01
    same = torch.ones(4, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(relational_loss(same, torch.randn(4, 5)), same)
    assert bool(torch.isfinite(gradient).all())


def test_a_batch_too_small_for_relations_adds_nothing() -> None:
    one = torch.randn(1, 5, requires_grad=True)
    relational_loss(one, torch.randn(1, 5)).backward()
    assert one.grad is not None and float(one.grad.abs().sum()) == 0.0
    assert bool(torch.isfinite(relational_loss(torch.randn(2, 5), torch.randn(2, 5))))


def test_attention_does_not_mind_channels_or_scale() -> None:
    maps = torch.randn(4, 3, 5, 5)
    doubled = torch.cat([maps, maps], dim=1) * 7
    assert float(attention_loss(doubled, maps)) == pytest.approx(0.0, abs=1e-9)


# --- layers of two networks -----------------------------------------------------------------


def _hints(settings: FeatureSettings, teacher: nn.Module) -> Hints:
    return Hints(as_teacher(teacher, ("a", "b", "c")), settings)


def _few() -> dict[str, Tensor]:
    return {"x": torch.randn(5, 4)}


@pytest.mark.parametrize(
    ("ours", "theirs", "kind"),
    [
        (dense(1, 8), dense(2, 32), "Linear(in_features=8, out_features=32, bias=True)"),
        (dense(1, 8), dense(2, 8), "Identity()"),
    ],
)
def test_vectors_meet_at_the_teachers_width(ours: nn.Module, theirs: nn.Module, kind: str) -> None:
    pupil = _hints(HIDDEN, theirs).pupil(ours, _few())
    assert str(pupil.projections[0]) == kind


@pytest.mark.parametrize(
    ("path", "loss", "kind"),
    [
        ("conv", "hint", "Conv2d(4, 6, kernel_size=(1, 1), stride=(1, 1))"),
        ("conv", "attention", "Identity()"),
        ("conv", "relational", "Identity()"),
    ],
)
def test_maps_of_two_sizes_meet(path: str, loss: str, kind: str) -> None:
    settings = FeatureSettings.model_validate({"layers": ((path, path),), "loss": loss})
    hints, student = _hints(settings, Maps(6, size=8)), Maps(4)
    pupil = hints.pupil(student, _few())
    assert str(pupil.projections[0]) == kind
    _, features = pupil(_few()["x"])
    word = hints.ask(_few())
    assert word.features[0].shape == (5, 6, 8, 8)
    hints.loss(features, word.features).backward()
    assert student.conv.weight.grad is not None


def test_tokens_meet_and_the_first_of_a_tuple_is_heard() -> None:
    settings = FeatureSettings(layers=(("lstm", "lstm"),))
    pupil = _hints(settings, Maps(6)).pupil(Maps(4), _few())
    assert str(pupil.projections[0]) == "Linear(in_features=4, out_features=6, bias=True)"


def test_projections_begin_as_the_seed_says_and_take_nothing_from_other_draws() -> None:
    hints = _hints(HIDDEN, dense(2, 32))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = hints.pupil(dense(1, 8).eval(), _few())
    torch.manual_seed(5)
    second = _hints(HIDDEN, dense(2, 32)).pupil(dense(1, 8), _few())
    assert weights_digest(first.projections) == weights_digest(second.projections)
    torch.manual_seed(5)
    hints.pupil(dense(1, 8).eval(), _few())
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), expected)


def test_a_layer_is_heard_before_an_activation_in_place_changes_it() -> None:
    teacher = dense(2, 32)
    inputs = _few()
    heard = _hints(HIDDEN, teacher).ask(inputs).features[0]
    torch.testing.assert_close(heard, teacher.body[0](inputs["x"]).detach())  # type: ignore[index]
    assert bool((heard < 0).any())


@pytest.mark.parametrize(
    ("layers", "loss", "words"),
    [
        (("conf", "conv"), "hint", r"the student has no module 'conf'; did you mean 'conv'\?"),
        (
            ("conv", "zzz"),
            "hint",
            "the teacher has no module 'zzz'; its parts are grow, conv, norm",
        ),
        (("idle", "conv"), "hint", r"the student's module 'idle' takes no part in its forward"),
        (("head", "conv"), "hint", r"head and conv answer with shapes \(3,\) and \(6, 4, 4\)"),
        (("head", "head"), "attention", r"cannot compare; expected maps \(channels, \.\.\.\)"),
    ],
)
def test_layers_that_cannot_be_paired_are_refused_in_one_line(
    layers: tuple[str, str], loss: str, words: str
) -> None:
    settings = FeatureSettings.model_validate({"layers": (layers,), "loss": loss})
    lesson, teacher = QUICK.model_copy(update={"features": settings}), as_teacher(Maps(6), ())
    with pytest.raises(RecipeError, match=words) as refused:
        train_arm(DISTILLED, Maps(4), blobs(), lesson, Bench(), teacher)
    assert "\n" not in str(refused.value)


def test_a_teacher_without_layers_is_refused_before_training() -> None:
    class Plain:
        def logits(self, inputs: dict[str, Tensor]) -> Tensor:
            return inputs["x"][:, :3]

    with pytest.raises(RecipeError, match=r"\[distill.features\] listens to layers inside a torch"):
        distill(dense(1, 8), Plain(), blobs(), QUICK)


# --- training with them ---------------------------------------------------------------------


def test_hints_teach_the_distilled_arm_and_leave_nothing_behind() -> None:
    task, teacher, student = blobs(), dense(7, 32), dense(1, 8)
    before = weights_digest(teacher), weights_digest(student)
    result = distill(student, teacher, task, QUICK)
    assert (weights_digest(teacher), weights_digest(student)) == before
    plain = distill(student, teacher, task, QUICK.model_copy(update={"features": None}))
    for (arm, other), same in zip(
        zip(result.arms, plain.arms, strict=True), (False, True), strict=True
    ):
        assert (weights_digest(arm.module) == weights_digest(other.module)) is same, arm.name
        assert arm.module.state_dict().keys() == student.state_dict().keys()
        assert not any(part._forward_hooks for part in arm.module.modules())


def test_the_students_layer_comes_closer_to_the_teachers() -> None:
    task, teacher = blobs(), dense(7, 8)
    settings = QUICK.model_copy(update={"epochs": 20})
    told = settings.model_copy(update={"features": HIDDEN.model_copy(update={"weight": 10.0})})
    untold = settings.model_copy(update={"features": None})
    x = torch.from_numpy(np.asarray(task.validation.inputs["x"]))
    apart = []
    for chosen in (told, untold):
        arm = train_arm(
            DISTILLED, dense(1, 8), task, chosen, Bench(), as_teacher(teacher, task.class_names)
        )
        ours, theirs = (m.body[0](x) for m in (arm.module, teacher))  # type: ignore[union-attr,operator]
        apart.append(float(hint_loss(ours, theirs).detach()))
    assert apart[0] < 0.2 * apart[1]


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("name", [DISTILLED, CONTROL])
def test_a_killed_training_with_hints_ends_in_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecompress.distilling.loop.CHECKPOINT_SECONDS", 0.0)
    task, student = blobs(), dense(1, 8, dropout=0.3)
    teacher = as_teacher(dense(7, 32), task.class_names)
    whole = train_arm(name, student, task, QUICK, Bench(), teacher)

    def kill(text: str, done: int, total: int) -> None:
        if done == 9:
            raise _KilledError

    path = tmp_path / "c.safetensors"
    with pytest.raises(_KilledError):
        train_arm(name, student, task, QUICK, Bench(checkpoint=path, tick=kill), teacher)
    resumed = train_arm(name, student, task, QUICK, Bench(checkpoint=path), teacher)
    assert weights_digest(resumed.module) == weights_digest(whole.module)
