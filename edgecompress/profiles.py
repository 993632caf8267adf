"""Device profiles: what runs there, how fast it is, and what a model may cost on it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0.0)]


class Section(BaseModel):
    """Be frozen, and refuse every key that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Device(Section):
    """Describe the device. `host` is True where this very machine stands for the device."""

    description: str
    soc: str = ""
    core: str = ""
    clock_ghz: Positive | None = None
    isa: tuple[str, ...] = ()
    memory_gb: Positive | None = None
    host: bool = False
    sources: dict[str, str] = Field(default_factory=dict)


class Runtime(Section):
    """Describe what executes the model there."""

    threads: Annotated[int, Field(ge=1)] = 1
    execution_provider: Literal["CPUExecutionProvider"] = "CPUExecutionProvider"
    fast_formats: tuple[Literal["fp32", "fp16", "int8"], ...] = ("fp32", "int8")


class LatencyBudget(Section):
    """Limit latency quantiles, in milliseconds."""

    p50: Positive | None = None
    p90: Positive | None = None
    p95: Positive | None = None
    p99: Positive | None = None


class Budget(Section):
    """Limit what a model may cost; a budget that is absent is not judged."""

    latency_ms: LatencyBudget = LatencyBudget()
    peak_memory_mb: Positive | None = None
    model_size_mb: Positive | None = None
    cold_start_ms: Positive | None = None


class PredictionBasis(Section):
    """Say how an absent device's latency follows from this host's."""

    host_ratio: Positive
    interval_factor: Annotated[float, Field(ge=1.0)] = 3.0
    tail_ratio: Annotated[float, Field(ge=1.0)] = 1.5
    tail_source: str = "unverified"
    source: str


class Profile(Section):
    """Hold one device profile."""

    name: str
    device: Device
    runtime: Runtime = Runtime()
    budget: Budget
    prediction: PredictionBasis | None = None
