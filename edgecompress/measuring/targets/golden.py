"""Run one ONNX model once and keep its outputs: pushed to a device, for parity with this host.

Arguments: the model, its inputs (an npz file), their names in the file's order as JSON, and the
npz file to write.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime


def main() -> None:
    """Read the arguments, write the outputs that are arrays of numbers."""
    model, inputs, names, outputs = sys.argv[1:]
    with np.load(inputs, allow_pickle=False) as file:
        feeds = dict(zip(json.loads(names), (file[key] for key in file), strict=True))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    made = session.run(None, feeds)
    arrays = [
        array for array in made if isinstance(array, np.ndarray) and array.dtype.kind in "fiub"
    ]
    np.savez(outputs, *arrays)


if __name__ == "__main__":
    main()
