"""Few noisy labels: what soft targets change in a student's fit, in one dimension.

A label is 1 with probability 0.4 sin(x) + 0.5, and x is normal with standard deviation 10. The
student is logistic in a cubic polynomial, and so cannot know the sine; the teacher is logistic in
sin(x) and cos(x), and can. Teacher and students see the same 10 to 45 points. Every loss is one of
edgecompress; a penalty on the weights, the same for all three, keeps separable points from
driving them to infinity.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgecompress.distilling.kind_losses import labels_hard_loss, labels_soft_loss

SIZES, TRIALS, TEST = tuple(range(10, 50, 5)), 15, 2000
SPREAD, PENALTY = 10.0, 1e-2
STUDENTS = {"hard": "student on the labels", "soft": "student on the teacher's soft targets"}


def truth(x: Tensor) -> Tensor:
    """Return the probability that the label of x is 1."""
    return 0.4 * torch.sin(x) + 0.5


def cubic(x: Tensor) -> Tensor:
    """Return what the student sees of x: 1 and the first three powers of x / 10."""
    return torch.stack([(x / SPREAD) ** power for power in range(4)], dim=-1)


def waves(x: Tensor) -> Tensor:
    """Return what the teacher sees of x: 1, sin(x) and cos(x)."""
    return torch.stack([torch.ones_like(x), torch.sin(x), torch.cos(x)], dim=-1)


def fitted(features: Tensor, loss: Callable[[Tensor], Tensor], penalty: float) -> Tensor:
    """Return the weights (trials, columns) that make `loss` of the logits smallest in each trial.

    `features` has shape (trials, points, columns). The problem is convex, and the mean over trials
    is smallest where each of them is.
    """
    trials, points, columns = features.shape
    weights = torch.zeros(trials, columns, dtype=features.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=500,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        shrink = penalty / (2 * points) * weights.square().sum(dim=1).mean()
        total = loss(logits(features, weights)) + shrink
        total.backward()
        return total

    optimizer.step(closure)
    return weights.detach()


def logits(features: Tensor, weights: Tensor) -> Tensor:
    """Return one logit a point, as a column (trials * points, 1), the shape of a binary task."""
    return (features @ weights[..., None]).reshape(-1, 1)


def log_loss(features: Tensor, weights: Tensor, labels: Tensor) -> Tensor:
    """Return each trial's mean negative log-likelihood in nats."""
    each = zip(features, weights, labels, strict=True)
    return torch.stack([labels_hard_loss(logits(f, w), y[:, None]) for f, w, y in each])


@dataclass(frozen=True)
class Outcome:
    """Hold what came out at one number of points, a number for each trial."""

    points: int
    train: dict[str, Tensor]
    test: dict[str, Tensor]
    variance: dict[str, float]
    fits: dict[str, Tensor]


def experiment(points: int, seed: int = 0, penalty: float = PENALTY) -> Outcome:
    """Draw the trials' points, fit teacher and both students, and score them."""
    draws = torch.Generator().manual_seed(1000 * seed + points)
    x, labels = sample(TRIALS, points, draws)
    x_test, labels_test = sample(TRIALS, TEST, draws)
    on_labels = partial(labels_hard_loss, labels=labels.reshape(-1, 1))
    teacher = fitted(waves(x), on_labels, penalty)
    on_targets = partial(labels_soft_loss, teacher=logits(waves(x), teacher), temperature=1.0)
    models = {
        "teacher": (waves, teacher),
        "hard": (cubic, fitted(cubic(x), on_labels, penalty)),
        "soft": (cubic, fitted(cubic(x), on_targets, penalty)),
    }
    same = torch.randn(TEST, generator=draws, dtype=torch.float64) * SPREAD
    students = {name: torch.sigmoid(cubic(same) @ models[name][1].T) for name in STUDENTS}
    grid = torch.linspace(-20, 20, 201, dtype=torch.float64)
    return Outcome(
        points,
        {name: log_loss(see(x), w, labels) for name, (see, w) in models.items()},
        {name: log_loss(see(x_test), w, labels_test) for name, (see, w) in models.items()},
        {name: float(p.var(dim=1).mean()) for name, p in students.items()},
        {name: torch.sigmoid(cubic(grid) @ models[name][1].T) for name in STUDENTS},
    )


def sample(trials: int, points: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return x and labels, each (trials, points)."""
    x = torch.randn(trials, points, generator=draws, dtype=torch.float64) * SPREAD
    chance = torch.rand(trials, points, generator=draws, dtype=torch.float64)
    return x, (chance < truth(x)).double()


def floor() -> float:
    """Return the log loss of one who knows the truth: the labels' own entropy."""
    p = truth(torch.linspace(-np.pi, np.pi, 10001, dtype=torch.float64))
    return float(-(p * p.log() + (1 - p) * (1 - p).log()).mean())


def table(outcomes: list[Outcome]) -> str:
    """Return one line a number of points: means over the trials."""
    lines = [
        "points  train: hard   soft   test: teacher   hard   soft   soft better"
        "  variance: hard    soft"
    ]
    for o in outcomes:
        better = int((o.test["soft"] < o.test["hard"]).sum())
        lines.append(
            f"{o.points:6d}  {o.train['hard'].mean():11.3f}  {o.train['soft'].mean():5.3f}"
            f"  {o.test['teacher'].mean():13.3f}  {o.test['hard'].mean():5.3f}"
            f"  {o.test['soft'].mean():5.3f}  {better:5d} of {TRIALS}"
            f"  {o.variance['hard']:13.4f}  {o.variance['soft']:6.4f}"
        )
    return "\n".join(lines)


def plot(outcomes: list[Outcome], path: Path) -> None:
    """Draw log loss and the variance of the fit against the number of points, and the fits."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    losses, variances, fits = figure.subplots(1, 3)
    sizes = [o.points for o in outcomes]
    for name, colour in (("hard", "tab:red"), ("soft", "tab:blue"), ("teacher", "tab:green")):
        for split, style in (("train", "--"), ("test", "-")):
            means = [getattr(o, split)[name].mean() for o in outcomes]
            losses.plot(sizes, means, style, color=colour, label=f"{name}, {split}")
    losses.axhline(np.log(2), color="grey", lw=0.8, label="guessing")
    losses.set(xlabel="training points", ylabel="log loss (nats), mean of 15 trials", yscale="log")
    losses.legend(fontsize=7, ncols=2)
    for name, colour in (("hard", "tab:red"), ("soft", "tab:blue")):
        variances.plot(
            sizes, [o.variance[name] for o in outcomes], color=colour, label=STUDENTS[name]
        )
    variances.set(xlabel="training points", ylabel="variance of the fit over trials", yscale="log")
    variances.legend(fontsize=7)
    chosen, grid = outcomes[len(outcomes) // 2], np.linspace(-20, 20, 201)
    for name, colour in (("hard", "tab:red"), ("soft", "tab:blue")):
        low, middle, high = np.quantile(chosen.fits[name].numpy(), (0.1, 0.5, 0.9), axis=1)
        fits.fill_between(grid, low, high, color=colour, alpha=0.25)
        fits.plot(grid, middle, color=colour, label=STUDENTS[name])
    fits.plot(grid, truth(torch.from_numpy(grid)), color="grey", lw=0.8, label="truth")
    fits.set(xlabel="x", ylabel=f"P(label = 1), {chosen.points} points, 10-90 % of trials")
    fits.legend(fontsize=7)
    figure.savefig(path, dpi=90, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description="soft targets where labels are few and noisy")
    parser.add_argument("--plot", type=Path, default=Path(__file__).with_suffix(".png"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--penalty", type=float, default=PENALTY, help="on the squared weights")
    arguments = parser.parse_args()
    outcomes = [experiment(points, arguments.seed, arguments.penalty) for points in SIZES]
    print(table(outcomes))
    print(f"\nknowing the truth {floor():.3f}, guessing {np.log(2):.3f}")
    plot(outcomes, arguments.plot)
    print(f"drawn in {arguments.plot}")


if __name__ == "__main__":
    main()
