"""Models as strangers make them go through measure, verify and quantize, or are refused in a line.

No command ends in a traceback. Emulated processors are stood for by this host; two models run on a
real emulator where one is set up.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import foreign_models
import numpy as np
import onnx
import pytest
from foreign_bert import bert_like
from foreign_models import MADE, Foreign, in_nodes, with_if

from edgecompress.cli import verifying
from edgecompress.cli.main import main
from edgecompress.errors import ModelError
from edgecompress.measuring.counting import count
from edgecompress.recipe import MeasureSettings
from edgecompress.runtime import admit
from edgecompress.verifying.machines import native

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
LIGHT_NAMES = (
    *("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50"),
    *("shufflenet", "squeezenet", "vgg19", "zfnet512"),
)
# What the papers count, in millions: the files hold them in ConstantOfShape nodes.
PARAMETERS_M = {"bvlc_alexnet": 61.0, "resnet50": 25.6, "squeezenet": 1.24, "vgg19": 143.7}
USUAL = (bert_like, with_if, in_nodes)  # what users have; the others are odd
ISA = ("--isa", "arm64", "--cpu", "cortex-a53")


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure one short process a model, whoever else measures: here no time counts."""
    brief = partial(MeasureSettings, processes=(1,), seconds_per_process=0.02)
    monkeypatch.setattr("edgecompress.recipe.MeasureSettings", brief)
    monkeypatch.setattr("edgecompress.cli.costs.MeasureSettings", brief)
    monkeypatch.setattr("edgecompress.measuring.latency.alone", lambda say: nullcontext())


@pytest.fixture
def _native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "absence", lambda isa, kits: "")
    monkeypatch.setattr(verifying, "emulated", lambda kits, processor: native())


def light(name: str) -> Foreign:
    """Return a light model with sixteen images, its products of 4096 narrowed to 64.

    Those alone are up to 496 MB, which every step would write and read again: minutes for three
    of the models, and nothing of them is unlike the smaller ones.
    """
    model = onnx.load(LIGHT / f"light_{name}.onnx")
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT64:  # shapes alone
            shape = onnx.numpy_helper.to_array(tensor)
            narrow = np.where(shape == 4096, 64, shape)
            tensor.CopyFrom(onnx.numpy_helper.from_array(narrow, tensor.name))
    constants = {tensor.name for tensor in model.graph.initializer}
    (given,) = (v.name for v in model.graph.input if v.name not in constants)
    return Foreign(model, {given: foreign_models.normal(16, 3, 224, 224)})


def save(foreign: Foreign, folder: Path, *options: str) -> dict[str, list[str]]:
    """Write model and samples; return the words of each command, quantize with the options."""
    model, samples = folder / "foreign.onnx", folder / "samples.npz"
    model.write_bytes(foreign.model.SerializeToString())
    np.savez(samples, **foreign.samples)
    quantize = ["quantize", str(model), "--data", str(samples), "--out", str(folder / "int8")]
    return {
        "measure": ["measure", str(model), "--processes", "1"],
        "verify": ["verify", str(model), *ISA, "--samples", "2"],
        "quantize": [*quantize, *options],
    }


def go_through(
    foreign: Foreign, folder: Path, capsys: pytest.CaptureFixture[str], *options: str
) -> None:
    """Run every command; each succeeds, or refuses the model in the one line expected."""
    for name, words in save(foreign, folder, *options).items():
        code = main(words)
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        if name in foreign.refused:
            assert code == 2, name
            (line,) = told.err.splitlines()
            assert line.startswith("error: ")
            assert foreign.refused[name] in line
        else:
            assert code == 0, (name, told.err)
            assert "differs from the float model: batch" not in told.err
            assert "foreign" in told.out


@pytest.mark.usefixtures("_native")
@pytest.mark.parametrize("make", USUAL, ids=lambda make: make.__name__)
def test_the_usual_ones_go_through(
    make: Callable[[], Foreign], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    go_through(make(), tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.usefixtures("_native")
@pytest.mark.parametrize(
    "make", [m for m in MADE if m not in USUAL], ids=lambda make: make.__name__
)
def test_odd_ones_go_through_or_are_refused(
    make: Callable[[], Foreign], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    go_through(make(), tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.usefixtures("_native")
@pytest.mark.parametrize("name", LIGHT_NAMES)
def test_the_light_models_go_through(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # One scheme shows that the weights are found.
    go_through(light(name), tmp_path, capsys, "--set", 'quantize.schemes=["static"]')


@pytest.mark.parametrize("name", PARAMETERS_M)
def test_weights_in_nodes_count_as_weights(name: str) -> None:
    facts = admit(LIGHT / f"light_{name}.onnx")
    assert facts.parameters / 1e6 == pytest.approx(PARAMETERS_M[name], rel=0.01)
    (given,) = facts.inputs
    counted = count(onnx.load(facts.model.path), {given.name: (1, 3, 224, 224)})
    assert counted["parameters_m"] == pytest.approx(PARAMETERS_M[name], rel=0.01)


def test_explain_looks_into_models_of_the_first_years(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecompress.measuring.explain.alone", lambda say: nullcontext())
    for foreign in (in_nodes(), foreign_models.old_style_held()):
        assert main([*save(foreign, tmp_path)["measure"], "--explain"]) == 0
        assert "MatMul" in capsys.readouterr().out


def test_there_are_nine_light_models() -> None:
    assert sorted(p.stem for p in LIGHT.glob("light_*.onnx")) == [f"light_{n}" for n in LIGHT_NAMES]


@pytest.mark.parametrize("make", (bert_like, *MADE), ids=lambda make: make.__name__)
def test_a_refusal_is_one_line(make: Callable[[], Foreign], tmp_path: Path) -> None:
    foreign = make()
    save(foreign, tmp_path)
    if "measure" not in foreign.refused:
        admit(tmp_path / "foreign.onnx")
        return
    with pytest.raises(ModelError) as caught:
        admit(tmp_path / "foreign.onnx")
    assert foreign.refused["measure"] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.usefixtures("kits")
@pytest.mark.parametrize("make", USUAL[:2], ids=lambda make: make.__name__)
def test_two_are_verified_on_a_real_emulator(
    make: Callable[[], Foreign], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(save(make(), tmp_path)["verify"]) == 0
    assert "PASS" in capsys.readouterr().out
