"""Penalties on groups: their gradient, and what training with them does."""

import pytest
import torch
from prunable import IMAGE, residual
from torch import Tensor, nn

from benchmarks.pruning.architectures import ARCHITECTURES
from edgecompress.errors import PruningError
from edgecompress.pruning.penalty import GROWS_EVERY, penalty_on
from edgecompress.recipe import PruneSettings


def asked(penalty: str, **changes) -> PruneSettings:
    return PruneSettings(**{"penalty": penalty, "penalty_strength": 0.1} | changes)


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3), nn.Flatten())


def added(
    net: nn.Module, settings: PruneSettings, step: int = 0, inputs=IMAGE
) -> dict[str, Tensor]:
    """Return what a penalty adds to gradients of zero."""
    penalty = penalty_on(net, (inputs,), settings)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    penalty(net, step)
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def of_autograd(net: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    names = [name for name, _ in net.named_parameters()]
    found = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    return dict(zip(names, found, strict=True))


def agrees(net: nn.Module, loss: Tensor, gradients: dict[str, Tensor]) -> None:
    for name, expected in of_autograd(net, loss).items():
        wanted = torch.zeros_like(gradients[name]) if expected is None else expected
        torch.testing.assert_close(gradients[name], wanted)


def test_group_lasso_has_the_gradient_of_its_formula():
    net = two_layers()
    first, norm, second = net[0].weight, net[1].weight, net[2].weight
    squares = first.flatten(1).square().sum(1) + norm.square()
    squares = squares + second.transpose(0, 1).flatten(1).square().sum(1)
    agrees(net, 0.1 * squares.sqrt().sum(), added(net, asked("group_lasso")))


def test_scales_have_the_gradient_of_their_absolute_value():
    net = two_layers()
    agrees(net, 0.1 * net[1].weight.abs().sum(), added(net, asked("bn_scale")))


def test_the_growing_penalty_grows_on_the_weak():
    net = two_layers()
    with torch.no_grad():
        net[0].weight[1:3] *= 0.01
        net[2].weight[:, 1:3] *= 0.01
        net[1].weight[1:3] *= 0.01

    def squares() -> Tensor:
        weak = (net[0].weight[1:3], net[1].weight[1:3], net[2].weight[:, 1:3])
        return sum(part.square().sum() for part in weak)

    settings = asked("growing", pruning_ratio=0.5)
    agrees(net, 0.05 * squares(), added(net, settings))
    agrees(net, 0.15 * squares(), added(net, settings, step=2 * GROWS_EVERY))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_weight_that_would_go_is_pressed(name):
    net, inputs = ARCHITECTURES[name].network(), ARCHITECTURES[name].inputs(2)
    gradients = added(net, asked("group_lasso"), inputs=inputs)
    pressed = {key for key, value in gradients.items() if bool(value.any())}
    layers = {
        f"{path}.weight"
        for path, part in net.named_modules()
        if isinstance(part, nn.modules.conv._ConvNd | nn.Linear) and "self_attn" not in path
    }
    assert layers <= pressed


def test_the_parts_of_a_grouped_convolution_are_pressed_alike():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3, groups=2), nn.Flatten())
    net.append(nn.Linear(64, 2))
    gradients = added(net, asked("group_lasso"))
    units = net[0].weight.detach().view(2, 4, -1).transpose(0, 1).flatten(1).square().sum(1)
    units = units + net[1].weight.detach().transpose(0, 1).flatten(1).square().sum(1)
    expected = 0.1 * net[0].weight.detach() / units.sqrt().repeat(2).view(-1, 1, 1, 1)
    torch.testing.assert_close(gradients["0.weight"], expected)


def test_ignored_layers_and_frozen_ones_are_left_alone():
    net = residual()
    net.stages[1].requires_grad_(False)
    settings = asked("group_lasso", ignore=("stages.0.first",))
    penalty = penalty_on(net, (IMAGE,), settings)
    net(IMAGE).sum().backward()
    before = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    penalty(net, 0)
    assert torch.equal(before["stages.0.first.0.weight"], net.stages[0].first[0].weight.grad) is (
        False  # its inputs are the stem's channels
    )
    assert torch.equal(before["stages.0.first.1.weight"], net.stages[0].first[1].weight.grad)
    assert all(p.grad is None for p in net.stages[1].parameters())


def test_training_with_a_penalty_makes_some_channels_vanish():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1))
    x = torch.randn(256, 4)
    y = (x[:, :1] - x[:, 1:2]).relu()
    penalty = penalty_on(net, (x,), asked("group_lasso", penalty_strength=0.003))
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for step in range(400):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        penalty(net, step)
        optimizer.step()
    norms = (net[0].weight.square().sum(1) + net[2].weight.square().sum(0)).sqrt().detach()
    assert int((norms < 0.02).sum()) > 16
    assert nn.functional.mse_loss(net(x), y).item() < 0.01


def test_the_penalty_leaves_the_module_as_it_was():
    net = residual().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    penalty_on(net, (IMAGE,), asked("growing"))
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_scales_must_exist():
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2))
    with pytest.raises(PruningError, match=r"prune.penalty: 'bn_scale' needs batch-norm layers"):
        penalty_on(net, (IMAGE,), asked("bn_scale"))


@pytest.mark.parametrize("penalty", ["group_lasso", "bn_scale", "growing"])
def test_a_penalty_made_on_the_processor_acts_where_the_training_runs(penalty):
    made = penalty_on(two_layers(), (IMAGE,), asked(penalty))
    net = two_layers().to("meta")  # as little the processor as a GPU is
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made(net, 0)
    assert net[0].weight.grad.device.type == "meta"
