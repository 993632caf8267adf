"""Device profiles: what runs there, how fast it is, and what a model may cost on it.

A profile is one TOML file. Those that ship with the package lie in the checkout's `profiles/`,
which the wheel carries as `edgecompress/shipped_profiles/`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from edgecompress.errors import ProfileError
from edgecompress.settings import Document, Settings, did_you_mean, editor_schema, parse, read_toml

Positive = Annotated[float, Field(gt=0.0)]

# What tells 8-bit kernels apart: x86 without VNNI adds two products in 16 bits, which saturate.
Isa = Literal["arm64", "x86-avx2", "x86-vnni"]
_VNNI = {"avx512-vnni", "avx-vnni", "amx-int8"}
_X86 = {"sse4.1", "avx", "avx2", "avx512"} | _VNNI


def isa_of(features: Collection[str]) -> Isa | None:
    """Return the instruction set that a core with these extensions runs int8 models with.

    >>> isa_of(["neon", "dotprod"]), isa_of(["avx2"]), isa_of(["avx2", "avx-vnni"]), isa_of([])
    ('arm64', 'x86-avx2', 'x86-vnni', None)
    """
    found = set(features)
    if found & _X86:
        return "x86-vnni" if found & _VNNI else "x86-avx2"
    return "arm64" if "neon" in found else None


class Device(Settings):
    """Describe the device."""

    description: str = Field(description="The device in words.")
    soc: str = Field(default="", description="System on chip.")
    core: str = Field(default="", description="The core that runs the model.")
    clock_ghz: Positive | None = Field(default=None, description="Clock of that core, in GHz.")
    isa: tuple[str, ...] = Field(
        default=(), description="Instruction set extensions that matter for speed."
    )
    fleet: tuple[Isa, ...] = Field(
        default=(),
        description="What the machines that stand behind this profile compute int8 with: arm64, "
        "x86-avx2 (x86 without VNNI), x86-vnni; by default what the device itself does.",
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
    onnxruntime: Annotated[str, Field(pattern=r"^\d+\.\d+$")] | None = Field(
        default=None, description='Oldest ONNX Runtime that apps there have, such as "1.17".'
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


class Cost(Settings):
    """Say what one unit of work takes, and how well that is known."""

    value: Positive = Field(description="The cost, in the unit of its kind.")
    within: Annotated[float, Field(ge=1.0)] = Field(
        description="One standard deviation, as a factor: two times in three the truth is within."
    )


class Costs(Settings):
    """Hold what a core takes for each kind of work. A model's typical time is the sum."""

    pointwise: Cost = Field(description="A MAC of a 1x1 convolution, in ns.")
    conv3x3: Cost = Field(description="A MAC of a 3x3 convolution of stride and dilation 1, in ns.")
    conv_other: Cost = Field(description="A MAC of any other convolution, in ns.")
    depthwise: Cost = Field(description="A MAC of a depthwise convolution, in ns.")
    grouped: Cost = Field(description="A MAC of a convolution in narrow groups, in ns.")
    fully_connected: Cost = Field(description="A MAC of a fully connected layer, in ns.")
    matmul: Cost = Field(description="A MAC of any other matrix product, in ns.")
    elementwise: Cost = Field(description="A byte moved by a layer without MACs, in ns.")
    exponential: Cost = Field(description="The same byte's extra under an exponential, in ns.")
    layer: Cost = Field(description="The overhead of a layer, in ms.")
    parameter: Cost = Field(description="Reading a weight, in ns.")
    convolved: Cost = Field(description="A byte that a convolution reads or writes, in ns.")
    unaligned: Cost = Field(description="What a MAC of channels not in fours adds, in ns.")

    @model_validator(mode="before")
    @classmethod
    def _counts_as_today(cls, given: Any) -> Any:
        """Say of costs that were fitted to fewer kinds of work that they are to be fitted anew."""
        if isinstance(given, Mapping) and given and not given.keys() & {"convolved", "unaligned"}:
            raise ValueError(
                "an older edgecompress fitted these costs, without 'convolved' and 'unaligned'; "
                "fit them anew from a shipped profile: 'edgecompress profiles new NAME "
                "--from android-cpu --calibrate ...'"
            )
        return given


class PredictionBasis(Settings):
    """Say how an absent device's latency follows: from a model's own work, or from this host's."""

    host_ratio: Positive | None = Field(
        default=None,
        description="The device's time for one inference as a multiple of the host's.",
    )
    interval_factor: Annotated[float, Field(ge=1.0)] = Field(
        default=3.0, description="With host_ratio: the truth is within this factor."
    )
    floats: Costs | None = Field(default=None, description="Costs of a float model there.")
    int8: Costs | None = Field(default=None, description="Costs of an int8 model there.")
    unexplained: Annotated[float, Field(ge=1.0)] = Field(
        default=1.2,
        description="What costs leave open between models: one standard deviation, as a factor.",
    )
    pace: Annotated[float, Field(ge=1.0)] = Field(
        default=1.0,
        description="What is not known of the core's pace: one standard deviation, as a factor.",
    )
    int8_pace: Annotated[float, Field(ge=1.0)] = Field(
        default=1.0, description="The same of int8 beside floats."
    )
    coverage_sd: Positive = Field(
        default=1.64, description="How many standard deviations a nominal 90 % interval takes."
    )
    rows: Annotated[int, Field(ge=0)] = Field(
        default=0, description="How many published times of this core the costs rest on."
    )
    runs: Annotated[int, Field(ge=0)] = Field(
        default=0, description="How many models were run on the device itself to calibrate this."
    )
    threads: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=1,
        description="With how many threads the costs were fitted; they hold for no other.",
    )
    runtime: str = Field(default="ncnn", description="The runtime of the published times.")
    runtime_factor: Annotated[float, Field(ge=1.0)] = Field(
        default=1.25,
        description="Between that runtime and ONNX Runtime: one standard deviation, as a factor.",
    )
    spec_sheet: bool = Field(
        default=False, description="Whether the device has no published time of its own."
    )
    tail_ratio: Annotated[float, Field(ge=1.0)] = Field(
        default=1.5, description="The p95 as a multiple of the typical latency."
    )
    tail_source: str = Field(default="unverified", description="Where tail_ratio comes from.")
    source: str = Field(description="Where the figures come from.")

    @model_validator(mode="after")
    def _rests_on_one_thing(self) -> PredictionBasis:
        """Take costs, for floats and int8 alike, or a ratio to the host."""
        costs = (self.floats is not None, self.int8 is not None)
        if self.host_ratio is not None and any(costs):
            raise ValueError("host_ratio with costs: give one of the two")
        if self.host_ratio is None and not all(costs):
            raise ValueError(
                "expected host_ratio, or the costs [prediction.floats] and [prediction.int8]"
            )
        return self


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
    if path.suffix == ".toml" or len(path.parts) > 1 or path.is_file():
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
