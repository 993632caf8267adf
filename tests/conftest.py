"""Fixtures of the command line's tests, and the emulators themselves."""

from __future__ import annotations

import os
import shutil
from functools import partial

import hypothesis
import pytest
import tiny_models

from edgecompress.errors import EdgecompressError
from edgecompress.measuring.pace import reference_network
from edgecompress.recipe import MeasureSettings
from edgecompress.verifying.emulators import Kits, default_cache, obstacle, set_up

# How long an example takes says how busy the machine is, not whether the code is right.
hypothesis.settings.register_profile("edgecompress", deadline=None)
hypothesis.settings.load_profile("edgecompress")


@pytest.fixture(autouse=True, scope="session")
def pace_of_the_tests(tmp_path_factory):
    """Let no test learn this machine's pace: what it says would depend on those before it."""
    with pytest.MonkeyPatch.context() as patched:
        no_folder = tmp_path_factory.mktemp("cache") / "file"
        no_folder.write_bytes(b"")
        patched.setattr("edgecompress.measuring.pace.user_cache", lambda: no_folder)
        yield


@pytest.fixture
def reference(tmp_path):
    """Write the network that tells the machine's pace."""
    path = tmp_path / "reference.onnx"
    path.write_bytes(reference_network())
    return path


@pytest.fixture
def measure_briefly(monkeypatch):
    """Let the commands measure five short processes a model instead of long ones."""
    brief = partial(MeasureSettings, processes=(5,), seconds_per_process=0.02)
    monkeypatch.setattr("edgecompress.recipe.MeasureSettings", brief)
    monkeypatch.setattr("edgecompress.cli.costs.MeasureSettings", brief)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Stand in an empty folder that holds two tiny models."""
    monkeypatch.chdir(tmp_path)
    tiny_models.save_mlp(tmp_path / "model.onnx")
    tiny_models.save_mlp(tmp_path / "large.onnx", width=64)
    return tmp_path


@pytest.fixture(scope="session")
def kits():
    """Set the emulators up, in the cache that XDG_CACHE_HOME names."""
    reason = obstacle() or next(
        (f"no {name}" for name in ("apt-get", "dpkg-deb") if not shutil.which(name)), ""
    )
    if reason:
        pytest.skip(reason)
    try:
        set_up("arm64", default_cache(), print)
    except EdgecompressError as error:
        if os.environ.get("EDGECOMPRESS_REQUIRE_EMULATORS"):
            raise
        pytest.skip(str(error))
    return Kits(default_cache())
