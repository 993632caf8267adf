"""Give it a teacher, data and a device budget; get back the best ONNX model that fits."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgecompress.distilling.distill import distill as distill
    from edgecompress.estimator import DistilledClassifier as DistilledClassifier
    from edgecompress.exporting.onnx import export as export
    from edgecompress.measuring.latency import measure as measure
    from edgecompress.pipeline.compress import compress as compress
    from edgecompress.profiles import load_profile as load_profile
    from edgecompress.pruning.prune import prune as prune
    from edgecompress.quantizing.schemes import quantize as quantize
    from edgecompress.recipe import load_recipe as load_recipe
    from edgecompress.records import Report as Report
    from edgecompress.report.write import write_report as write_report
    from edgecompress.runtime import onnx_model as onnx_model
    from edgecompress.tasks.task import Metric as Metric
    from edgecompress.tasks.task import Split as Split
    from edgecompress.tasks.task import Task as Task
    from edgecompress.verdict import Evidence as Evidence
    from edgecompress.verdict import judge as judge

# Where each public name lives. They are loaded on first use, so that `import edgecompress`,
# and with it every command that needs no training, does not import torch.
_HOMES = {
    "DistilledClassifier": "edgecompress.estimator",
    "Evidence": "edgecompress.verdict",
    "Metric": "edgecompress.tasks.task",
    "Report": "edgecompress.records",
    "Split": "edgecompress.tasks.task",
    "Task": "edgecompress.tasks.task",
    "compress": "edgecompress.pipeline.compress",
    "distill": "edgecompress.distilling.distill",
    "export": "edgecompress.exporting.onnx",
    "judge": "edgecompress.verdict",
    "load_profile": "edgecompress.profiles",
    "load_recipe": "edgecompress.recipe",
    "measure": "edgecompress.measuring.latency",
    "onnx_model": "edgecompress.runtime",
    "prune": "edgecompress.pruning.prune",
    "quantize": "edgecompress.quantizing.schemes",
    "write_report": "edgecompress.report.write",
}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgecompress' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
