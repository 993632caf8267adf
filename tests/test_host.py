"""What this machine is, and what it can control."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgecompress.measuring import host
from edgecompress.profiles import Device


def test_describe_host() -> None:
    found = host.describe_host()
    assert found.cores
    assert found.onnxruntime in found.fingerprint
    assert "\n" not in found.fingerprint


@pytest.mark.parametrize(
    ("isa", "saturates"),
    [
        (("sse4.1", "avx2", "fma"), True),
        (("avx2", "avx512"), True),
        (("avx2", "avx-vnni"), False),
        (("avx512", "avx512-vnni"), False),
        (("neon", "dotprod"), False),
        ((), False),
    ],
)
def test_int8_saturates_on_x86_without_vnni(isa: tuple[str, ...], saturates: bool) -> None:
    assert host.saturates_int8(isa) is saturates


def test_a_fleet_is_what_the_profile_names_else_the_device_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = replace(host.describe_host(), isa=("avx2", "avx-vnni"))
    monkeypatch.setattr(host, "describe_host", lambda: here)
    mixed = Device(description="a fleet", host=True, fleet=("arm64", "x86-avx2", "arm64"))
    assert host.fleet_of(mixed) == ("arm64", "x86-avx2")
    assert host.fleet_of(Device(description="this machine", host=True)) == ("x86-vnni",)
    assert host.fleet_of(Device(description="a phone", isa=("neon",))) == ("arm64",)
    assert host.fleet_of(Device(description="unknown")) == ()


def test_limits_are_said_in_words() -> None:
    bare = host.Host("cpu", (0,), (), "Other", "powersave", 0.5, False, False, False, "1.0")
    assert bare.limits == (
        "a process cannot be pinned to a core",
        "waiting for a core is not counted (no schedstat)",
        "peak memory includes the start of Python",
        "the clock follows the load (governor powersave)",
        "a quota of 0.5 cores may throttle",
    )
    assert bare.fingerprint == "cpu, 1 cores, Other, governor powersave, quota 0.5, onnxruntime 1.0"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "50000 100000"}, 0.5),
        ({"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, None),
        ({"cpu.cfs_quota_us": "150000", "cpu.cfs_period_us": "100000"}, 1.5),
        ({}, None),
    ],
)
def test_quota_of_both_kinds_of_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], quota: float | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "cpu.stat").write_text("nr_periods 5\nnr_throttled 2\n")
    monkeypatch.setattr(host, "_groups", lambda *_: iter([tmp_path]))
    assert host._quota() == quota
    assert host.throttled_periods() == 2
