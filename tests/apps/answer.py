"""Answer for the stand-ins of ONNX Runtime's bindings, with ONNX Runtime itself: answer.py MODEL.

A request is a line of fields parted by tabs, `OUTPUT`, then `NAME TYPE 1,2,3` for each input, and
after it the inputs' bytes; the answer is a line with the number of bytes, and the output's bytes.
"""

import math
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def main() -> None:
    model = Path(sys.argv[1]).read_bytes()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    while line := sys.stdin.buffer.readline():
        output, *fields = line.decode().rstrip("\n").split("\t")
        inputs = {}
        for name, kind, sizes in zip(fields[::3], fields[1::3], fields[2::3], strict=True):
            shape = [int(size) for size in sizes.split(",") if size]
            data = sys.stdin.buffer.read(math.prod(shape) * np.dtype(kind).itemsize)
            inputs[name] = np.frombuffer(data, kind).reshape(shape)
        answer = session.run([output], inputs)[0].astype("<f4").tobytes()
        sys.stdout.buffer.write(b"%d\n" % len(answer) + answer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
