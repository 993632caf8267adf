"""Look at this machine: what it is, what is installed, and what a measurement here will lack."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

from edgecompress import __version__
from edgecompress.measuring.host import Host, describe_host
from edgecompress.measuring.pace import KNOWN, usual_pace
from edgecompress.records import UsualPace

LIBRARIES = ("torch", "onnx", "onnxruntime", "torch-pruning", "accelerate", "scikit-learn", "numpy")
EXTRAS = {
    "xgboost": "XGBoost teachers need it: install 'edgecompress[boosting]'",
    "transformers": "Hugging Face teachers need it: install 'edgecompress[hf]'",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass(frozen=True)
class Diagnosis:
    """Hold what was found. `browser` is a path; `missing` says in words what each lack costs."""

    host: Host
    versions: Mapping[str, str | None]
    browser: str | None
    free_disk_gb: float
    missing: tuple[str, ...]
    usual: UsualPace | None = None

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Return one row a fact, for people."""
        host = self.host
        return [
            ("processor", host.cpu),
            ("instructions", ", ".join(host.isa) or "none that is known"),
            ("cores", f"{len(host.cores)} usable"),
            ("CPU quota", f"{host.quota:g} cores" if host.quota else "none"),
            ("clock governor", host.governor or "not visible"),
            ("system", host.system),
            ("free disk", f"{self.free_disk_gb:.1f} GB here"),
            ("pins processes", _yes(host.pinning)),
            ("counts waiting", _yes(host.counts_waiting)),
            ("usual pace", self._pace()),
            ("peak memory", "measured" if host.resets_peak_memory else "with Python's start"),
            *((name, found or "not installed") for name, found in self.versions.items()),
            ("browser", self.browser or "not found"),
        ]

    def _pace(self) -> str:
        if not (self.host.pinning and self.host.counts_waiting):
            return "cannot be known: this system does not pin processes and count their waiting"
        if self.usual is None:
            return f"not known yet: measure on {KNOWN} quiet occasions, some minutes apart"
        reference = f"{self.usual.reference_ms:.4g} ms for the reference network"
        return f"{reference}, from {self.usual.occasions} quiet occasions"

    def document(self) -> dict[str, object]:
        """Return the same for machines."""
        return {
            "host": {**asdict(self.host), "fingerprint": self.host.fingerprint},
            "versions": dict(self.versions),
            "browser": self.browser,
            "usual_pace": asdict(self.usual) if self.usual else None,
            "free_disk_gb": round(self.free_disk_gb, 1),
            "missing": list(self.missing),
        }


def diagnose() -> Diagnosis:
    """Look at this machine without measuring anything."""
    host = describe_host()
    versions: dict[str, str | None] = {
        "edgecompress": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in (*LIBRARIES, *EXTRAS)},
    }
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    missing = [
        *host.limits,
        *(f"{name} is not installed" for name in LIBRARIES if versions[name] is None),
        *(f"{name} is not installed; {why}" for name, why in EXTRAS.items() if not versions[name]),
    ]
    if browser is None:
        missing.append("no Chromium; only the test that opens report.html in a browser needs it")
    free, usual = shutil.disk_usage(".").free / 1e9, usual_pace(host.fingerprint)
    return Diagnosis(host, versions, browser, free, tuple(missing), usual)


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
