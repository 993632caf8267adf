"""Fixtures of the command line's tests."""

from __future__ import annotations

from functools import partial

import pytest
import tiny_models

from edgecompress.recipe import MeasureSettings


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
