"""Set weights to zero three ways; see what accuracy, download and time become of it.

    python benchmarks/pruning/sparsity.py

On scikit-learn's digits: a residual net is trained, then made sparse in one go, in one go with
fine-tuning, and step by step (cubic schedule, arXiv:1710.01878) with as much fine-tuning. Prints
tables; writes `sparsity.csv` and `sparsity.svg` beside this file.
"""

from __future__ import annotations

import csv
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from statistics import median

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from torch import Tensor, nn

from edgecompress.errors import PruningError
from edgecompress.exporting.download import download_bytes
from edgecompress.exporting.onnx import export
from edgecompress.pruning.masks import Masks, prune_weights
from edgecompress.recipe import PruneSettings
from edgecompress.runtime import session
from edgecompress.students.image import ResidualNet

HERE = Path(__file__).parent
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
SEEDS, EPOCHS, TUNING, STEPS, BATCH = (0, 1, 2), 30, 16, 8, 64
WAYS = ("one go", "one go, tuned", "gradual, tuned")


@dataclass(frozen=True)
class Point:
    """Hold what became of one pruning; `sparsity` 0 is the dense network."""

    seed: int
    way: str
    scope: str
    sparsity: float
    accuracy: float
    file_bytes: int
    download_bytes: int


@dataclass(frozen=True)
class Digits:
    """Hold training and validation images, and their labels."""

    x: Tensor
    y: Tensor
    seen_x: Tensor
    seen_y: Tensor

    @staticmethod
    def drawn(seed: int) -> Digits:
        raw = load_digits()
        order = np.random.default_rng(seed).permutation(len(raw.target))
        x = torch.tensor(raw.images[order] / 16, dtype=torch.float32).unsqueeze(1)
        y = torch.tensor(raw.target[order])
        return Digits(x[:1200], y[:1200], x[1200:], y[1200:])


def train(net: nn.Module, masks: Masks, digits: Digits, epochs: int, rate: float) -> None:
    """Train in place with a cosine; weights under the masks stay at zero."""
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=1e-3)
    total = epochs * (len(digits.x) // BATCH)
    drawn = torch.Generator().manual_seed(0)
    for step in range(total):
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + np.cos(np.pi * step / total))
        rows = torch.randint(len(digits.x), (BATCH,), generator=drawn)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net.train()(digits.x[rows]), digits.y[rows]).backward()
        masks(net, step)
        optimizer.step()
    net.eval()


def measured(net: nn.Module, digits: Digits, path: Path) -> tuple[float, int, int]:
    """Return accuracy on validation, the size of the ONNX file, and that of its download."""
    with torch.no_grad():
        right = net.eval()(digits.seen_x).argmax(1) == digits.seen_y
    model = export(net, {"image": digits.seen_x[:1].numpy()}, path)
    return right.float().mean().item(), model.size_bytes, download_bytes(path)


def sparse(
    dense: nn.Module, way: str, scope: str, sparsity: float, digits: Digits
) -> nn.Module | None:
    """Return the pruned network; None where a layer would be left without weights."""
    steps = STEPS if way.startswith("gradual") else 1
    asked = PruneSettings.model_validate(
        {"kind": "unstructured", "pruning_ratio": sparsity, "scope": scope, "steps": steps}
        | {"schedule": "cubic"}
    )
    tune = partial(train, digits=digits, epochs=TUNING // steps, rate=2e-3)
    try:
        return prune_weights(dense, asked, None if way == WAYS[0] else tune).module
    except PruningError as error:
        print(f"refused: {error}", file=sys.stderr)
        return None


def points(folder: Path) -> Iterator[Point]:
    for seed in SEEDS:
        torch.manual_seed(seed)
        digits, dense = Digits.drawn(seed), ResidualNet(1, 10, (24, 48), (1, 1))
        train(dense, Masks({}), digits, EPOCHS, 5e-3)
        yield Point(seed, "dense", "", 0.0, *measured(dense, digits, folder / f"dense-{seed}.onnx"))
        for way in WAYS:
            for scope in ("global", "local"):
                for sparsity in SPARSITIES:
                    net = sparse(dense, way, scope, sparsity, digits)
                    path = folder / f"{way}-{scope}-{sparsity}-{seed}.onnx"
                    if net is not None:
                        yield Point(seed, way, scope, sparsity, *measured(net, digits, path))
        print(f"seed {seed} done", file=sys.stderr, flush=True)


def speed(folder: Path) -> str:
    """Return the times of a dense and a sparse network, called in turn.

    It is wider than the one above, so that its products and not its calls take the time.
    """
    torch.manual_seed(0)
    dense = ResidualNet(3, 10, (64, 128), (2, 2)).eval()
    asked = PruneSettings(kind="unstructured", pruning_ratio=0.9)
    image = {"image": np.ones((1, 3, 32, 32), np.float32)}
    nets = {"dense": dense, "sparse": prune_weights(dense, asked).module}
    sessions = [session(export(net, image, folder / name).path) for name, net in nets.items()]
    taken: list[list[float]] = [[], []]
    for _ in range(400):
        for opened, times in zip(sessions, taken, strict=True):
            started = time.perf_counter()
            opened.run(None, image)
            times.append(time.perf_counter() - started)
    whole, thin = (1e3 * median(times[50:]) for times in taken)
    return (
        f"ONNX Runtime on one CPU core, a residual net of 64 and 128 channels: dense {whole:.2f} "
        f"ms, 90 % zeros {thin:.2f} ms ({thin / whole:.2f} of the time)."
    )


def table(found: list[Point]) -> str:
    rows = [
        "| zeros | of | one go | tuned | gradual, tuned | file | download |\n"
        "|--:|---|--:|--:|--:|--:|--:|"
    ]
    dense = [p for p in found if p.way == "dense"]
    rows.append(_row("0 %", "", [dense], dense))
    for scope in ("global", "local"):
        for sparsity in SPARSITIES:
            here = [p for p in found if (p.scope, p.sparsity) == (scope, sparsity)]
            cells = [[p for p in here if p.way == way] for way in WAYS]
            rows.append(_row(f"{sparsity:.0%}".replace("%", " %"), scope, cells, cells[2]))
    return "\n".join(rows)


def _row(zeros: str, scope: str, cells: list[list[Point]], sizes: list[Point]) -> str:
    shown = [f"{100 * np.mean([p.accuracy for p in c]):.1f} %" if c else "refused" for c in cells]
    shown += [""] * (3 - len(shown))
    bytes_ = [
        f"{np.mean([getattr(p, name) for p in sizes]) / 1e3:.0f} kB" if sizes else ""
        for name in ("file_bytes", "download_bytes")
    ]
    return f"| {zeros} | {scope} | {' | '.join(shown + bytes_)} |"


def plot(found: list[Point], path: Path) -> None:
    mpl.rcParams["svg.hashsalt"] = "sparsity"
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    dense = np.mean([p.accuracy for p in found if p.way == "dense"])
    axes.axhline(100 * dense, color="grey", linewidth=1, label="dense")
    for way, colour in zip(WAYS, ("tab:red", "tab:orange", "tab:blue"), strict=True):
        for scope, line in (("global", "-"), ("local", "--")):
            mine = [p for p in found if (p.way, p.scope) == (way, scope)]
            x = sorted({p.sparsity for p in mine})
            y = [100 * np.mean([p.accuracy for p in mine if p.sparsity == s]) for s in x]
            axes.plot(
                [100 * s for s in x], y, line, color=colour, marker=".", label=f"{way}, {scope}"
            )
    axes.set(xlabel="weights at zero, %", ylabel="accuracy on validation, %")
    axes.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        found = list(points(Path(temporary)))
        times = speed(Path(temporary))
    with (HERE / "sparsity.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Point)])
        writer.writeheader()
        writer.writerows(asdict(point) for point in found)
    plot(found, HERE / "sparsity.svg")
    print(f"{table(found)}\n\n{times}")


if __name__ == "__main__":
    main()
