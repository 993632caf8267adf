"""Say whether this host's error on a model tells of the error on a device that is not here.

    python benchmarks/prediction/host_error.py TABLES work               is the rebuilt work right?
    python benchmarks/prediction/host_error.py TABLES measure [NAME...]   a few at a time: CPU time
    python benchmarks/prediction/host_error.py TABLES figures [THREADS]

`measure` rebuilds published models (nets.py, detectors.py) and adds their times with ONNX Runtime
on this host, one thread, to host_times.csv; `ncnn_times.py` adds those with ncnn, which took the
published times. `figures` fits this host's costs from both published servers' (a whole family held
out) and what other networks take here, and moves the devices' rows by the host's error on the
model, an int8 row by that of its float twin: by a share of it, fitted on the other families, or by
what exceeds a threshold. The published servers stand beside it, each as such a host.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from detectors import PUBLISHED
from figures import ALONE, HeldOut, errors_line, families, held_out, shares
from fit import load
from mixed import Mixed
from nets import REBUILT, with_weights
from reference_nets import REFERENCE
from table import SERVERS, Floats, read_features

from edgecompress.measuring.calibrating import KINDS, calibrated
from edgecompress.measuring.counting import count
from edgecompress.measuring.features import Features
from edgecompress.profiles import Costs, PredictionBasis

TIMES = Path(__file__).with_name("host_times.csv")
PROCESSES = 3
THRESHOLDS = (0.1, 0.2)
BY_OTHERS, BY_REFERENCES = "known by other families", "known by ten reference networks"
AS_COUNTED = dict(
    elementwise="elementwise_mb", exponential="exponential_mb", layer="layers",
    parameter="parameters_m", convolved="convolved_mb",
)  # fmt: skip


def compare_work(folder: Path) -> None:
    """Print where a rebuilt model's counted work is over 2 % from the published."""
    published = read_features(folder / "model_features.csv")
    for name in PUBLISHED:
        found = _work(counted(name))
        apart = [
            f"{kind} {mine:.4g} for {theirs:.4g}"
            for kind, mine, theirs in zip(KINDS, found, published[name], strict=True)
            if abs(mine - theirs) > 0.02 * max(theirs, 1.0)
        ]
        print(f"{name}: {', '.join(apart) or 'as published'}")


def measure(names: Sequence[str]) -> None:
    """Measure the models with ONNX Runtime, interleaved, and add their p50 to the file of times."""
    from edgecompress.measuring.latency import measure as measured
    from edgecompress.recipe import MeasureSettings
    from edgecompress.runtime import onnx_model

    with tempfile.TemporaryDirectory() as made:
        models, inputs = {}, {}
        for name in names:
            net, path = PUBLISHED[name](), Path(made) / f"{name}.onnx"
            onnx.save(with_weights(net.model()), path)
            models[name] = onnx_model(path)
            drawn = np.random.default_rng(1).standard_normal(net.shape, np.float32)
            inputs[name] = {"x": drawn}
        found = measured(models, inputs, MeasureSettings(), processes=PROCESSES)
    with TIMES.open("a") as file:
        for name, one in found.items():
            file.write(f"onnxruntime,{name},{one.latency_ms.p50:.4g}\n")
            print(f"{name}: {one.latency_ms.p50:.4g} ms")


def read_times(runtime: str) -> dict[str, float]:
    with TIMES.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["runtime"] == runtime]
    return {row["model"]: float(row["ms"]) for row in rows}


def counted(name: str) -> Features:
    """Return the features of one inference of a rebuilt network."""
    net = {**PUBLISHED, **REFERENCE}[name]()
    found = count(net.model(), {"x": net.shape})
    return Features(*(found[AS_COUNTED.get(kind, kind)] for kind in KINDS))


def errors_here(mixed: Mixed, runtime: str, known_by: str) -> dict[str, float]:
    """Return log(measured / predicted) of each model here, its family held out of the costs."""
    times, family = read_times(runtime), families(mixed.rows)
    works = {name: counted(name) for name in times}
    of_model, errors = {row.model: row.family for row in mixed.rows}, {}
    models = [name for name in times if name in of_model]
    for held in sorted({of_model[name] for name in models}):
        others = [name for name in models if of_model[name] != held]
        seen = others if known_by == BY_OTHERS else [n for n in times if n in REFERENCE]
        timings = [(works[name], times[name]) for name in seen]
        basis = calibrated(server_basis(mixed, family != held), timings, "models run here")
        assert basis.floats is not None
        costs = np.array([getattr(basis.floats, kind).value for kind in KINDS])
        for name in (n for n in models if of_model[n] == held):
            errors[name] = float(np.log(times[name] / (_work(works[name]) @ costs)))
    return errors


def _work(features: Features) -> Floats:
    return np.array([getattr(features, AS_COUNTED.get(kind, kind)) for kind in KINDS])


def server_basis(mixed: Mixed, known: np.ndarray) -> PredictionBasis:
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


def errors_of_hosts(mixed: Mixed) -> dict[str, dict[str, float]]:
    """Return by host its error on each float model, the model's family held out."""
    found = held_out(mixed)
    hosts = {
        f"published {name}": {
            row.model: float(error)
            for row, error in zip(found.rows, found.error, strict=True)
            if row.device == name
        }
        for name in SERVERS
    }
    hosts[f"onnxruntime here, {BY_OTHERS}"] = errors_here(mixed, "onnxruntime", BY_OTHERS)
    for known_by in (BY_OTHERS, BY_REFERENCES):
        hosts[f"ncnn here, {known_by}"] = errors_here(mixed, "ncnn", known_by)
    return hosts


@dataclass(frozen=True)
class Group:
    """Hold devices' rows: their errors and families, and what one host shows of each."""

    error: Floats
    family: np.ndarray
    shown: Floats

    def by_share(self) -> Floats:
        """Return the errors less a share of the host's, fitted on the other families."""
        left = self.error.copy()
        for name in np.unique(self.family):
            mine = self.family == name
            share = shares(self.shown[~mine][:, None], self.error[~mine])
            left[mine] -= share[0] * self.shown[mine]
        return left

    def beyond(self, threshold: float) -> Floats:
        """Return the errors less what the host's exceeds a threshold by."""
        return self.error - np.sign(self.shown) * np.maximum(0, np.abs(self.shown) - threshold)


def group(found: HeldOut, errors: Mapping[str, float]) -> Group:
    return Group(
        found.error, families(found.rows), np.array([errors[row.net] for row in found.rows])
    )


def lines(found: HeldOut, hosts: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Yield what each host leaves of the rows that it has a time of."""
    yield errors_line("costs alone", found.error)
    for host, errors in hosts.items():
        if any(row.net not in errors for row in found.rows):
            continue
        one = group(found, errors)
        yield errors_line(f"{host}: a share", one.by_share())
        for threshold in THRESHOLDS:
            yield errors_line(f"  what exceeds {threshold:g}", one.beyond(threshold))


def figures(folder: Path, threads: int = 1) -> None:
    """Print the hosts' and the devices' errors, and what moving by them leaves."""
    mixed, _ = load(folder, 1)
    hosts = errors_of_hosts(mixed)
    found = held_out(mixed if threads == 1 else load(folder, threads)[0])
    with_ncnn = set(hosts[f"ncnn here, {BY_OTHERS}"])
    found = found.only(np.array([not r.server and r.net in with_ncnn for r in found.rows]))
    print(f"{threads} thread(s); log errors:", *hosts, "devices", sep="\n  ")
    for name in sorted(with_ncnn):
        own = [e for r, e in zip(found.rows, found.error, strict=True) if r.model == name]
        each = [*(errors.get(name, np.nan) for errors in hosts.values()), float(np.mean(own))]
        print(f"{name:18s}", *(f"{error:+.2f}" for error in each))
    int8 = np.array([row.int8 for row in found.rows])
    both = np.array([row.net in REBUILT for row in found.rows])
    for title, rows in (
        ("floats", ~int8),
        ("floats that ONNX Runtime was timed on too", ~int8 & both),
        ("int8, by their float twin", int8),
        ("all", np.ones(len(int8), bool)),
    ):
        print(f"\n{title}", *lines(found.only(rows), hosts), sep="\n  ")


def main(tables: str, task: str, *names: str) -> int:
    match task:
        case "work":
            compare_work(Path(tables))
        case "measure":
            measure(names or [*REBUILT])
        case "figures":
            figures(Path(tables), int(names[0]) if names else 1)
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
