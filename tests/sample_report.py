"""Build reports by hand, so that their renderings can be tested without a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from edgecompress.records import (
    Arm,
    Artifact,
    BudgetCheck,
    Candidate,
    EpochPoint,
    Evaluation,
    Figures,
    LatencySamples,
    Measurement,
    Metric,
    OnnxModel,
    Parity,
    Prediction,
    PruningOutcome,
    Quantiles,
    Removed,
    Report,
    SplitName,
    TeacherScore,
    TrainedNetwork,
    Verdict,
)

FOLDER = Path("/runs/digits")
DIGEST = "0123456789abcdef" * 4


def evaluation(value: float, split: SplitName, count: int = 500, seed: int = 0) -> Evaluation:
    draws = np.random.default_rng(seed).permutation(count)
    scores = tuple(float(d >= round((1 - value) * count)) for d in draws)
    mean = sum(scores) / count
    half = 1.96 * (mean * (1 - mean) / count) ** 0.5
    return Evaluation(
        Metric("accuracy", mean, max(0.0, mean - half), min(1.0, mean + half), split), scores
    )


def quantiles(p50: float, tail: float = 1.1) -> Quantiles:
    return Quantiles(p50, p50 * (1 + (tail - 1) / 2), p50 * tail, p50 * tail * 1.1)


def measurement(p50: float, processes: int = 5, calls: int = 200) -> Measurement:
    rng = np.random.default_rng(round(p50 * 1e4))
    runs = []
    for _ in range(processes):
        net = p50 * rng.normal(1, 0.01) * (1 + rng.gamma(1.2, 0.03, calls))
        waited = np.where(rng.random(calls) < 0.02, rng.exponential(p50, calls), 0.0)
        runs.append(
            LatencySamples(
                tuple((net + waited).round(5).tolist()),
                tuple(waited.round(5).tolist()),
                20,
                12 + 10 * p50,
                3_000_000,
                2_000_000,
            )
        )
    return Measurement(
        tuple(runs),
        quantiles(p50),
        quantiles(p50, 1.3),
        12 + 10 * p50,
        3_000_000,
        1,
        1,
        "Xeon at 2.1 GHz, 2 cores",
        ("the clock frequency could not be fixed",),
    )


def candidate(
    label: str,
    p50: float = 0.1,
    accuracy: float = 0.97,
    size: int = 118_300,
    *,
    test: bool = False,
    predicted: bool = True,
) -> Candidate:
    splits: tuple[SplitName, ...] = ("validation", "test") if test else ("validation",)
    return Candidate(
        label,
        OnnxModel(FOLDER / "stages" / f"{label}.onnx", DIGEST, size),
        "static" if "int8" in label else "float",
        Parity("torch", 256, 1.2e-6, 3.1e-7, 1.0, True, "outputs agree"),
        tuple(evaluation(accuracy, split, seed=len(label)) for split in splits),
        measurement(p50),
        Prediction(quantiles(3 * p50, 1.5), 1 / 3, 3.0, 1.5, "published ratio of core classes")
        if predicted
        else None,
    )


def figures(nll: float = 0.21, agreement: float | None = 0.96) -> Figures:
    return Figures(nll, 0.0312, agreement, 0.557, 0.541, 0.573)


def repeated(seeds: int = 3) -> TrainedNetwork:
    """Return a training whose arms were repeated, a pool's and two peers' among them."""
    base = training()
    arms = tuple(
        replace(
            base.arms[0],
            name=name,
            seed=seed,
            evaluation=evaluation(0.9 + 0.01 * place + 0.002 * seed, "validation", seed=1),
            figures=figures(0.2 + 0.01 * seed),
        )
        for seed in range(seeds)
        for place, name in enumerate(("control", "pseudo", "codistilled", "distilled"))
    )
    teacher = TeacherScore(evaluation(0.98, "validation"), figures(0.05, None), trained_here=False)
    return replace(base, arms=arms, seed=seeds - 1, teacher=teacher)


def training(stage: str = "distill", gain: float = 0.02, epochs: int = 12) -> TrainedNetwork:
    def arm(name: str, final: float, seed: int) -> Arm:
        curve = tuple(
            EpochPoint(e, 2.0 * 0.8**e, final * (1 - 0.5 * 0.6**e), 1.5) for e in range(1, epochs)
        )
        weights = Artifact(FOLDER / "stages" / stage / f"{name}.safetensors", DIGEST, 60_000)
        return Arm(name, weights, evaluation(final, "validation", seed=seed), curve)

    arms = (arm("distilled", 0.95 + gain, 1), arm("control", 0.95, 1))
    return TrainedNetwork(stage, arms, "distilled", None, 7_810, "higher validation accuracy")


def pruning() -> PruningOutcome:
    plan = Artifact(FOLDER / "stages" / "prune" / "plan.json", DIGEST, 900)
    weights = Artifact(FOLDER / "stages" / "prune" / "weights.safetensors", DIGEST, 40_000)
    return PruningOutcome(
        plan, weights, 0.3, 0.25, 1_000_000, 560_000, 7_810, 4_600, Removed(0.5, 2, 4)
    )


def passing() -> Report:
    checks = (
        BudgetCheck(
            "latency_ms.p95", "ms", 50.0, 0.45, 0.15, 1.35, "pass", "predicted",
            "the upper end of the interval, 1.35 ms, fits",
        ),
        BudgetCheck(
            "peak_memory_mb", "MB", 150.0, 3.0, None, None, "pass", "host",
            "3 MB on this machine",
        ),
        BudgetCheck(
            "model_size_mb", "MB", 10.0, 0.1183, 0.1183, 0.1183, "pass", "exact", "118300 bytes"
        ),
        BudgetCheck(
            "accuracy_drop", "", 0.01, 0.002, -0.003, 0.007, "pass", "measured",
            "paired over 500 test samples",
        ),
    )  # fmt: skip
    return Report(
        verdict=Verdict("pass", checks, "every budget is met"),
        profile="android-cpu",
        task="digits",
        chosen="student-int8-static",
        candidates=(
            candidate("student-float", 0.21, 0.974, 412_000),
            candidate("student-int8-static", 0.10, 0.972, 118_300, test=True),
            candidate("student-int8-dynamic", 0.31, 0.973, 121_000),
            replace(
                candidate("pruned-int8-static", 0.08, 0.941, 80_100),
                dropped="accuracy on validation is 0.032 lower",
            ),
        ),
        teacher=candidate("teacher", 1.07, 0.984, 2_830_000, test=True),
        control=candidate("control", 0.10, 0.957, 118_300, test=True),
        trainings=(training(), training("redistill", -0.03)),
        prunings=(pruning(),),
        test_reads=1,
        environment={"cpu": "Xeon at 2.1 GHz", "onnxruntime": "1.31.1", "torch": "2.13.0"},
        settings={"seed": 0, "distill": {"temperature": 4.0, "epochs": 12}},
        notes=("the pruned model was not faster, so the unpruned one ships",),
        folder=FOLDER,
    )


def failing() -> Report:
    found = passing()
    slow = replace(
        found.verdict.checks[0], limit=0.3, value=0.45, low=0.41, high=0.49, status="fail",
        basis="measured", reason="p95 is 0.45 ms, the lower bound 0.41 ms exceeds 0.3 ms",
    )  # fmt: skip
    better = replace(found.verdict.checks[3], value=-0.004, low=-0.009, high=0.001)
    checks = (slow, *found.verdict.checks[1:3], better)
    return replace(
        found,
        profile="cpu-1core",
        verdict=Verdict("fail", checks, "latency_ms.p95 is exceeded"),
        candidates=tuple(replace(c, prediction=None) for c in found.candidates),
    )


def undecided() -> Report:
    found = passing()
    check = BudgetCheck(
        "latency_ms.p95", "ms", 1.0, 0.45, 0.15, 1.35, "inconclusive", "predicted",
        "the limit lies inside the interval 0.15 to 1.35 ms; measure on the device",
    )  # fmt: skip
    verdict = Verdict("inconclusive", (check,), "latency_ms.p95 is not decided")
    return replace(found, verdict=verdict)


def bare() -> Report:
    """Return what `check MODEL.onnx` makes: one candidate, no teacher, no scores."""
    found = failing()
    model = replace(
        candidate("model.onnx"),
        model=OnnxModel(Path("/elsewhere/model.onnx"), DIGEST, 118_300),
        evaluations=(),
        parity=None,
        prediction=None,
    )
    return replace(
        found, task="", chosen="model.onnx", candidates=(model,), teacher=None, control=None,
        trainings=(), prunings=(), test_reads=0, settings={}, notes=(),
    )  # fmt: skip


def nothing() -> Report:
    """Return a report in which no candidate passed parity."""
    found = bare()
    dropped = replace(
        found.candidates[0], measurement=None, dropped="outputs differ from the torch model's"
    )
    check = BudgetCheck(
        "latency_ms.p95", "ms", 50.0, None, None, None, "inconclusive", "none", "no model left"
    )
    return replace(
        found,
        chosen=None,
        candidates=(dropped,),
        verdict=Verdict("inconclusive", (check,), "no candidate passed parity"),
    )


ALL = {
    "pass": passing,
    "fail": failing,
    "inconclusive": undecided,
    "bare": bare,
    "nothing": nothing,
}
