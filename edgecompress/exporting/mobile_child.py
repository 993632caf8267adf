"""Let ONNX Runtime's own tools make a model ready for phones and say what they think of it.

Runs alone, in a folder that holds `model.onnx`: writes `model*.ort` and the operators and types
that it needs, then `mobile.json`. The tools print, take their level from the environment and would
import torch; so they get a process of their own.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODEL = Path("model.onnx")
OPTIMIZED = Path("optimized.onnx")
ADDR_NO_RANDOMIZE = 0x0040000
ONCE_MORE = "EDGECOMPRESS_FIXED_ADDRESSES"


def fix_addresses() -> None:
    """Start this process once more with fixed addresses, where the system is Linux.

    The converter orders its tables by address: else equal models give unequal files. Where a
    sandbox refuses, the process goes on as it is.
    """
    if sys.platform == "linux" and ONCE_MORE not in os.environ:
        os.environ[ONCE_MORE] = "1"
        ctypes.CDLL(None).personality(ADDR_NO_RANDOMIZE)
        os.execv(sys.executable, sys.orig_argv)


def settle_weights() -> None:
    """Make weights constants where an old file declares them as inputs too.

    The converter folds such weights away but keeps them as inputs, which then nobody gives.
    """
    import onnx

    model = onnx.load(MODEL)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [given for given in model.graph.input if given.name not in weights]
    if len(inputs) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.ir_version = max(
            model.ir_version, 4
        )  # the first that has weights which are no inputs
        onnx.save(model, MODEL)


def convert() -> None:
    """Write the model in ONNX Runtime's own format, and its list of operators and types."""
    from onnxruntime.tools import convert_onnx_models_to_ort as tool

    style = [tool.OptimizationStyle.Fixed]
    tool.convert_onnx_models_to_ort(MODEL, Path(), style, enable_type_reduction=True)


def judge() -> list[dict[str, Any]]:
    """Return what ONNX Runtime's usability checker says of each accelerator of phones.

    It splits the graph as the accelerator would: once as the model is, once as it would be if its
    free dimensions were fixed.
    """
    from onnxruntime.tools.mobile_helpers import usability_checker as checker
    from onnxruntime.tools.onnx_model_utils import ModelProtoWithShapeInfo, optimize_model

    optimize_model(MODEL, OPTIMIZED)
    model = ModelProtoWithShapeInfo(OPTIMIZED).model_with_shape_info

    def core_ml(operators: str) -> Callable[[Any, bool], Any]:
        return lambda model, fixed: checker.check_coreml_partitions(model, fixed, operators)

    accelerators = {
        "NNAPI (Android)": checker.check_nnapi_partitions,
        "Core ML, neural network (iOS)": core_ml("coreml_supported_neuralnetwork_ops.md"),
        "Core ML, ML program (iOS)": core_ml("coreml_supported_mlprogram_ops.md"),
    }
    return [
        {
            "name": name,
            "as_it_is": _share(split(model, True)),
            "with_fixed_shapes": _share(split(model, False)),
        }
        for name, split in accelerators.items()
    ]


def _share(found: Any) -> dict[str, Any]:
    return {
        "worthwhile": found.suitability().name.lower(),
        "parts": found.num_partitions,
        "supported_nodes": found.num_supported_nodes,
        "nodes": found.num_nodes,
        "unsupported_operators": sorted(o.removeprefix("ai.onnx:") for o in found.unsupported_ops),
    }


def main() -> None:
    """Convert, then judge; that one of the tools fails is no reason to do without the other."""
    fix_addresses()
    sys.modules["torch"] = None  # type: ignore[assignment]
    settle_weights()
    convert()
    try:
        answer: dict[str, Any] = {"accelerators": judge(), "reason": ""}
    except Exception as error:  # whatever a tool of no fixed interface raises
        answer = {"accelerators": [], "reason": f"its checker failed: {type(error).__name__}"}
    Path("mobile.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
