"""Say whether this host's error on a model tells of the error on a device that is not here.

    python benchmarks/prediction/host_error.py TABLES work               is the rebuilt work right?
    python benchmarks/prediction/host_error.py TABLES measure [NAME...]   a few at a time: CPU time
    python benchmarks/prediction/host_error.py TABLES figures [THREADS]

`measure` rebuilds published models (nets.py), also as int8, and adds their times with ONNX Runtime
on this host, one thread, to host_times.csv, with those of the calibration models. `figures` fits
this host's costs as `profiles new --calibrate` does, from both published servers' (a whole family
held out) and the calibration models' times, and corrects the devices' rows by a share of its error.
The share is that of the published servers' errors; beside it one fitted on these times (the family
held out), and some fixed ones, in hindsight.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from figures import ALONE, HeldOut, errors_line, families, held_out, shares
from fit import load
from mixed import Mixed
from nets import REBUILT, with_weights
from numpy.typing import NDArray
from table import Floats, read_features

from edgecompress.measuring.calibrating import KINDS, calibrated
from edgecompress.measuring.calibration_models import calibration_models
from edgecompress.measuring.counting import count
from edgecompress.measuring.features import Features
from edgecompress.profiles import Costs, PredictionBasis

TIMES = Path(__file__).with_name("host_times.csv")
INT8 = ("googlenet", "mobilenet", "resnet18", "resnet50", "squeezenet", "vgg16")
SLOW_HERE = {"alexnet", "googlenet"}  # by a normalization over channels that ncnn has a kernel for
HERE, HERE_MORE, SERVED = "this host", "this host, known better", "the two servers"
PROCESSES, SAMPLES = 3, 16
AS_COUNTED = dict(
    elementwise="elementwise_mb", exponential="exponential_mb", layer="layers",
    parameter="parameters_m", convolved="convolved_mb",
)  # fmt: skip


def compare_work(folder: Path) -> None:
    """Print where a rebuilt model's counted work is over 2 % from the published."""
    published = read_features(folder / "model_features.csv")
    for name, make in REBUILT.items():
        found = _work(counted(with_shape(make().model()), int8=False))
        apart = [
            f"{kind} {mine:.4g} for {theirs:.4g}"
            for kind, mine, theirs in zip(KINDS, found, published[name], strict=True)
            if abs(mine - theirs) > 0.02 * max(theirs, 1.0)
        ]
        print(f"{name}: {', '.join(apart) or 'as published'}")


def measure(names: Sequence[str]) -> None:
    """Measure the models, interleaved, and add their p50 to the file of times."""
    from edgecompress.measuring.latency import measure as measured
    from edgecompress.recipe import MeasureSettings
    from edgecompress.runtime import onnx_model

    with tempfile.TemporaryDirectory() as made:
        models, inputs = {}, {}
        for name in names:
            path, shape = _written(Path(made), name)
            models[name] = onnx_model(path)
            drawn = np.random.default_rng(1).standard_normal(shape, np.float32)
            inputs[name] = {onnx.load(path).graph.input[0].name: drawn}
        found = measured(models, inputs, MeasureSettings(), processes=PROCESSES)
    new = not TIMES.exists()
    with TIMES.open("a", newline="") as file:
        if new:
            file.write("model,p50_ms,p50_of_each_process\n")
        for name, one in found.items():
            each = " ".join(f"{median(p.wall_ms):.4g}" for p in one.processes)
            file.write(f"{name},{one.latency_ms.p50:.4g},{each}\n")
            print(f"{name}: {one.latency_ms.p50:.4g} ms ({each})")


def _written(folder: Path, name: str) -> tuple[Path, tuple[int, ...]]:
    """Write one model; return its file and the shape of its input."""
    from edgecompress.quantizing.schemes import quantize
    from edgecompress.runtime import onnx_model

    path, small = folder / f"{name}.onnx", calibration_models()
    if path.name in small:
        path.write_bytes(small[path.name])
        dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
        return path, tuple(max(1, d.dim_value) for d in dims)
    net = REBUILT[name.removesuffix("_int8")]()
    onnx.save(with_weights(net.model()), path)
    if not name.endswith("_int8"):
        return path, net.shape
    some = np.random.default_rng(0).standard_normal((SAMPLES, *net.shape[1:]), np.float32)
    made = quantize(onnx_model(path), {"x": some}, folder / name)
    eight = next(m for m in made if m.scheme == "int8-static" and m.model is not None)
    assert eight.model is not None
    return eight.model.path, net.shape


def read_times() -> dict[str, float]:
    with TIMES.open(newline="") as file:
        return {row["model"]: float(row["p50_ms"]) for row in csv.DictReader(file)}


def counted(model: onnx.ModelProto, *, int8: bool) -> Features:
    """Return the features of one inference with one sample."""
    given = model.graph.input[0]
    shape = [max(1, d.dim_value) for d in given.type.tensor_type.shape.dim]
    found = count(model, {given.name: shape})
    names = [AS_COUNTED.get(kind, kind) for kind in KINDS]
    return Features(*(found[name] for name in names), int8=int8)


def host_errors(mixed: Mixed, times: Mapping[str, float], *, more: bool) -> dict[str, float]:
    """Return log(measured / predicted) of each model here, its family held out of the costs.

    The host is calibrated by the three models alone, or with `more` by those of all other
    families too: then as much is known of it as ever could be.
    """
    small = calibration_models()
    works = {
        name.removesuffix(".onnx"): counted(onnx.load_from_string(data), int8=False)
        for name, data in small.items()
    }
    names = [name for name in times if name not in works]
    for name in names:
        model = with_shape(REBUILT[name.removesuffix("_int8")]().model())
        works[name] = counted(model, int8=name.endswith("_int8"))
    family, errors = families(mixed.rows), {}
    of_model = {row.model: row.family for row in mixed.rows}
    for held in sorted({of_model[name] for name in names}):
        seen = [n for n in works if n not in of_model or (more and of_model[n] != held)]
        timings = [(works[name], times[name]) for name in seen]
        basis = calibrated(_servers(mixed, family != held), timings, "models run here")
        for name in (n for n in names if of_model[n] == held):
            costs = basis.int8 if works[name].int8 else basis.floats
            assert costs is not None
            values = np.array([getattr(costs, kind).value for kind in KINDS])
            errors[name] = float(np.log(times[name] / (_work(works[name]) @ values)))
    return errors


def with_shape(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fix the batch at one sample."""
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    return model


def _work(features: Features) -> Floats:
    return np.array([getattr(features, AS_COUNTED.get(kind, kind)) for kind in KINDS])


def _servers(mixed: Mixed, known: np.ndarray) -> PredictionBasis:
    """Return the mean costs of both published servers, fitted on the rows known."""
    fitted = mixed.fit(known)
    costs = []
    for int8 in (False, True):
        both = [fitted[u] for u in fitted if mixed.rows[u].server and mixed.rows[u].int8 == int8]
        mean = np.mean([one.log_cost for one in both], 0)
        within = np.sqrt(np.mean([one.sd**2 for one in both], 0))
        fields = {
            kind: {"value": float(np.exp(m)), "within": float(np.exp(s))}
            for kind, m, s in zip(KINDS, mean, within, strict=True)
        }
        costs.append(Costs.model_validate(fields))
    return PredictionBasis(
        floats=costs[0], int8=costs[1], unexplained=float(np.exp(ALONE)), source="two servers"
    )


@dataclass(frozen=True)
class Known:
    """Hold the devices' errors (families held out), and by model the hosts' errors."""

    found: HeldOut
    hosts: Mapping[str, Mapping[str, float]]

    def group(self, models: Collection[str], *, twin: bool) -> Group:
        """Return the devices' rows of these models."""
        rows = self.found.only(np.array([r.model in models for r in self.found.rows]))
        names = [row.net if twin else row.model for row in rows.rows]
        shown = {
            host: np.array([errors[name] for name in names]) for host, errors in self.hosts.items()
        }
        return Group(rows.error, families(rows.rows), shown)


@dataclass(frozen=True)
class Group:
    """Hold some rows: the devices' errors, their families, and what each host shows of them."""

    error: Floats
    family: NDArray[np.str_]
    shown: Mapping[str, Floats]

    def corrected(self, host: str, shares_by: str) -> Floats:
        """Return the errors less a share of the host's, fitted on other families by `shares_by`."""
        left = self.error.copy()
        for name in np.unique(self.family):
            mine = self.family == name
            share = shares(self.shown[shares_by][~mine][:, None], self.error[~mine])
            left[mine] -= share[0] * self.shown[host][mine]
        return left

    def lines(self) -> Iterator[str]:
        """Yield what each way of correcting leaves."""
        yield errors_line("costs alone", self.error)
        yield errors_line("the servers' error, their share", self.corrected(SERVED, SERVED))
        for host in (HERE, HERE_MORE):
            yield errors_line(f"{host}, the servers' share", self.corrected(host, SERVED))
            yield errors_line(f"{host}, a share fitted on it", self.corrected(host, host))
        for share in (0.1, 0.2, 0.4):
            left = self.error - share * self.shown[HERE]
            yield errors_line(f"{HERE}, a share of {share:g}", left)
            flat = self.error - share * np.mean(self.shown[HERE])
            yield errors_line("  the same for all: its mean (hindsight)", flat)


def figures(folder: Path, threads: int = 1) -> None:
    """Print the errors of this host and the servers, and what correcting by them leaves."""
    times = read_times()
    mixed, _ = load(folder, 1)
    hosts = {HERE: host_errors(mixed, times, more=False)}
    hosts[HERE_MORE] = host_errors(mixed, times, more=True)
    found = held_out(mixed if threads == 1 else load(folder, threads)[0])
    server = np.array([row.server for row in found.rows])
    hosts[SERVED] = _mean_errors(found.only(server))
    known = Known(found.only(~server), hosts)
    devices = _mean_errors(known.found)
    print(f"{threads} thread(s); log errors:\n{'':19s} here  more  servers  devices")
    for name in sorted(hosts[HERE]):
        each = [hosts[host][name] for host in (HERE, HERE_MORE, SERVED)]
        print(f"{name:18s} {each[0]:+.2f} {each[1]:+.2f}    {each[2]:+.2f}    {devices[name]:+.2f}")
    floats = [name for name in hosts[HERE] if not name.endswith("_int8")]
    eight = [name for name in hosts[HERE] if name.endswith("_int8")]
    for host, errors in hosts.items():
        both = np.corrcoef([(errors[n], devices[n]) for n in floats], rowvar=False)[0, 1]
        print(f"floats, correlation with the devices: {host} {both:.2f}")
    groups = {
        "floats": known.group(floats, twin=False),
        "floats without alexnet and googlenet": known.group(set(floats) - SLOW_HERE, twin=False),
        "int8, by their own error": known.group(eight, twin=False),
        "int8, by their float twin's": known.group(eight, twin=True),
    }
    for title, group in groups.items():
        print(f"\n{title}", *group.lines(), sep="\n  ")


def _mean_errors(found: HeldOut) -> dict[str, float]:
    """Return each model's mean error."""
    errors: dict[str, list[float]] = {}
    for row, error in zip(found.rows, found.error, strict=True):
        errors.setdefault(row.model, []).append(float(error))
    return {model: float(np.mean(those)) for model, those in errors.items()}


def main(tables: str, task: str, *names: str) -> int:
    match task:
        case "work":
            compare_work(Path(tables))
        case "measure":
            small = [name.removesuffix(".onnx") for name in calibration_models()]
            measure(names or [*small, *REBUILT, *(f"{n}_int8" for n in INT8)])
        case "figures":
            figures(Path(tables), int(names[0]) if names else 1)
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
