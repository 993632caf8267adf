"""Time networks with ncnn on this host, as its own benchmark does (Tencent/ncnn benchncnn.cpp).

    python benchmarks/prediction/ncnn_times.py [NAME...]   all that host_times.csv lacks
    python benchmarks/prediction/ncnn_times.py time PARAM SHAPE   what a fresh process is asked

Needs what edgecompress does not: `pip install ncnn pnnx`. pnnx turns the rebuilt networks into
ncnn's; each is timed in a fresh process on one pinned core, with weights of zeros, and the least of
up to 512 calls counts, as in the published table.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx
from detectors import PUBLISHED
from nets import with_weights
from reference_nets import REFERENCE

TIMES = Path(__file__).with_name("host_times.csv")
WARMUP_CALLS, FEWEST_CALLS, MOST_CALLS, SECONDS = 8, 8, 512, 0.35


def time_here(param: str, shape: str) -> None:
    """Print the least milliseconds of a call with one input of this shape."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads, net.opt.lightmode = 1, True
    if net.load_param(param):
        sys.exit("ncnn lacks an operator of it")
    net.load_model(ncnn.DataReaderFromEmpty())
    given = ncnn.Mat(np.full([int(size) for size in shape.split("x")], 0.01, np.float32))
    names, outputs, times = net.input_names(), net.output_names(), []
    begun = perf_counter()
    for number in range(WARMUP_CALLS + MOST_CALLS):
        start = perf_counter()
        extractor = net.create_extractor()
        extractor.input(names[0], given)
        assert not any(extractor.extract(name)[0] for name in outputs)
        times.append((perf_counter() - start) * 1e3)
        begun = perf_counter() if number + 1 == WARMUP_CALLS else begun
        if number >= WARMUP_CALLS + FEWEST_CALLS and perf_counter() - begun > SECONDS:
            break
    print(f"{min(times[WARMUP_CALLS:]):.4g}")


def timed(name: str) -> str:
    """Return the milliseconds of a network, in a fresh process."""
    net = {**PUBLISHED, **REFERENCE}[name]()
    model = with_weights(net.model())
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    found = find_spec("pnnx")
    assert found is not None and found.origin is not None, "pip install ncnn pnnx"
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder) / "net.onnx")
        convert = [str(Path(found.origin).with_name("pnnx")), "net.onnx", "fp16=0"]
        subprocess.run(convert, cwd=folder, capture_output=True, check=True)
        param, shape = str(Path(folder) / "net.ncnn.param"), "x".join(map(str, net.shape[1:]))
        asked = [sys.executable, __file__, "time", param, shape]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(asked, capture_output=True, text=True, check=False, env=environment)
    return done.stdout.strip()


def main(*names: str) -> None:
    if names[:1] == ("time",):
        return time_here(*names[1:])
    with TIMES.open(newline="") as file:
        known = {row["model"] for row in csv.DictReader(file) if row["runtime"] == "ncnn"}
    for name in names or (*REFERENCE, *PUBLISHED):
        if name not in known and (ms := timed(name)):
            with TIMES.open("a") as file:
                file.write(f"ncnn,{name},{ms}\n")
            print(f"{name}: {ms} ms", flush=True)
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
