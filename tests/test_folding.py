"""What is folded into a file: raw bytes in, probabilities out, and nothing else changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_exporting import conv_net, images

from edgecompress.errors import RecipeError
from edgecompress.exporting.folding import Entrance, Folding, folded, folding_of
from edgecompress.exporting.onnx import export
from edgecompress.exporting.parity import FLOAT, check_parity
from edgecompress.graphs import about_of
from edgecompress.quantizing.schemes import quantize
from edgecompress.recipe import ExportSettings, QuantizeSettings
from edgecompress.records import OnnxModel
from edgecompress.runtime import run, session
from edgecompress.store import artifact
from edgecompress.tasks.task import Normalization

RGB = Normalization(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CAMERA = ExportSettings(normalize=True, layout="nhwc", input_type="uint8")
RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (5, 6, 7, 3)).astype(np.uint8)


def test_raw_values_and_network_values_are_each_others_reverse() -> None:
    entrance = Entrance(RGB, "nhwc", "uint8")
    values = entrance.network_values(BYTES)
    assert values.shape == (5, 3, 6, 7)
    assert values.dtype == np.float32
    pixel = (BYTES[0, 0, 0] / 255 - RGB.mean) / RGB.std
    np.testing.assert_allclose(values[0, :, 0, 0], pixel, rtol=1e-5)
    np.testing.assert_array_equal(entrance.raw_values("x", values), BYTES)


@given(st.floats(1e-3, 10), st.floats(-5, 5), st.floats(0.1, 10), st.sampled_from(["nchw", "nhwc"]))
def test_floats_come_back_as_they_were(scale: float, mean: float, std: float, layout: str) -> None:
    entrance = Entrance(Normalization(scale, (mean,), (std,)), layout)  # type: ignore[arg-type]
    values = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
    back = entrance.network_values(entrance.raw_values("x", values))
    np.testing.assert_allclose(back, values, atol=1e-4)


def net(path: Path, settings: ExportSettings | None = None) -> OnnxModel:
    return export(conv_net(), images(1), path, settings, labels=("a", "b"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    return net(tmp_path_factory.mktemp("plain") / "m.onnx")


def gray(count: int) -> np.ndarray:
    return RNG.integers(0, 256, (count, 8, 8, 1)).astype(np.uint8)


def test_a_file_takes_bytes_and_gives_probabilities(plain: OnnxModel, tmp_path: Path) -> None:
    settings = ExportSettings(
        mean=(0.4,), std=(0.3,), scale=1 / 255, layout="nhwc", input_type="uint8",
        softmax=True, temperature=2.0,
    )  # fmt: skip
    whole = net(tmp_path / "m.onnx", settings)
    opened = session(whole.path)
    (given_,), (made,) = opened.get_inputs(), opened.get_outputs()
    assert (given_.name, given_.type) == ("image", "tensor(uint8)")
    assert given_.shape == ["batch", 8, 8, 1]
    assert (made.name, made.shape) == ("probabilities", ["batch", 10])
    folding = folding_of(settings, images(1))
    raw = {"image": gray(20)}
    expected = folding.answer(run(plain, folding.network_inputs(raw)))
    np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=1e-5)
    parity = check_parity(expected, whole, raw, "unfolded", FLOAT)
    assert parity.passed, parity.reason
    back = folding.logits(run(whole, raw))
    assert (back.argmax(1) == expected.argmax(1)).all()


def test_the_file_says_what_it_does(tmp_path: Path) -> None:
    settings = ExportSettings(scale=1 / 255, mean=(0.5,), std=(0.25,), softmax=True, temperature=3)
    about = about_of(onnx.load(net(tmp_path / "m.onnx", settings).path))
    assert about.labels == ("a", "b")
    assert about.answer == "softmax(logits / 3)"
    said = json.loads(about.raw)["image"]
    assert said == {
        "type": "float32", "layout": "nchw", "scale": 1 / 255, "mean": [0.5], "std": [0.25],
    }  # fmt: skip


def test_folding_is_the_same_every_time_and_small(plain: OnnxModel, tmp_path: Path) -> None:
    settings = ExportSettings(mean=(0.5,), layout="nhwc", input_type="uint8")
    first, second = (net(tmp_path / name / "m.onnx", settings) for name in ("a", "b"))
    assert first.sha256 == second.sha256
    again = folded(onnx.load(plain.path), folding_of(settings, images(1)))
    assert again.SerializeToString(deterministic=True) == first.path.read_bytes()
    assert first.size_bytes < plain.size_bytes + 600
    operators = [node.op_type for node in onnx.load(first.path).graph.node]
    assert operators[:3] == ["Transpose", "Cast", "Add"]  # bytes move before they grow


def test_an_int8_model_is_folded_after_it_is_made(plain: OnnxModel, tmp_path: Path) -> None:
    settings = ExportSettings(scale=1 / 255, layout="nhwc", input_type="uint8", softmax=True)
    folding = folding_of(settings, images(1))
    raw = {"image": gray(64)}
    calibration = folding.network_inputs(raw)
    (made,) = quantize(plain, calibration, tmp_path, QuantizeSettings(schemes=("static",)))
    assert made.model is not None
    path = tmp_path / "folded.onnx"
    path.write_bytes(folded(onnx.load(made.model.path), folding).SerializeToString())
    answer = run(artifact(path, OnnxModel), raw)
    expected = folding.answer(run(made.model, calibration))
    assert np.mean(answer.argmax(1) == expected.argmax(1)) > 0.98


def test_the_tasks_own_normalization_is_taken() -> None:
    inputs = {"image": np.zeros((1, 3, 6, 7), np.float32), "n": np.zeros((1, 2), np.float32)}
    folding = folding_of(CAMERA, inputs, {"image": RGB})
    assert folding == Folding({"image": Entrance(RGB, "nhwc", "uint8")})
    assert bool(folding)
    assert not folding_of(ExportSettings(opset=20), inputs)


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        (CAMERA, (1, 3, 6, 7), "export.normalize: the task says no normalization of its inputs"),
        (ExportSettings(layout="nhwc"), (1, 3, 9), r"input 'x' has shape \(1, 3, 9\), expected im"),
        (
            ExportSettings(mean=(0.1, 0.2)),
            (1, 3, 6, 7),
            "export.mean: given 2 values, expected 1 o",
        ),
        (ExportSettings(std=(1, 2)), (1, 3), "each of the 3 channels of 'x'"),
    ],
)
def test_what_does_not_fit_is_refused(
    settings: ExportSettings, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        folding_of(settings, {"x": np.zeros(shape, np.float32)})
    assert "\n" not in str(caught.value)


def test_one_mean_for_two_inputs_is_refused() -> None:
    two = {name: np.zeros((1, 3), np.float32) for name in ("a", "b")}
    with pytest.raises(RecipeError, match="the network takes a, b; let the task say them"):
        folding_of(ExportSettings(mean=(0.5,)), two)


def test_floats_that_were_no_bytes_are_refused() -> None:
    entrance = Entrance(Normalization(), "nchw", "uint8")
    with pytest.raises(
        RecipeError, match=r"input 'x' was no bytes: .* from -.* correct export\.mean"
    ):
        entrance.raw_values("x", RNG.normal(size=(4, 3, 5, 5)))


def test_normalizing_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="normalize takes the task's own normalization, and mean"):
        ExportSettings(normalize=True, mean=(0.5,))
