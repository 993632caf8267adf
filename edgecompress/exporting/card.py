"""The model card: what the bundled model is for, how good it is, where it ends, how it was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from edgecompress import __version__
from edgecompress.records import Arm, BudgetCheck, Candidate, Kind, Metric, Report
from edgecompress.tasks.task import Arrays


def model_card(
    report: Report,
    inputs: Arrays,
    class_names: Sequence[str],
    samples: Mapping[str, int],
    reads_texts: bool = False,
    kind: Kind = "classification",
) -> str:
    """Return the card as Markdown; `samples` are the sizes of the data's splits.

    `reads_texts` says that the bundle holds a tokenizer; `kind` is the task's.
    """
    sections = {
        "Intended use": _use(report, inputs, class_names, kind),
        "Verdict": _verdict(report),
        "Accuracy": _accuracy(report),
        "Data": _data(report, samples),
        "How it was made": _history(report),
        "Limits": _limits(report),
        "Use": (*_usage(), *(_text_usage() if reads_texts else ())),
    }
    title = f"# {report.task}: {report.chosen}\n"
    parts = [f"## {name}\n\n" + "\n".join(lines) + "\n" for name, lines in sections.items()]
    return "\n".join([title, *parts])


def answer_in_words(kind: Kind, class_names: Sequence[str]) -> str:
    """Return what the model's output means to an app.

    >>> answer_in_words("binary", ("ham", "spam"))
    'one logit, above 0 for spam; 1 / (1 + exp(-logit)) is how likely that is'
    """
    named = ", ".join(class_names[:20]) + (", ..." if len(class_names) > 20 else "")
    named = f" ({named})" if named else ""
    count = f" of {len(class_names)}" if class_names else ""
    match kind:
        case "classification":
            return f"one{count} classes{named}" if class_names else "the model's output"
        case "binary":
            yes = class_names[1] if len(class_names) == 2 else "label 1"
            return f"one logit, above 0 for {yes}; 1 / (1 + exp(-logit)) is how likely that is"
        case "multilabel":
            return f"one logit for each{count} labels{named}, above 0 where it holds"
        case "regression":
            return "numbers in the unit of the labels"
        case "embedding":
            return "a vector, to be compared with others of this model"
        case "tokens":
            return f"one{count} classes{named} for each token, the classes on the second axis"


def _use(report: Report, inputs: Arrays, class_names: Sequence[str], kind: Kind) -> Iterator[str]:
    shapes = ", ".join(
        f"`{name}` ({array.dtype}, {' x '.join(map(str, array.shape[1:])) or 'one number'})"
        for name, array in inputs.items()
    )
    answer = answer_in_words(kind, class_names)
    yield f"Task `{report.task}`: from {shapes} to {answer}, on devices like `{report.profile}`."
    yield "It was scored on this task's data alone; expect nothing of it elsewhere."


def _verdict(report: Report) -> Iterator[str]:
    yield f"**{report.verdict.status.upper()}** on `{report.profile}`: {report.verdict.reason}"
    if report.verdict.checks:
        yield "\n| budget | limit | value | interval | status | basis |"
        yield "|---|--:|--:|--:|---|---|"
        yield from map(_check_row, report.verdict.checks)


def _check_row(check: BudgetCheck) -> str:
    known = check.low is not None and check.high is not None
    interval = f"{check.low:.4g} to {check.high:.4g}" if known else "-"
    value = "-" if check.value is None else f"{check.value:.4g}"
    return (
        f"| {check.budget} | {check.limit:g} {check.unit} | {value} | {interval} "
        f"| {check.status.upper()} | {check.basis} |"
    )


def _accuracy(report: Report) -> Iterator[str]:
    rows = [
        ("this model", report.best),
        ("hard-label control", report.control),
        ("teacher", report.teacher),
    ]
    yield "| model | metric | value | 95 % interval | split | bytes |"
    yield "|---|---|--:|--:|---|--:|"
    for name, candidate in rows:
        if candidate is not None:
            for metric in _metrics(candidate):
                yield (
                    f"| {name} | {metric.name} | {metric.value:.4f} "
                    f"| {metric.low:.4f} to {metric.high:.4f} | {metric.split} "
                    f"| {candidate.model.size_bytes:,} |"
                )


def _metrics(candidate: Candidate) -> list[Metric]:
    return [evaluation.metric for evaluation in candidate.evaluations]


def _data(report: Report, samples: Mapping[str, int]) -> Iterator[str]:
    sizes = ", ".join(f"{count:,} {name}" for name, count in samples.items())
    yield f"Samples: {sizes}. Models were chosen on validation; the test split was read"
    yield f"{report.test_reads} time(s). The files of the data are not part of this bundle."


def _history(report: Report) -> Iterator[str]:
    for training in report.trainings:
        yield (
            f"- {training.stage}: {training.parameters:,} parameters, shipped the "
            f"{training.shipped} arm ({_scores(training.arms)})"
        )
    for pruning in report.prunings:
        yield (
            f"- pruned: {pruning.asked} asked, {pruning.went} went, MACs "
            f"{pruning.macs_before:,} to {pruning.macs_after:,}"
        )
    if report.best is not None:
        parity = report.best.parity
        agreement = f"; {parity.agreement:.1%} agreement with {parity.reference}" if parity else ""
        yield f"- exported as {report.best.scheme}{agreement}"
    versions = ", ".join(f"{name} {value}" for name, value in report.environment.items())
    yield f"- by edgecompress {__version__} with {versions or 'unrecorded libraries'}"


def _scores(arms: Sequence[Arm]) -> str:
    several = len({arm.seed for arm in arms}) > 1
    named = ((f"{a.name}, seed {a.seed}:" if several else a.name, a.evaluation) for a in arms)
    return ", ".join(f"{name} {e.metric.name} {e.metric.value:.4f}" for name, e in named)


def _limits(report: Report) -> Iterator[str]:
    if report.verdict.status != "pass":
        yield f"- The verdict is {report.verdict.status.upper()}: do not ship it unseen."
    if predicted := [c.budget for c in report.verdict.checks if c.basis == "predicted"]:
        yield f"- Predicted for the device, not measured on it: {', '.join(predicted)}."
    if report.best is not None and report.best.scheme.startswith("int8"):
        yield "- Int8 results may differ slightly between processors; `run.py` tells by how much."
    yield "- Inputs unlike the training data get confident answers too; the model cannot decline."


def _usage() -> Iterator[str]:
    yield "`python run.py` verifies every file against `manifest.json` and the model against its"
    yield "golden outputs; it needs onnxruntime and numpy. `EdgeModel.kt` and `EdgeModel.swift`"
    yield "load the model in an app. `model.ort` is the same model for ONNX Runtime's small mobile"
    yield "builds, which `required_operators.config` tells what to contain. Raw inputs are"
    yield "normalised as `normalization.json` says: `(raw * scale - mean) / std`."


def _text_usage() -> Iterator[str]:
    yield "\nIt reads ids: `tokenizer.json` says how texts become ids, `tokenizer.py` does it"
    yield 'with numpy alone, and `python run.py --text "..."` answers a text. In another language'
    yield "write the same few lines, and hold them against the ids in `golden_texts.json`."
