"""Pruning plans as data: kept, rebuilt, refused."""

import subprocess
import sys

import pytest
import torch
from prunable import IMAGE, asked, residual
from safetensors.torch import save_file

from edgecompress.errors import PruningError
from edgecompress.pruning.plan import Cut, PruningPlan, apply_plan_
from edgecompress.pruning.prune import prune


def test_a_plan_survives_the_file(tmp_path):
    plan = prune(residual(), (IMAGE,), asked(steps=2)).plan
    plan.save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json") == plan
    assert (tmp_path / "plan.json").read_text().startswith('{"version":1,"cuts":[{"module":')


def test_another_process_rebuilds_the_network_bit_for_bit(tmp_path):
    pruned = prune(residual(), (IMAGE,), asked(steps=2, scope="global"))
    net = pruned.module.eval()
    pruned.plan.save(tmp_path / "plan.json")
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    save_file({"image": IMAGE, "logits": net(IMAGE).detach()}, tmp_path / "io.safetensors")
    script = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from edgecompress.pruning.plan import PruningPlan, apply_plan_
from edgecompress.students.image import ResidualNet

torch.set_num_threads(int(sys.argv[2]))
folder = Path(sys.argv[1])
io = load_file(folder / "io.safetensors")
net = ResidualNet(1, 10, (16, 32), (1, 1))
apply_plan_(net, PruningPlan.load(folder / "plan.json"), (io["image"],))
net.load_state_dict(load_file(folder / "weights.safetensors"))
assert torch.equal(net.eval()(io["image"]), io["logits"])
"""
    threads = str(torch.get_num_threads())
    subprocess.run([sys.executable, "-c", script, str(tmp_path), threads], check=True, timeout=120)


def test_a_plan_keeps_modes_and_frozen_parameters():
    plan = prune(residual(), (IMAGE,), asked()).plan
    net = residual().train()
    net.head.requires_grad_(False)
    apply_plan_(net, plan, {"image": IMAGE})
    assert net.stem.training
    assert not net.head.weight.requires_grad
    assert net.stem[0][0].weight.requires_grad


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (Cut(module="stem.9", width=16, channels=(0,)), "no layer 'stem.9' whose channels"),
        (Cut(module="__class__", width=1, channels=(0,)), "no layer '__class__' whose ch"),
        (Cut(module="", width=16, channels=(0,)), "no layer '' whose channels"),
        (Cut(module="stem.0.1", width=16, channels=(0,)), "no layer 'stem.0.1' whose channels"),
        (Cut(module="stem.0.0", width=17, channels=(0,)), "has 16 channels where the plan exp"),
        (Cut(module="stem.0.0", width=16, channels=(16,)), "distinct, in 0..15, at least one"),
        (Cut(module="stem.0.0", width=16, channels=(1, 1)), "distinct, in 0..15, at least one"),
        (Cut(module="stem.0.0", width=16, channels=()), "distinct, in 0..15, at least one"),
        (Cut(module="stem.0.0", width=16, channels=tuple(range(16))), "and not all of them"),
    ],
)
def test_a_hostile_plan_is_refused(cut, message):
    with pytest.raises(PruningError) as caught:
        apply_plan_(residual(), PruningPlan(cuts=(cut,)), (IMAGE,))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "the file"),
        ("[]", "the file"),
        ('{"version": 2, "cuts": []}', "version"),
        ('{"cuts": [{"module": "a", "width": 4, "channels": [-1]}]}', "cuts.0.channels.0"),
        ('{"cuts": [{"module": "a", "width": 4, "channels": ["1"]}]}', "cuts.0.channels.0"),
        ('{"cuts": [{"module": "a", "width": 4.5, "channels": [1]}]}', "cuts.0.width"),
        ('{"cuts": [], "more": 1}', "more"),
    ],
)
def test_a_broken_plan_file_is_refused(tmp_path, text, field):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(PruningError) as caught:
        PruningPlan.load(path)
    assert str(caught.value).startswith(f"{path}: {field} is no part of a pruning plan (version 1)")
    assert "\n" not in str(caught.value)


def test_a_missing_plan_file_is_refused(tmp_path):
    with pytest.raises(PruningError, match=r"cannot be read \(No such file or directory\)"):
        PruningPlan.load(tmp_path / "none.json")
