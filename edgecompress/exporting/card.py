"""The model card: what the bundled model is for, how good it is, where it ends, how it was made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from edgecompress import __version__
from edgecompress.exporting.contents import BundleContents, Made, one_line
from edgecompress.records import Arm, BudgetCheck, Candidate, Kind, Metric, Report

PURPOSES = {
    "README.md": "the model card",
    "model.onnx": "the model, for any build of ONNX Runtime",
    "model.ort": "the same model for ONNX Runtime's small builds, which read nothing else",
    "required_operators.config": "the operators and types that such a build must contain",
    "run.py": "checks the bundle and runs the model; needs onnxruntime and numpy",
    "EdgeModel.kt": "loads, runs and checks the model in an Android app",
    "EdgeModel.swift": "loads, runs and checks the model in an iOS app",
    "labels.txt": "the class names, one a line, in the order of the outputs",
    "normalization.json": "how raw values become inputs: `(raw * scale - mean) / std`",
    "tokenizer.json": "how texts become ids, as data",
    "tokenizer.py": "makes ids of texts in Python; needs numpy",
    "Tokenizer.kt": "makes ids of texts in an Android app",
    "Tokenizer.swift": "makes ids of texts in an iOS app",
    "golden.bin": "inputs and the answers to them, against which every platform checks itself",
    "golden_texts.json": "texts and their ids, against which every tokenizer checks itself",
    "bom.cdx.json": "the bill of materials, in CycloneDX 1.6",
}
"""What each file of a bundle is for; `manifest.json` beside them holds their digests and sizes."""


_UNSAID = ("edgecompress", "host", "cores", "instructions", "system")
"""What a report's environment says of the machine, which stays there, or what is said anyway."""


def model_card(contents: BundleContents, made: Made) -> str:
    """Return the card as Markdown. What is not known is said to be not known."""
    report = contents.report
    sections = {
        "Intended use": _use(contents, made),
        "Verdict": _verdict(report),
        "Accuracy": _accuracy(report),
        "Data": _data(contents),
        "How it was made": _history(report),
        "On phones": _phones(made),
        "Limits": limits(report),
        "Files": _files(contents, made),
    }
    same = report.task == report.chosen
    title = f"# {_shown(report.task if same else f'{report.task}: {report.chosen}')}\n"
    parts = [f"## {name}\n\n" + "\n".join(lines) + "\n" for name, lines in sections.items()]
    return "\n".join([title, *parts])


def _shown(text: str) -> str:
    """Return foreign text so that Markdown, and the HTML inside it, shows it as it is."""
    plain = one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*|\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", plain)


def _code(text: str) -> str:
    return f"`{one_line(text).replace('`', '?')}`"


def answer_in_words(kind: Kind | None, class_names: Sequence[str]) -> str:
    """Return what the model's output means to an app.

    >>> answer_in_words("binary", ("ham", "spam"))
    'one logit, above 0 for spam; 1 / (1 + exp(-logit)) is how likely that is'
    """
    named = ", ".join(class_names[:20]) + (", ..." if len(class_names) > 20 else "")
    named = f" ({named})" if named else ""
    count = f" of {len(class_names)}" if class_names else ""
    match kind:
        case None:
            return "the model's output"
        case "classification":
            each = f"one number for each{count} classes{named}, the largest for the class it is"
            return each if class_names else "the model's output"
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


def _use(contents: BundleContents, made: Made) -> Iterator[str]:
    report = contents.report
    shapes = ", ".join(
        f"{_code(name)} ({array.dtype}, {' x '.join(map(str, array.shape[1:])) or 'one number'})"
        for name, array in made.golden.calls[0].items()
    )
    answer = _shown(answer_in_words(contents.kind, contents.labels))
    where = f"; for devices like {_code(report.profile)}" if report.profile else ""
    output = _code(made.golden.output)
    yield f"Task {_code(report.task)}: from {shapes} to {output}: {answer}{where}."
    if made.about.raw:
        yield "It takes raw values as they are: normalizing them is inside."
    if made.about.answer:
        yield f"It answers {_code(made.about.answer)}."
    if contents.normalization:
        yield "Its inputs are normalized first, as `normalization.json` says."
    if contents.tokenizer is not None:
        yield "`tokenizer.json` makes its input of a text."
    if contents.intended_use:
        yield f"\n{contents.intended_use.strip()}\n"
    else:
        yield "What it is meant for, and for whom, its author has not written down."
    if report.best is not None and report.best.evaluations:
        yield "It was scored on this task's data alone; expect nothing of it elsewhere."


def _verdict(report: Report) -> Iterator[str]:
    where = f" on {_code(report.profile)}" if report.profile else ""
    yield f"**{report.verdict.status.upper()}**{where}: {report.verdict.reason}"
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
    if not any(candidate and candidate.evaluations for _, candidate in rows):
        yield "Not known: it was scored on no data here."
        return
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


def _data(contents: BundleContents) -> Iterator[str]:
    if not contents.samples:
        yield "Not known: what the model was trained on is not written in its file."
        return
    sizes = ", ".join(f"{count:,} {name}" for name, count in contents.samples.items())
    yield f"Samples: {sizes}. Models were chosen on validation; the test split was read"
    yield f"{contents.report.test_reads} time(s). The files of the data are not part of this bundle"
    yield "and where they came from is not known here."


def _history(report: Report) -> Iterator[str]:
    if not report.profile:
        yield "- bundled as it was given; how it was trained is not known"
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
    if report.best is not None and report.profile:
        parity = report.best.parity
        agreement = f"; {parity.agreement:.1%} agreement with {parity.reference}" if parity else ""
        yield f"- exported as {report.best.scheme}{agreement}"
    known = report.environment.items()
    versions = ", ".join(f"{name} {value}" for name, value in known if name not in _UNSAID)
    yield f"- by edgecompress {__version__} with {versions or 'unrecorded libraries'}"


def _scores(arms: Sequence[Arm]) -> str:
    several = len({arm.seed for arm in arms}) > 1
    named = ((f"{a.name}, seed {a.seed}:" if several else a.name, a.evaluation) for a in arms)
    return ", ".join(f"{name} {e.metric.name} {e.metric.value:.4f}" for name, e in named)


def limits(report: Report) -> Iterator[str]:
    """Yield where the model ends, a line each, as the report knows it."""
    if report.verdict.status != "pass":
        yield f"- The verdict is {report.verdict.status.upper()}: do not ship it unseen."
    if predicted := [c.budget for c in report.verdict.checks if c.basis == "predicted"]:
        yield f"- Predicted for the device, not measured on it: {', '.join(predicted)}."
    if report.best is not None and report.best.scheme.startswith("int"):
        yield "- Processors round integers differently: `run.py` tells by how much answers move."
    if not report.profile:
        yield from (f"- {note}" for note in report.notes)
    yield "- Inputs unlike the training data get confident answers too; the model cannot decline."
    yield "- Not looked at: whether it treats groups of people alike, and what misuse could do."


def _phones(made: Made) -> Iterator[str]:
    yield "| file | on disk, bytes | as downloaded, compressed |"
    yield "|---|--:|--:|"
    for name in ("model.onnx", "model.ort"):
        if facts := made.files.get(name):
            yield f"| {name} | {facts.size_bytes:,} | {facts.download_bytes:,} |"
    yield f"\n{made.mobile.verdict}."
    for accelerator in made.mobile.accelerators:
        yield f"- {accelerator.in_words()}"
    if made.mobile.ort_reason:
        yield f"\nThere is no `model.ort`: {made.mobile.ort_reason}."


def _files(contents: BundleContents, made: Made) -> Iterator[str]:
    yield "`python run.py` verifies every file against `manifest.json` and the model against its"
    yield "golden answers."
    if contents.tokenizer is not None:
        yield '`python run.py --text "..."` answers a text.'
    yield "\n| file | what it is for |"
    yield "|---|---|"
    for name, purpose in PURPOSES.items():
        if name in made.files or name == "bom.cdx.json":
            yield f"| {name} | {purpose} |"
    yield "| manifest.json | digests, sizes, the verdict, how golden.bin is laid out |"
