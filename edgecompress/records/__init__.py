"""What the stages make: frozen records, plain data, no behaviour beyond reading themselves.

Paths in a record are absolute while the program runs and relative to the stage's folder on disk.
Units stand in the names: `_ms`, `_s`, `_bytes`, `_mb` (10^6 bytes).
"""

from edgecompress.records.basics import (
    Artifact,
    Basis,
    Evaluation,
    Kind,
    Metric,
    OnnxModel,
    SplitName,
    Status,
)
from edgecompress.records.measured import (
    BudgetCheck,
    LatencySamples,
    Measurement,
    Parity,
    Prediction,
    Quantiles,
    UsualPace,
    Verdict,
)
from edgecompress.records.offers import (
    Family,
    StudentChoice,
    StudentOffer,
    StudentSpec,
    StudentTrial,
)
from edgecompress.records.quantized import Controlled
from edgecompress.records.report import Candidate, Report
from edgecompress.records.trained import (
    Arm,
    EpochPoint,
    Figures,
    Inspection,
    Mode,
    PruningOutcome,
    PruningSearch,
    PruningTrial,
    Removed,
    TeacherScore,
    TrainedNetwork,
    Trial,
)

__all__ = [
    "Arm",
    "Artifact",
    "Basis",
    "BudgetCheck",
    "Candidate",
    "Controlled",
    "EpochPoint",
    "Evaluation",
    "Family",
    "Figures",
    "Inspection",
    "Kind",
    "LatencySamples",
    "Measurement",
    "Metric",
    "Mode",
    "OnnxModel",
    "Parity",
    "Prediction",
    "PruningOutcome",
    "PruningSearch",
    "PruningTrial",
    "Quantiles",
    "Removed",
    "Report",
    "SplitName",
    "Status",
    "StudentChoice",
    "StudentOffer",
    "StudentSpec",
    "StudentTrial",
    "TeacherScore",
    "TrainedNetwork",
    "Trial",
    "UsualPace",
    "Verdict",
]
