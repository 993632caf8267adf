"""Predict the latency on a device that is not here from a measurement on this host."""

from __future__ import annotations

from edgecompress.profiles import Profile
from edgecompress.records import Measurement, Prediction, Quantiles


def predict(measurement: Measurement, profile: Profile) -> Prediction | None:
    """Return the latency on the profile's device; None when it is this host or has no basis.

    The host's typical time (p50) times the published ratio of core classes, known to the
    profile's `interval_factor` either way. Published figures are typical times, so a predicted
    p95 is the upper end of the typical interval times the profile's `tail_ratio`; p90 is no
    better known than p95, and p99 gets the tail's ratio once more.
    """
    basis = profile.prediction
    if profile.device.host or basis is None:
        return None
    typical = measurement.latency_ms.p50 * basis.host_ratio
    p95 = typical * basis.interval_factor * basis.tail_ratio
    return Prediction(
        latency_ms=Quantiles(p50=typical, p90=p95, p95=p95, p99=p95 * basis.tail_ratio),
        low_factor=1 / basis.interval_factor,
        high_factor=basis.interval_factor,
        tail_ratio=basis.tail_ratio,
        basis=(
            f"this host's p50 of {measurement.latency_ms.p50:.3g} ms ({measurement.host}) x "
            f"{basis.host_ratio:g}, within a factor {basis.interval_factor:g} either way; ratio: "
            f"{basis.source}; tail {basis.tail_ratio:g}: {basis.tail_source}"
        ),
    )
