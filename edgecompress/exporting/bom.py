"""The bill of materials of a bundle: a CycloneDX 1.6 ML-BOM with the same bytes every time."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from edgecompress import __version__
from edgecompress.exporting.card import answer_in_words, limits
from edgecompress.exporting.contents import BundleContents, FileFacts, Made
from edgecompress.store import digest_of

_MODEL, _RUNTIME = "model", "onnxruntime"
_TASKS = {
    "classification": "classification",
    "binary": "binary classification",
    "multilabel": "multi-label classification",
    "regression": "regression",
    "embedding": "embedding",
    "tokens": "token classification",
}
_Component = dict[str, Any]


def ml_bom(contents: BundleContents, made: Made) -> dict[str, Any]:
    """Return the document: the model with its card, the data, and the runtime that it needs.

    It holds no time, and its serial number follows from what it says, so that equal bundles have
    equal ones. See cyclonedx.org/docs/1.6/json.
    """
    model, data = _model(contents, made), list(_data(contents))
    files = [
        _file(name, facts)
        for name, facts in made.files.items()
        if name in ("model.onnx", "model.ort", "tokenizer.json", "labels.txt")
    ]
    parts: dict[str, Any] = {
        "metadata": {
            "tools": {"components": [_component("application", "edgecompress", __version__)]},
            "component": model,
        },
        "components": [*files, *data, _runtime(made)],
        "dependencies": [
            {"ref": _MODEL, "dependsOn": [c["bom-ref"] for c in (*files, *data, _runtime(made))]}
        ],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_OID, digest_of(parts))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        **parts,
    }


def _model(contents: BundleContents, made: Made) -> _Component:
    report = contents.report
    kept = made.files["model.onnx"]
    return {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": report.task,
        "description": f"{report.chosen}, in ONNX",
        "version": kept.sha256[:12],
        "hashes": _hashes(kept),
        "modelCard": {
            "modelParameters": _parameters(contents, made),
            "quantitativeAnalysis": {"performanceMetrics": list(_metrics(contents))},
            "considerations": {
                "useCases": [contents.intended_use.strip() or "not written down by its author"],
                "technicalLimitations": [line.removeprefix("- ") for line in limits(report)],
            },
        },
    }


def _parameters(contents: BundleContents, made: Made) -> dict[str, Any]:
    tensors = made.golden.calls[0].items()
    known = {"task": _TASKS[contents.kind]} if contents.kind else {}
    approach = {"approach": {"type": "supervised"}} if contents.samples else {}
    return {
        **approach,
        **known,
        "datasets": [{"ref": part["bom-ref"]} for part in _data(contents)],
        "inputs": [{"format": f"{name}: {a.dtype} {list(a.shape)}"} for name, a in tensors],
        "outputs": [{"format": answer_in_words(contents.kind, contents.labels)}],
    }


def _metrics(contents: BundleContents) -> Iterator[dict[str, Any]]:
    best = contents.report.best
    for evaluation in best.evaluations if best is not None else ():
        metric = evaluation.metric
        yield {
            "type": metric.name,
            "value": f"{metric.value:.6g}",
            "slice": metric.split,
            "confidenceInterval": {
                "lowerBound": f"{metric.low:.6g}",
                "upperBound": f"{metric.high:.6g}",
            },
        }


def _data(contents: BundleContents) -> Iterator[_Component]:
    """Yield the splits as data components; nobody told us where they came from."""
    for name, count in contents.samples.items():
        described = f"{count} samples of the task's {name} split; their origin is not known here"
        yield {
            "type": "data",
            "bom-ref": f"data-{name}",
            "name": f"{contents.report.task}, {name}",
            "description": described,
            "data": [{"type": "dataset", "name": name, "description": described}],
        }


def _file(name: str, facts: FileFacts) -> _Component:
    return {"type": "file", "bom-ref": name, "name": name, "hashes": _hashes(facts)}


def _runtime(made: Made) -> _Component:
    version = made.runtime_version
    return {
        **_component("library", "onnxruntime", version),
        "bom-ref": _RUNTIME,
        "description": "the version that the golden answers are from",
        "purl": f"pkg:pypi/onnxruntime@{version}",
    }


def _component(kind: str, name: str, version: str) -> _Component:
    return {"type": kind, "name": name, "version": version}


def _hashes(facts: FileFacts) -> list[Mapping[str, str]]:
    return [{"alg": "SHA-256", "content": facts.sha256}]
