"""Run a model on golden inputs, on whatever processor this Python finds itself.

Run by path, also by the emulated Python, so it needs only numpy and ONNX Runtime. The request, in
JSON on standard input: `model`, `inputs` (an npz file whose arrays have one leading axis, the
calls) and their `names` in its order, `outputs` (the npz file to write). The answer, in JSON on
standard output: the `names` of the model's outputs, in the order of that file's arrays, each with
the same leading axis; or `error`, when ONNX Runtime refuses the model or its inputs.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import numpy as np
import onnxruntime


def open_session(model: str) -> Any:
    """Return a session with the settings that every measurement uses: one thread, no spinning."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Answer one request."""
    with np.load(request["inputs"], allow_pickle=False) as file:
        inputs = dict(zip(request["names"], (file[key] for key in file), strict=True))
    session = open_session(request["model"])
    # Sequences and maps have no array to compare; they repeat a tensor that stands before them.
    outputs = session.get_outputs()
    names = [output.name for output in outputs if output.type.startswith("tensor(")]
    if not names:
        raise ValueError("none of its outputs is a tensor")
    calls = len(next(iter(inputs.values())))
    made = [
        # The dots keep an input of no dimensions an array.
        session.run(names, {name: array[i, ...] for name, array in inputs.items()})
        for i in range(calls)
    ]
    for name, column in zip(names, zip(*made, strict=True), strict=True):
        if len({np.shape(array) for array in column}) > 1:
            raise ValueError(f"output {name!r} changes its size between samples; give --samples 1")
    columns = [np.stack(column) for column in zip(*made, strict=True)]
    # Texts come as objects, which npz cannot hold.
    columns = [c.astype(str) if c.dtype == object else c for c in columns]
    np.savez(request["outputs"], *columns)
    return {"names": names}


def main() -> None:
    """Read the request, print the answer; nothing else reaches standard output."""
    answer_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        answer = run(json.load(sys.stdin))
    except Exception as error:  # ONNX Runtime's exceptions have no useful common class
        answer = {"error": " ".join(str(error).split()) or type(error).__name__}
    json.dump(answer, answer_to)
    answer_to.close()


if __name__ == "__main__":
    main()
