"""Pruning plans as data: kept, rebuilt, refused."""

import json
import subprocess
import sys

import pytest
import torch
from prunable import IMAGE, asked, residual
from safetensors.torch import save_file

from benchmarks.pruning.architectures import VisionTransformer
from edgecompress.errors import PruningError
from edgecompress.pruning.plan import Kept, PruningPlan, apply_plan
from edgecompress.pruning.prune import prune


def test_a_plan_survives_the_file(tmp_path):
    plan = prune(residual(), (IMAGE,), asked(steps=2)).plan
    plan.save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json") == plan
    assert (tmp_path / "plan.json").read_text().startswith('{"version":2,"split":[],')


def test_another_process_rebuilds_the_network_bit_for_bit(tmp_path):
    pruned = prune(residual(), (IMAGE,), asked(steps=2, scope="global", block_ratio=0.5))
    net = pruned.module.eval()
    pruned.plan.save(tmp_path / "plan.json")
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    save_file({"image": IMAGE, "logits": net(IMAGE).detach()}, tmp_path / "io.safetensors")
    script = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from edgecompress.pruning.plan import Kept, PruningPlan, apply_plan
from edgecompress.students.image import ResidualNet

torch.set_num_threads(int(sys.argv[2]))
folder = Path(sys.argv[1])
io = load_file(folder / "io.safetensors")
net = ResidualNet(1, 10, (16, 32), (1, 1))
net = apply_plan(net, PruningPlan.load(folder / "plan.json"), (io["image"],))
net.load_state_dict(load_file(folder / "weights.safetensors"))
assert torch.equal(net.eval()(io["image"]), io["logits"])
"""
    threads = str(torch.get_num_threads())
    subprocess.run([sys.executable, "-c", script, str(tmp_path), threads], check=True, timeout=120)


def test_a_plan_keeps_modes_and_frozen_parameters():
    plan = prune(residual(), (IMAGE,), asked()).plan
    net = residual().train()
    net.head.requires_grad_(False)
    net = apply_plan(net, plan, {"image": IMAGE})
    assert net.stem.training
    assert not net.head.weight.requires_grad
    assert net.stem[0][0].weight.requires_grad


def kept(module: str, of: int, *indices: int) -> Kept:
    return Kept(module=module, of=of, kept=indices)


def refused(net, plan: PruningPlan, inputs=(IMAGE,)) -> str:
    before = {name: part.extra_repr() for name, part in net.named_modules()}
    with pytest.raises(PruningError) as caught:
        apply_plan(net, plan, inputs)
    assert {name: part.extra_repr() for name, part in net.named_modules()} == before  # not cut
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (PruningPlan(channels=(kept("stem.9", 16, 0),)), "no layer 'stem.9' whose channels"),
        (PruningPlan(channels=(kept("__class__", 1, 0),)), "no layer '__class__' whose ch"),
        (PruningPlan(channels=(kept("", 16, 0),)), "no layer '' whose channels"),
        (PruningPlan(channels=(kept("stem.0.1", 16, 0),)), "no layer 'stem.0.1' whose channels"),
        (PruningPlan(channels=(kept("head", 10, 0),)), "no layer 'head' whose channels"),
        (PruningPlan(channels=(kept("stem.0.0", 17, 0),)), "has 16 channels where the plan exp"),
        (PruningPlan(heads=(kept("stem", 4, 0),)), "no attention 'stem' whose channels the plan"),
        (PruningPlan(blocks=("stages.9",)), "no block 'stages.9'"),
        (PruningPlan(blocks=("",)), "no block ''"),
        (PruningPlan(blocks=("forward",)), "no block 'forward'"),
        (PruningPlan(split=("stem",)), "no nn.MultiheadAttention 'stem' to split"),
        (
            PruningPlan(blocks=("stem",)),
            "(Conv2d) inside ResidualNet does not run after the plan's",
        ),
    ],
)
def test_a_plan_for_another_network_is_refused(plan, message):
    assert message in refused(residual(), plan)


def test_a_plan_that_changes_the_outputs_is_refused():
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.Flatten(1))
    assert "changes the shape of the network's outputs" in refused(net, PruningPlan(blocks=("0",)))


def test_parts_that_lose_unevenly_are_refused():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.Conv2d(8, 4, 3, groups=2), torch.nn.Flatten()
    )
    net.append(torch.nn.Linear(64, 2))
    message = refused(net, PruningPlan(channels=(kept("0", 8, 0, 1, 2, 3, 4, 5),)))
    assert "'0' would lose other channels in one of its 2 parts (groups, heads)" in message


def attends() -> tuple[torch.nn.Module, tuple[torch.Tensor]]:
    torch.manual_seed(0)
    return VisionTransformer(16, 4, 2).eval(), (torch.randn(2, 3, 16, 16),)


def test_heads_and_their_channels_must_agree():
    net, inputs = attends()
    qkv, attention = "blocks.0.attention.qkv", "blocks.0.attention"
    first = [part * 16 + i for part in range(3) for i in range(8)]  # heads 0 and 1 of four
    cut = PruningPlan(heads=(kept(attention, 4, 0, 1),), channels=(kept(qkv, 48, *first),))
    assert apply_plan(net, cut, inputs).blocks[0].attention.num_heads == 2
    for heads in ((), (kept(attention, 4, 0, 2),), (kept(attention, 4, 0, 1, 2),)):
        plan = PruningPlan(heads=heads, channels=cut.channels)
        assert "would lose other channels" in refused(attends()[0], plan, inputs)
    plan = PruningPlan(heads=(kept(attention, 3, 0, 1),), channels=cut.channels)
    assert "has 4 heads where the plan expects 3" in refused(attends()[0], plan, inputs)


ONE = '{"version": 2, "channels": [{"module": "a", "of": 4, "kept": %s}]}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON, expected a pruning plan"),
        ("[" * 100_000, "is no JSON, expected a pruning plan"),
        ("\udcff", "is no JSON, expected a pruning plan"),
        ("[]", "is no JSON object"),
        ("{}", "cuts is no part of a pruning plan (version 1): Field required"),
        ('{"version": 3}', "version is 3, expected 1 to 2; read the plan with"),
        ('{"version": "x"}', 'version is "x", expected 1 to 2'),
        ('{"version": 2, "more": 1}', "more is no part of a pruning plan (version 2)"),
        (ONE % "[-1]", "channels[0].kept[0] is no part"),
        (ONE % '["1"]', "channels[0].kept[0] is no part"),
        (ONE % "[true]", "channels[0].kept[0] is no part"),
        (ONE % "[]", "channels[0].kept is no part"),
        (ONE % "[4]", "indices kept of 'a' must ascend without repetition within 0..3"),
        (ONE % "[1, 1]", "must ascend without repetition"),
        (ONE % "[2, 1]", "must ascend without repetition"),
        ('{"version": 2, "blocks": ["a", "b", "a"]}', "the module 'a' is named twice"),
        ('{"version": 2, "channels": [{"module": "a", "of": 4.5, "kept": [1]}]}', "[0].of is"),
        ('{"cuts": [{"module": "a", "width": 4, "channels": [4]}]}', "distinct channels within"),
        ('{"cuts": [{"module": "a", "width": 4, "channels": [1, 1]}]}', "distinct channels with"),
        ('{"cuts": [{"module": "a", "width": 1, "channels": [0]}]}', "leave no channel"),
        ('{"cuts": [{"module": "a", "width": 999999999, "channels": [0]}]}', "must stay below"),
    ],
)
def test_a_broken_plan_file_is_refused(tmp_path, text, message):
    path = tmp_path / "plan.json"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(PruningError) as caught:
        PruningPlan.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plan_file_of_any_size_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "plan.json").open("wb") as stream:
        stream.truncate(10**10)
    with pytest.raises(PruningError, match="larger than 16,000,000 bytes, which no plan is"):
        PruningPlan.load(tmp_path / "plan.json")


def test_a_plan_of_many_names_is_read_in_no_time(tmp_path):
    names = tuple(map(str, range(200_000)))  # each held against each: minutes
    PruningPlan(blocks=names).save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json").blocks == names


def test_a_missing_plan_file_is_refused(tmp_path):
    with pytest.raises(PruningError, match=r"cannot be read \(No such file or directory\)"):
        PruningPlan.load(tmp_path / "none.json")


def test_a_plan_of_version_1_still_rebuilds_its_network(tmp_path):
    # Cuts came one after another, each in the indices that the one before had left.
    cuts = [
        {"module": "stages.0.first.0", "width": 16, "channels": [0, 5]},
        {"module": "stages.1.first.0", "width": 32, "channels": list(range(16))},
        {"module": "stages.0.first.0", "width": 14, "channels": [0, 13]},
    ]
    (tmp_path / "plan.json").write_text(json.dumps({"version": 1, "cuts": cuts}))
    plan = PruningPlan.load(tmp_path / "plan.json")
    left = (2, 3, 4, *range(6, 15))
    assert plan.channels[0] == kept("stages.0.first.0", 16, *left)
    net, whole = residual(), residual()
    net = apply_plan(net, plan, (IMAGE,))
    assert torch.equal(net.stages[0].first[0].weight, whole.stages[0].first[0].weight[[*left]])
    assert net.stages[1].first[0].out_channels == 16
