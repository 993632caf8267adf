"""What a device says of itself, which cores it is pinned to, and how its answers are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import save_mlp

from edgecompress.errors import DeviceError, ModelError, UsageError
from edgecompress.measuring.targets.device import Ran, told_code
from edgecompress.measuring.targets.facts import (
    Core,
    other_cores,
    pick_cores,
    read_facts,
    throttling,
)
from edgecompress.measuring.targets.machine import refuse_split
from edgecompress.measuring.targets.perf_test import read_result
from edgecompress.measuring.targets.python_runner import is_other_abi, parity
from edgecompress.measuring.targets.target import HOST, Target, parse_target
from edgecompress.runtime import onnx_model

# Where it is


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host", HOST),
        ("ssh:pi@10.0.0.7", Target("ssh", "pi@10.0.0.7")),
        ("ssh:board:22", Target("ssh", "board", 22)),
        ("ssh:pi@[fe80::1]:2222", Target("ssh", "pi@[fe80::1]", 2222)),
        ("adb", Target("adb")),
        ("adb:192.168.1.5:5555", Target("adb", "192.168.1.5:5555")),
    ],
)
def test_targets_that_are_understood(text: str, expected: Target) -> None:
    assert parse_target(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "ssh", "ssh:", "adb:", "adb:-s", "ssh:-oProxyCommand=x", "ssh:pi@-host", "usb:1"),
        *("ssh:pi@host;reboot", "ssh:a b", "ssh:pi@host:x", "ssh:pi@host/", "adb:a b", "hosts"),
        *("ssh:pi@host\n", "ssh:pi@@host", "ssh:-pi@host", "adb:x\n"),
    ],
)
def test_targets_that_are_not(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected host, ssh:user@host\[:port\] or adb\[:SERIAL"):
        parse_target(text)


@pytest.mark.parametrize("port", [0, 65536, 99999])
def test_ports_that_do_not_exist(port: int) -> None:
    with pytest.raises(UsageError, match=f"port {port}: expected a number from 1 to 65535"):
        parse_target(f"ssh:pi@host:{port}")


# What it is

PIXEL = """\
@system
Linux 5.4.147 aarch64
@model
Google
Pixel 5
@serial
0A1B2C
@abi
arm64-v8a
@cpuinfo
processor\t: 0
CPU implementer\t: 0x51
CPU part\t: 0x805
processor\t: 1
CPU implementer\t: 0x51
CPU part\t: 0x805
processor\t: 2
CPU implementer\t: 0x51
CPU part\t: 0x804
processor\t: 3
CPU implementer\t: 0x41
CPU part\t: 0xfff
@allowed
Cpus_allowed_list:\t0-2,3
@clocks
0|1804800|1804800|1100000|schedutil
1|1804800|1804800||schedutil
2|2208000|2208000|2208000|schedutil
3|2400000|2400000|2400000|schedutil
@memory
MemAvailable:    2000000 kB
@temperature
battery 31000
cpu-1-0-usr 42500
cpu-1-1-usr 41000
broken
@battery
80
@end
"""


CLOCKS = PIXEL[PIXEL.index("0|1804800") : PIXEL.index("\n@memory")]


@dataclass
class Told:
    """A device that answers every question with the same words."""

    output: str
    name: str = "adb:0A1B2C"
    scratch: str = "/data/local/tmp"

    def run(self, command: str, timeout_s: float = 30.0) -> Ran:
        return Ran(0, self.output)

    def push(self, file: Path, there: str) -> None:
        raise AssertionError

    def pull(self, there: str) -> bytes:
        raise AssertionError


def test_a_phone_describes_itself() -> None:
    facts = read_facts(Told(PIXEL))
    assert facts.description == (
        "Google Pixel 5, serial 0A1B2C, 2 x Cortex-A55 + 1 x Cortex-A76 + 1 x part 0x41:0xfff, "
        "arm64-v8a, Linux 5.4.147 aarch64, governor schedutil"
    )
    assert facts.state([2]) == ("core 2 at 2208 of 2208 MHz, 42 °C, 2048 MB free, battery 80 %")
    assert facts.cores[1].now_mhz == 0.0


def test_a_board_that_tells_nothing() -> None:
    sections = "system model serial abi cpuinfo allowed clocks memory temperature battery end"
    empty = "\n".join(f"@{name}" for name in sections.split())
    facts = read_facts(Told(empty))
    assert (facts.description, facts.cores) == ("", ())
    assert facts.state([]) == "clocks, heat and memory not told"
    assert pick_cores(facts, "Cortex-A76", 2) == ()


def test_a_board_without_clocks_gives_the_pattern_back() -> None:
    pattern = "[0-9]*||||"
    facts = read_facts(Told(PIXEL.replace(CLOCKS, pattern)))
    assert len(facts.cores) == 4


def test_a_shell_of_another_kind() -> None:
    with pytest.raises(DeviceError, match=r"does not answer as expected \(fish: no\); a POSIX"):
        read_facts(Told("fish: no"))


@pytest.mark.parametrize(
    ("wanted", "threads", "expected"),
    [
        ("Cortex-A55", 1, (1,)),
        ("Cortex-A76", 1, (2,)),
        ("2 x Cortex-A76 + 6 x Cortex-A55", 2, (1, 2)),
        ("", 1, (3,)),
        ("Cortex-A7", 2, (2, 3)),
        ("Cortex-A55", 4, (0, 1, 2, 3)),
    ],
)
def test_processes_are_pinned_to_the_cluster(
    wanted: str, threads: int, expected: tuple[int, ...]
) -> None:
    assert pick_cores(read_facts(Told(PIXEL)), wanted, threads) == expected


def test_a_device_without_the_profiles_core_says_so() -> None:
    facts = read_facts(Told(PIXEL))
    assert other_cores(facts, "Cortex-X3", [3]) == (
        "the device has no Cortex-X3, the profile's core: pinned to its part 0x41:0xfff",
    )
    assert other_cores(facts, "2 x Cortex-A76", [2]) == ()
    assert other_cores(facts, "", [3]) == ()
    assert other_cores(replace(facts, cores=(Core(0),)), "Cortex-X3", [0]) == ()  # it names none


def test_cores_that_may_not_be_used_are_not() -> None:
    facts = read_facts(Told(PIXEL.replace("0-2,3", "0-1")))
    assert [core.number for core in facts.cores] == [0, 1]


def test_throttling_is_told() -> None:
    before = read_facts(Told(PIXEL))
    cooler = tuple(replace(core, allowed_mhz=1500.0) for core in before.cores)
    assert throttling(before, replace(before, cores=cooler), [3]) == (
        "the device throttled core 3 from 2400 to 1500 MHz",
    )
    assert throttling(before, before, [3]) == ()
    assert throttling(before, replace(before, cores=(Core(2),)), [3]) == (
        "the device throttled core 3 from 2400 to 0 MHz",  # switched off
    )


@given(st.text(), st.integers(0, 255))
def test_exit_codes_arrive_behind_any_output(text: str, code: int) -> None:
    found = told_code(f"{text}\nedgecompress-exit-code:{code}\n")
    assert found is not None
    assert found.code == code


# What it answers


def test_outputs_are_compared() -> None:
    here = [np.array([[1.0, 100.0]], np.float32), np.array([3])]
    assert parity(here, here) == (
        True,
        "outputs agree with this host's within 0.0e+00 of the largest",
    )
    assert parity(here, [here[0] + 0.9, here[1]])[0]
    agrees, words = parity(here, [here[0] + 5, here[1]])
    assert not agrees
    assert words.startswith("outputs differ from this host's by 0.05 of the largest")
    assert not parity(here, [here[0] * np.nan, here[1]])[0]
    twice = [here[0], here[0]]
    assert not parity(twice, [here[0], here[0] * np.nan])[0]
    assert parity(here, here[:1]) == (
        False,
        "outputs there have other shapes than this host's; trust no score made here",
    )
    assert parity([], []) == (
        True,
        "parity with this host was not checked: the model gives no numbers",
    )


PRINTED = "\nSession creation time cost: 0.5 s\nFirst inference time cost: 12 ms\n"


def test_the_result_of_perf_test_is_read() -> None:
    rows = "m0,0.0015,36696064,96,0\nm0,0.002,36696064,96,1\n\nP50 Latency: 0.0015 s\n"
    found = read_result(rows, PRINTED, "adb:x")
    assert found.wall_ms == (1.5, 2.0)
    assert found.peak_bytes == 36696064
    assert found.cold_start_ms == 512


@pytest.mark.parametrize(
    ("rows", "printed", "message"),
    [
        ("", PRINTED, r"adb:x: onnxruntime_perf_test wrote no result that can be read"),
        ("a,b,c,d,e\n", PRINTED, r"wrote no result that can be read \(a,b,c,d,e\)"),
        ("m,1,2,3,4\n", "Session creation time cost: 1 s", "it is too old, build a newer one"),
    ],
)
def test_results_that_cannot_be_read(rows: str, printed: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        read_result(rows, printed, "adb:x")


def test_libraries_of_another_processor_are_known_by_what_loaders_say() -> None:
    assert is_other_abi('dlopen failed: "x.so" is 32-bit instead of 64-bit')
    assert is_other_abi('"x.so" has unexpected e_machine: 40 (EM_ARM)')
    assert not is_other_abi("No module named 'onnxruntime'")


def test_a_model_of_several_files_is_not_sent(tmp_path: Path) -> None:
    whole = onnx_model(save_mlp(tmp_path / "whole.onnx", width=64))
    refuse_split(whole)
    model = onnx.load(whole.path)
    split = tmp_path / "split.onnx"
    onnx.save(model, split, save_as_external_data=True, location="weights", size_threshold=0)
    with pytest.raises(ModelError, match="keeps weights in another file, and a device is sent one"):
        refuse_split(onnx_model(split))
