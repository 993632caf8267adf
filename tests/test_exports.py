"""The opset that a file is written in, and which ONNX Runtime reads it."""

from __future__ import annotations

import pytest

from edgecompress.errors import RecipeError
from edgecompress.exports import OPSET, ExportSettings, check_opset, is_read
from edgecompress.profiles import Runtime


def test_auto_is_the_exporters_own_opset() -> None:
    assert ExportSettings().wanted_opset == OPSET == 18
    assert ExportSettings(softmax=True, mean=(0.5,)).plain == ExportSettings(opset=18)


@pytest.mark.parametrize(
    ("runtime", "opset", "version", "read"),
    [
        ("1.14", 18, 8, True), ("1.13", 18, 8, False), ("1.15", 19, 9, False),
        ("1.16", 19, 9, True), ("1.17", 20, 9, True), ("1.17", 21, 10, False),
        ("1.20", 21, 10, True), ("1.20", 22, 10, False), ("1.31", 23, 11, True),
        ("0.5", 18, 8, False), (None, 99, 99, True),
    ],
)  # fmt: skip
def test_releases_read_what_is_published(
    runtime: str | None, opset: int, version: int, read: bool
) -> None:
    assert is_read(runtime, opset, version) is read


@pytest.mark.parametrize(
    ("settings", "runtime", "message"),
    [
        (
            ExportSettings(),
            "1.13",
            "given 18, .* 1.13 reads opsets up to 17; opset 18 is the lowes",
        ),
        (ExportSettings(opset=21), "1.17", "given 21, .* up to 20; lower export.opset to 20"),
    ],
)
def test_an_opset_that_the_runtime_cannot_read_is_refused(
    settings: ExportSettings, runtime: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        check_opset(settings, runtime)
    assert "\n" not in str(caught.value)
    check_opset(settings, "1.18")
    check_opset(settings, None)


def test_a_profile_names_a_release() -> None:
    assert Runtime(onnxruntime="1.17").onnxruntime == "1.17"
    with pytest.raises(ValueError, match="onnxruntime"):
        Runtime(onnxruntime=">=1.17")
