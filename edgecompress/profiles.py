"""Device profiles: what runs there, how fast it is, and what a model may cost on it.

A profile is one TOML file. Those that ship with the package lie in the checkout's `profiles/`,
which the wheel carries as `edgecompress/shipped_profiles/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from edgecompress.errors import ProfileError
from edgecompress.settings import Document, Settings, did_you_mean, editor_schema, parse, read_toml

Positive = Annotated[float, Field(gt=0.0)]


class Device(Settings):
    """Describe the device."""

    description: str = Field(description="The device in words.")
    soc: str = Field(default="", description="System on chip.")
    core: str = Field(default="", description="The core that runs the model.")
    clock_ghz: Positive | None = Field(default=None, description="Clock of that core, in GHz.")
    isa: tuple[str, ...] = Field(
        default=(), description="Instruction set extensions that matter for speed."
    )
    memory_gb: Positive | None = Field(default=None, description="Memory, in 10^9 bytes.")
    host: bool = Field(
        default=False, description="Whether the machine that measures is the device itself."
    )
    sources: dict[str, str] = Field(
        default_factory=dict, description="Where each figure comes from."
    )


class Runtime(Settings):
    """Describe what executes the model there."""

    threads: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=1, description="Threads of one inference."
    )
    execution_provider: Literal["CPUExecutionProvider"] = Field(
        default="CPUExecutionProvider", description="ONNX Runtime's execution provider."
    )
    fast_formats: tuple[Literal["fp32", "fp16", "int8"], ...] = Field(
        default=("fp32", "int8"), description="Number formats that are fast there."
    )


class LatencyBudget(Settings):
    """Limit latency quantiles, in milliseconds."""

    p50: Positive | None = Field(default=None, description="Limit of the median, in ms.")
    p90: Positive | None = Field(default=None, description="Limit of the 90 % quantile, in ms.")
    p95: Positive | None = Field(default=None, description="Limit of the 95 % quantile, in ms.")
    p99: Positive | None = Field(default=None, description="Limit of the 99 % quantile, in ms.")


class Budget(Settings):
    """Limit what a model may cost; a budget that is absent is not judged."""

    latency_ms: LatencyBudget = Field(
        default=LatencyBudget(), description="Limits of latency quantiles, in ms."
    )
    peak_memory_mb: Positive | None = Field(
        default=None, description="Limit of the memory beyond the bare runtime, in 10^6 bytes."
    )
    model_size_mb: Positive | None = Field(
        default=None, description="Limit of the model file, in 10^6 bytes."
    )
    cold_start_ms: Positive | None = Field(
        default=None, description="Limit of session creation plus first inference, in ms."
    )

    @model_validator(mode="before")
    @classmethod
    def _takes_quoted_keys(cls, given: Any) -> Any:
        """Read `"latency_ms.p95" = 50` like `latency_ms.p95 = 50`."""
        if not isinstance(given, Mapping):
            return given
        budget = {k: v for k, v in given.items() if not k.startswith("latency_ms.")}
        quoted = {k.removeprefix("latency_ms."): v for k, v in given.items() if k not in budget}
        nested = budget.get("latency_ms", {})
        if isinstance(nested, LatencyBudget):  # from Python
            nested = nested.model_dump(exclude_none=True)
        if not isinstance(nested, Mapping):
            raise ValueError(
                f"latency_ms: given {nested!r}, expected a quantile, such as latency_ms.p95 = 50"
            )
        if twice := quoted.keys() & nested.keys():
            raise ValueError(f"latency_ms.{min(twice)}: given twice; keep one")
        return budget | ({"latency_ms": {**nested, **quoted}} if quoted else {})

    @model_validator(mode="after")
    def _limits_something(self) -> Budget:
        if self == Budget.model_construct():
            raise ValueError("no budget is set; set at least one, such as latency_ms.p95 = 50")
        return self


class PredictionBasis(Settings):
    """Say how an absent device's latency follows from this host's."""

    host_ratio: Positive = Field(
        description="The device's time for one inference as a multiple of the host's."
    )
    interval_factor: Annotated[float, Field(ge=1.0)] = Field(
        default=3.0, description="The truth is within this factor of the prediction."
    )
    tail_ratio: Annotated[float, Field(ge=1.0)] = Field(
        default=1.5, description="The p95 as a multiple of the typical latency."
    )
    tail_source: str = Field(default="unverified", description="Where tail_ratio comes from.")
    source: str = Field(description="Where host_ratio comes from.")


class Profile(Settings):
    """Hold one device profile."""

    name: str = Field(min_length=1, description="The profile's name.")
    device: Device = Field(description="The device.")
    runtime: Runtime = Field(default=Runtime(), description="What executes the model there.")
    budget: Budget = Field(description="What a model may cost.")
    prediction: PredictionBasis | None = Field(
        default=None, description="How the latency of a device that is not here is predicted."
    )

    @model_validator(mode="after")
    def _predicts_only_what_is_absent(self) -> Profile:
        if self.device.host and self.prediction:
            raise ValueError(
                "[prediction] with device.host = true: the host is measured, not predicted; "
                "remove one of the two"
            )
        return self


def profiles_folder() -> Path:
    """Return the folder of the shipped profiles: in the wheel, or else in the checkout."""
    package = Path(__file__).parent
    installed = package / "shipped_profiles"
    return installed if installed.is_dir() else package.parent / "profiles"


def shipped_profiles() -> list[str]:
    """Return the names of the shipped profiles, sorted."""
    return sorted(path.stem for path in profiles_folder().glob("*.toml"))


def profile_path(name_or_path: str) -> Path:
    """Return the file of a shipped profile, or the path itself where it is one.

    Raises ProfileError for a name that is neither.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml" or len(path.parts) > 1 or path.exists():
        return path
    names = shipped_profiles()
    if name_or_path in names:
        return profiles_folder() / f"{name_or_path}.toml"
    near = did_you_mean(name_or_path, names) or f"; expected one of {', '.join(names)}"
    raise ProfileError(
        f"unknown profile '{name_or_path}'{near}"
        f"{'' if near.endswith('?') else ', or the path of a .toml file'}"
    )


def load_profile(name_or_path: str) -> Profile:
    """Return the shipped profile of that name, or the one in that TOML file.

    Raises ProfileError, one line: file, field, what was given, what was expected.
    """
    path = profile_path(name_or_path)
    remedy = "'edgecompress profiles new' writes one"
    document = read_toml(path, "a device profile", remedy, ProfileError)
    return parse(Profile, document, str(path), ProfileError)


def profile_schema() -> Document:
    """Return the JSON schema of a profile, for editors."""
    return editor_schema(Profile, "edgecompress device profile")
