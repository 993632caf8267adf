"""Bundle an ONNX file that somebody else made: no task, no recipe, and nothing made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from edgecompress.admission import messages
from edgecompress.errors import ModelError
from edgecompress.exporting.contents import BundleContents, one_line
from edgecompress.exporting.golden import rows_as_calls
from edgecompress.graphs import About, about_of
from edgecompress.records import Candidate, Evaluation, Kind, OnnxModel, Report, Verdict
from edgecompress.runtime import ModelFacts
from edgecompress.store import artifact, library_version, write_atomic
from edgecompress.tasks.task import Arrays

CALLS = 8
_MOST_BYTES = 2**31 - 1  # of one protobuf file
_MADE_UP = "The golden inputs are made up: meeting them proves the file, not what it is worth."
# Where a file says who wrote a node, and in which folder; the model's own metadata stay.
_ORIGINS = ("doc_string", "metadata_props")


def foreign_contents(
    facts: ModelFacts,
    label: str,
    calls: Sequence[Arrays],
    evaluations: Sequence[Evaluation],
    made_up: bool,
    scratch: Path,
) -> BundleContents:
    """Return what a bundle of an admitted file is made of; its model is written into `scratch`.

    `made_up` says that the calls are: the card then says so too.
    """
    model, about = _portable(facts.model, scratch / "model.onnx")
    label = one_line(label)
    names = about.labels if _fit(about, facts.outputs[0].shape) else ()
    candidate = Candidate(label, model, _scheme(facts), None, tuple(evaluations), None, None)
    report = Report(
        verdict=Verdict("inconclusive", (), "not judged; `edgecompress check` judges it"),
        profile="",
        task=label,
        chosen=label,
        candidates=(candidate,),
        teacher=None,
        control=None,
        trainings=(),
        prunings=(),
        test_reads=0,
        environment={"onnxruntime": library_version("onnxruntime")},
        settings={},
        notes=(_MADE_UP,) * made_up,
        folder=scratch,
    )
    guessed: Kind | None = "classification" if names or evaluations else None
    return BundleContents(report, tuple(calls), names, kind=about.kind or guessed)


def _fit(about: About, shape: tuple[int | None, ...]) -> bool:
    """Return whether a model's labels can be those of its output."""
    axis = slice(1, 2) if about.kind == "tokens" else slice(-1, None)
    count = 1 if about.kind == "binary" else len(about.labels)
    return shape[axis] in ((None,), (count,)) and (about.kind != "binary" or len(about.labels) == 2)


def calls_of(facts: ModelFacts, samples: Arrays) -> tuple[Arrays, ...]:
    """Return the first samples as calls: one each, or as many as the model fixes."""
    fixed = (t.shape[0] for t in facts.inputs if t.shape and t.shape[0] is not None)
    return rows_as_calls(samples, CALLS, max(fixed, default=1))


def _portable(given: OnnxModel, path: Path) -> tuple[OnnxModel, About]:
    """Write the model as one file that says nothing of where it was made; return what it says.

    A file that is so already keeps its bytes.
    """
    original = onnx.load(given.path)
    model = onnx.ModelProto()
    model.CopyFrom(original)
    for message in messages(model.graph):
        for field in _ORIGINS:
            if field in message.DESCRIPTOR.fields_by_name:
                message.ClearField(field)
    if model.ByteSize() > _MOST_BYTES:
        raise ModelError(f"{given.path}: is over 2 GB with its weights, too large for one file")
    data = given.path.read_bytes()
    whole = onnx.ModelProto.FromString(data)
    write_atomic(path, data if whole == model else model.SerializeToString(deterministic=True))
    return artifact(path, OnnxModel), about_of(original)


def _scheme(facts: ModelFacts) -> str:
    """Return in what numbers the model computes, as far as it matters to other processors."""
    few = ("QuantizeLinear", "QLinear", "Integer", "NBits")
    return "int8" if any(part in name for name in facts.operators for part in few) else "given"
