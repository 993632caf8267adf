"""Predict the latency on a device that is not here, from a model's work or from this host's time.

The typical time is the sum, over kinds of work, of what a model asks for times what the device's
core takes. The interval adds up, as variances of the logarithm, how well each cost in that sum is
known, what costs leave open between models, the change of runtime, and the distance to models
smaller than any published one. Published figures are typical times, so a predicted p95 is the
upper end of the typical interval times the profile's `tail_ratio`; p90 is no better known than
p95, and p99 gets the tail's ratio once more. The figures behind it: `benchmarks/prediction`.
"""

from __future__ import annotations

from math import exp, hypot, log

from edgecompress.measuring.features import Features
from edgecompress.measuring.nearest import nearest, work_by_kind
from edgecompress.profiles import Costs, PredictionBasis, Profile
from edgecompress.records import Measurement, Prediction, Quantiles

SMALLEST_MACS_M = 29.0  # of the published models: blazeface
SMALLER_SD = 0.1  # an assumption, for nobody published: more doubt with each factor e below it


def predict(
    measurement: Measurement | None, profile: Profile, features: Features | str
) -> Prediction | None:
    """Return the latency on the profile's device; None when it is this host or has no basis.

    A profile with `host_ratio` needs the `measurement` on this host, one with costs the model's
    `features` (text says why there are none) and as many threads as the costs were fitted with.
    """
    basis = profile.prediction
    if profile.device.host or basis is None:
        return None
    if basis.host_ratio is not None:
        return _by_ratio(measurement, basis, basis.host_ratio) if measurement else None
    if not isinstance(features, Features) or basis.threads != profile.runtime.threads:
        return None
    costs = basis.int8 if features.int8 else basis.floats
    assert costs is not None  # the profile's check
    terms = _terms(features, costs)
    typical = sum(time for time, _ in terms)
    spread = hypot(*(time / typical * sd for time, sd in terms), *_doubts(features, basis))
    factor = exp(basis.coverage_sd * spread)
    return _prediction(typical, factor, basis, _words(basis, features, typical, factor))


def _terms(features: Features, costs: Costs) -> list[tuple[float, float]]:
    """Return for each kind of work its time in ms and the standard deviation of its logarithm."""
    work = work_by_kind(features)
    known = {kind: getattr(costs, kind) for kind in work}  # millions of ns are ms
    return [(amount * known[kind].value, log(known[kind].within)) for kind, amount in work.items()]


def _doubts(features: Features, basis: PredictionBasis) -> tuple[float, ...]:
    """Return the standard deviations that no cost explains."""
    smaller = max(0.0, log(SMALLEST_MACS_M / max(features.macs_m, 1e-6)))
    paces = [basis.pace, basis.int8_pace if features.int8 else 1.0]
    factors = [basis.unexplained, basis.runtime_factor, *paces]
    return *map(log, factors), SMALLER_SD * smaller


def _words(basis: PredictionBasis, features: Features, typical: float, factor: float) -> str:
    number, costs = ("int8", basis.int8) if features.int8 else ("float", basis.floats)
    assert costs is not None  # the profile's check
    work = work_by_kind(features)
    alike = nearest(work, {kind: getattr(costs, kind).value for kind in work})
    rests = f"{basis.rows} published {basis.runtime} times of this device or core class"
    if basis.spec_sheet:
        rests = "spec sheet, no published time of its own"
    elif basis.runs:
        rests = f"{basis.runs} models run there, from a near device's"
    return (
        f"{typical:.3g} ms typical for {features.macs_m:.3g} M MACs ({number}) by costs fitted on "
        f"{rests}, within a factor {factor:.3g} either way; nearest published models: "
        f"{', '.join(alike)}; {basis.source.strip()}; "
        f"tail {basis.tail_ratio:g}: {basis.tail_source}"
    )


def _by_ratio(measurement: Measurement, basis: PredictionBasis, ratio: float) -> Prediction:
    typical = measurement.latency_ms.p50 * ratio
    words = (
        f"this host's p50 of {measurement.latency_ms.p50:.3g} ms ({measurement.host}) x "
        f"{ratio:g}, within a factor {basis.interval_factor:g} either way; ratio: "
        f"{basis.source}; tail {basis.tail_ratio:g}: {basis.tail_source}"
    )
    return _prediction(typical, basis.interval_factor, basis, words)


def _prediction(typical: float, factor: float, basis: PredictionBasis, words: str) -> Prediction:
    p95 = typical * factor * basis.tail_ratio
    return Prediction(
        latency_ms=Quantiles(p50=typical, p90=p95, p95=p95, p99=p95 * basis.tail_ratio),
        low_factor=1 / factor,
        high_factor=factor,
        tail_ratio=basis.tail_ratio,
        basis=words,
    )
