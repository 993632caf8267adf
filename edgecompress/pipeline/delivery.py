"""The bundle of the chosen model: made once, and put where the user looks for it."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

from edgecompress.exporting.bundle import Bundle, write_bundle
from edgecompress.exporting.contents import BundleContents
from edgecompress.exporting.golden import rows_as_calls
from edgecompress.pipeline.folding import inputs_of
from edgecompress.pipeline.run import Run
from edgecompress.records import Report
from edgecompress.store import StageCode, file_digest, replace_folder

BUNDLE = StageCode("bundle", ("exporting", "tasks/tokenizers.py"), ("onnx", "onnxruntime"))
GOLDEN_CALLS = 8


def deliver(run: Run, report: Report) -> Path | None:
    """Write `bundle/` in the run folder and return it; None when no model was chosen.

    An intact bundle of the same model and verdict is left as it is.
    """
    if report.best is None:
        return None
    key = {
        "model": report.best.model.sha256,
        "verdict": asdict(report.verdict),
        "profile": report.profile,
        "settings": report.settings,
        "environment": report.environment,
        "task": run.fingerprint,
        "test_reads": report.test_reads,
        "intended_use": run.task.intended_use,
    }
    raw = inputs_of(run, report.best, run.task.validation.take(slice(0, GOLDEN_CALLS)).inputs)
    contents = BundleContents(
        report=report,
        calls=rows_as_calls(raw, GOLDEN_CALLS),
        class_names=run.task.class_names,
        normalization={} if report.best.unfolded else run.task.normalization,
        tokenizer=run.task.tokenizer,
        kind=run.task.kind,
        intended_use=run.task.intended_use,
        samples={
            "train": len(run.task.train),
            "validation": len(run.task.validation),
            "test": len(run.task.test),
        },
    )
    made = run.store.once(
        BUNDLE, Bundle, key, lambda folder: write_bundle(folder / "bundle", contents)
    )
    final = run.store.folder / "bundle"
    if run.store.crew.leads and not _intact(made, final):
        copy = final.with_name(".bundle.partial")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(made.folder, copy)
        replace_folder(copy, final)
    return final


def _intact(made: Bundle, folder: Path) -> bool:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(names) == sorted(f.path.name for f in (*made.files, made.manifest)) and all(
        file_digest(folder / f.path.name) == f.sha256 for f in (*made.files, made.manifest)
    )
