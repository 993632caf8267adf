"""Pruning over eleven kinds of networks: what the benchmark does a hundred times, done once."""

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from benchmarks.pruning.architectures import ARCHITECTURES
from edgecompress.pruning.graph import opened, run, trace
from edgecompress.pruning.groups import groups_of
from edgecompress.pruning.plan import apply_plan
from edgecompress.pruning.prune import prune
from edgecompress.recipe import PruneSettings

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "pruning" / "plans.py"
ATTENTIVE = ("vit_tiny", "bert_tiny")
RESIDUAL = (
    *ATTENTIVE, "residual", "mobilenet_v2", "mobilenet_v3", "efficientnet", "convnext",
)  # fmt: skip


def asked(name: str, **changes) -> PruneSettings:
    return PruneSettings(
        **{
            "importance": "random",
            "pruning_ratio": 0.4,
            "round_to": 1,
            "scope": "isomorphic",
            "steps": 2,
            "schedule": "cubic",
            "head_ratio": 0.5 if name in ATTENTIVE else 0.0,
            "block_ratio": 0.34 if name in RESIDUAL else 0.0,
        }
        | changes
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_random_pruning_is_smaller_and_rebuilt_bit_for_bit(name):
    architecture, settings = ARCHITECTURES[name], asked(name)
    net, inputs = architecture.network(), architecture.inputs(4)
    before = deepcopy(net.state_dict())
    pruned = prune(net, (architecture.inputs(2),), settings, seed=3)
    assert pruned.macs_after < pruned.macs_before
    assert pruned.achieved_ratio == pytest.approx(0.4, abs=0.06)
    assert (pruned.heads.removed > 0) == (name in ATTENTIVE)
    assert pruned.blocks.removed == len(pruned.plan.blocks) == int(name in RESIDUAL)
    assert pruned.whole.popitem()[1] == "makes an output"

    rebuilt = architecture.network(seed=1)
    rebuilt = apply_plan(rebuilt, pruned.plan, (architecture.inputs(2),))
    rebuilt.load_state_dict(pruned.module.state_dict())
    with torch.no_grad():
        outputs = rebuilt(inputs)
        assert torch.equal(outputs, pruned.module(inputs))
    assert outputs.shape == (4, 10)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_channel_but_those_of_the_outputs_is_beyond_reach(name):
    net, inputs = ARCHITECTURES[name].network(), (ARCHITECTURES[name].inputs(2),)
    with opened(net):
        shape = run(net, inputs, "does not run")[0].shape
        groups = groups_of(net, *trace(net, inputs))
    assert list(groups.whole.values()) == ["makes an output"]
    assert len(groups.cuttable) > 2
    assert shape == (2, 10)


@pytest.mark.slow
def test_the_benchmark_finds_nothing_wrong(tmp_path):
    figures = tmp_path / "plans.jsonl"
    count = len(ARCHITECTURES)
    command = [sys.executable, SCRIPT, "--prunings", str(count), "--figures", figures]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in figures.read_text().splitlines()]
    assert [one["name"] for one in found] == list(ARCHITECTURES)
    assert all(one["identical"] and one["parity"] <= 1e-4 for one in found)
