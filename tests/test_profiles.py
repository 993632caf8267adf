import json
from pathlib import Path

import jsonschema
import pytest

from edgecompress import profiles
from edgecompress.errors import ProfileError
from edgecompress.profiles import (
    Budget,
    LatencyBudget,
    load_profile,
    profile_path,
    profile_schema,
    shipped_profiles,
)

# The budgets that the design promises: p95 in ms, memory and size in MB, cold start in ms.
BUDGETS = {
    "cpu-1core": (20, 200, 20, 500),
    "sla-50ms": (50, 500, 100, 2000),
    "cloud-1vcpu": (30, 400, 50, 1000),
    "android-cpu": (50, 150, 10, None),
    "android-low": (80, 60, 5, None),
    "android-flagship": (16, 200, 20, None),
    "ios-cpu": (16, 50, 10, None),
    "raspberry-pi-zero-2w": (200, 60, 10, None),
    "raspberry-pi-3": (150, 150, 20, None),
    "raspberry-pi-4": (100, 300, 40, None),
    "raspberry-pi-5": (50, 500, 80, None),
}
HEAD = 'name = "mine"\n[device]\ndescription = "mine"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def refusal(name_or_path: object) -> str:
    with pytest.raises(ProfileError) as caught:
        load_profile(str(name_or_path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_eleven_profiles_ship():
    assert shipped_profiles() == sorted(BUDGETS)


def test_a_shipped_profile_names_its_fleet_and_why():
    fleets = {name: load_profile(name).device.fleet for name in BUDGETS}
    servers = ("x86-vnni", "x86-avx2", "arm64")
    assert fleets == {
        **dict.fromkeys(BUDGETS, ()),  # the boards, and this machine, whatever it is
        **dict.fromkeys(("android-cpu", "android-low", "android-flagship", "ios-cpu"), ("arm64",)),
        "sla-50ms": servers,
        "cloud-1vcpu": servers,
    }
    assert all(load_profile(name).device.sources["fleet"] for name in BUDGETS)


def test_a_misspelt_fleet_gets_the_near_miss(tmp_path):
    budget = "[budget]\nmodel_size_mb = 1\n"
    path = write(tmp_path, HEAD + 'fleet = ["arm64", "x86-vni"]\n' + budget)
    assert refusal(path) == (
        f"{path}: device.fleet[1]: given \"x86-vni\", expected 'arm64', 'x86-avx2' or 'x86-vnni'; "
        "did you mean 'x86-vnni'?"
    )


@pytest.mark.parametrize("name", BUDGETS)
def test_a_shipped_profile_has_the_promised_budget(name):
    profile = load_profile(name)
    budget = profile.budget
    assert profile.name == name
    assert BUDGETS[name] == (
        budget.latency_ms.p95,
        budget.peak_memory_mb,
        budget.model_size_mb,
        budget.cold_start_ms,
    )
    assert profile.device.host == (name in ("cpu-1core", "sla-50ms", "cloud-1vcpu"))
    assert profile.device.sources
    jsonschema.validate(json.loads(profile.model_dump_json(exclude_none=True)), profile_schema())


@pytest.mark.parametrize(
    "budget",
    [
        "latency_ms.p95 = 50",
        '"latency_ms.p95" = 50',
        "latency_ms = { p95 = 50 }",
        "[budget.latency_ms]\np95 = 50",
    ],
)
def test_a_quantile_is_budgeted_in_every_spelling(tmp_path, budget):
    profile = load_profile(str(write(tmp_path, f"{HEAD}[budget]\n{budget}\n")))
    assert profile.budget.latency_ms.p95 == 50
    assert profile.prediction is None


def test_a_budget_is_made_from_python_too():
    budget = Budget(latency_ms=LatencyBudget(p95=5), model_size_mb=1)
    assert budget == Budget.model_validate({"latency_ms.p95": 5, "model_size_mb": 1})
    assert budget.latency_ms == LatencyBudget(p95=5)
    with pytest.raises(ValueError, match="no budget is set"):
        Budget(latency_ms=LatencyBudget())


def test_nested_and_quoted_quantiles_add_up(tmp_path):
    text = f'{HEAD}[budget]\nlatency_ms.p50 = 20\n"latency_ms.p95" = 50\n'
    latency = load_profile(str(write(tmp_path, text))).budget.latency_ms
    assert (latency.p50, latency.p95) == (20, 50)


@pytest.mark.parametrize(
    ("budget", "wanted"),
    [
        ("latency_ms = 50", "latency_ms: given 50, expected a quantile, such as latency_ms.p95"),
        ("latency_ms.p95 = -1", "budget.latency_ms.p95: given -1, expected greater than 0"),
        ("latency_ms.p95 = 0", "given 0, expected greater than 0"),
        ("latency_ms.p95 = nan", "given NaN, expected a finite number"),
        ("latency_ms.p95 = true", "given true, expected a number, without quotes or unit"),
        ('model_size_mb = "5 MB"', 'given "5 MB", expected a number, without quotes or unit'),
        ("latency_s.p95 = 1", "budget.latency_s: unknown section; did you mean 'latency_ms' (mind"),
        ("peak_memory_gb = 1", "did you mean 'peak_memory_mb' (mind the unit)?"),
        ("latency_ms.p59 = 1", "budget.latency_ms.p59: unknown key; did you mean 'p9"),
        ('"latency_ms.p59" = 1', "budget.latency_ms.p59: unknown key; did you mean 'p9"),
        ('latency_ms.p95 = 1\n"latency_ms.p95" = 2', "latency_ms.p95: given twice; keep one"),
        ("", "budget: no budget is set; set at least one, such as latency_ms.p95 = 50"),
        ("latency_ms = {}", "no budget is set"),
        ("accuracy = 0.9", "budget.accuracy: unknown key, expected one of latency_ms, peak"),
        ("model_size_mb = 1\n[prediction]\nhost_ratio = 3", "prediction.source: missing"),
        ("model_size_mb = 1\n[predicton]\nhost_ratio = 3", "did you mean 'prediction'?"),
        ("model_size_mb = 1\n[runtime]\nthreads = 0", "runtime.threads: given 0, expected greater"),
        ("model_size_mb = 1\n[runtime]\nfast_formats = ['int4']", "did you mean 'int8'?"),
    ],
)
def test_a_wrong_profile_is_refused_in_one_line(tmp_path, budget, wanted):
    path = write(tmp_path, f"{HEAD}[budget]\n{budget}\n")
    assert wanted in refusal(path)
    assert refusal(path).startswith(f"{path}: ")


def test_costs_of_before_are_to_be_fitted_anew(tmp_path):
    lines = profile_path("android-cpu").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("convolved =", "unaligned ="))]
    assert len(lines) - len(kept) == 4
    told = refusal(write(tmp_path, "\n".join(kept)))
    assert "prediction.floats: an older edgecompress fitted these costs" in told
    assert "'edgecompress profiles new NAME --from android-cpu --calibrate ...'" in told


def test_a_host_is_measured_not_predicted(tmp_path):
    text = (
        f"{HEAD}host = true\n[budget]\nmodel_size_mb = 1\n"
        "[prediction]\nhost_ratio = 3.0\nsource = 'x'\n"
    )
    assert "[prediction] with device.host = true" in refusal(write(tmp_path, text))


def test_a_profile_needs_a_device_and_a_budget(tmp_path):
    assert "device: missing, expected the device" in refusal(write(tmp_path, 'name = "x"\n'))


def test_an_unknown_profile_gets_the_near_miss(tmp_path, monkeypatch):
    assert refusal("andriod-cpu") == "unknown profile 'andriod-cpu'; did you mean 'android-cpu'?"
    assert "expected one of android-cpu, " in refusal("toaster")
    assert "or the path of a .toml file" in refusal("toaster")
    assert "no such file, expected a device profile" in refusal("gone.toml")
    assert "no such file, expected a device profile" in refusal(tmp_path / "gone" / "x")
    assert "is a folder, expected a device profile" in refusal(tmp_path)
    write(tmp_path, "")
    assert "is empty, expected a device profile" in refusal(tmp_path / "mine.toml")


def test_the_wheel_s_profiles_come_first(tmp_path, monkeypatch):
    package = tmp_path / "edgecompress"
    monkeypatch.setattr(profiles, "__file__", str(package / "profiles.py"))
    assert profiles.profiles_folder() == tmp_path / "profiles"
    (package / "shipped_profiles").mkdir(parents=True)
    assert profiles.profiles_folder() == package / "shipped_profiles"


def test_a_run_folder_of_a_profile_s_name_hides_no_profile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("android-cpu").mkdir()
    assert load_profile("android-cpu").name == "android-cpu"
