"""Where a training stands, as safetensors: weights, optimizer moments and a few numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from edgecompress.errors import TrainingError
from edgecompress.records import EpochPoint
from edgecompress.store import write_atomic


@dataclass
class State:
    """Say where a training stands: `step` steps into `epoch`."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    rate_scale: float = 1.0
    rollbacks: int = 0
    curve: list[EpochPoint] = field(default_factory=list)

    def close_epoch_(self, steps: int, validation: float, seconds: float) -> None:
        """Note the epoch that ended and stand at the next one's start."""
        loss = self.loss_sum / steps
        self.curve.append(EpochPoint(self.epoch + 1, loss, validation, seconds))
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0

    def lower_rate_(self, cause: str, limit: int, remedy: str) -> None:
        """Halve the learning rate after a step that broke; give up after `limit` times."""
        self.rollbacks += 1
        self.rate_scale /= 2
        if self.rollbacks > limit:
            raise TrainingError(
                f"training: {cause} in epoch {self.epoch + 1}, also with the learning rate "
                f"lowered {limit} times; {remedy}"
            )


@dataclass(frozen=True)
class Snapshot:
    """Hold copies of a training's weights and moments, by name, and where it stood."""

    tensors: Mapping[str, Tensor]
    state: State


def snapshot(state: State, module: nn.Module, optimizer: torch.optim.Optimizer) -> Snapshot:
    """Return a training as it stands; what is trained on changes nothing in it."""
    values = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        for name, tensor in moments.items():
            if isinstance(tensor, Tensor):
                values[f"optimizer.{index}.{name}"] = tensor
    copies = {name: tensor.detach().clone() for name, tensor in values.items()}
    return Snapshot(copies, replace(state, curve=list(state.curve)))


def restore_(taken: Snapshot, module: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Bring module and optimizer to a snapshot, in place, and return its state."""
    module.load_state_dict(_named("module.", taken.tensors))
    learning = [p for group in optimizer.param_groups for p in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _named("optimizer.", taken.tensors).items():
        index, _, key = name.partition(".")
        moments.setdefault(int(index), {})[key] = _laid_out(tensor, learning[int(index)])
    whole = optimizer.state_dict()
    optimizer.load_state_dict({"state": moments, "param_groups": whole["param_groups"]})
    return replace(taken.state, curve=list(taken.state.curve))


def _laid_out(moment: Tensor, parameter: Tensor) -> Tensor:
    """Return a copy that lies in memory as its parameter does: a fused step walks both as one."""
    if moment.shape != parameter.shape:
        return moment.clone()
    return torch.empty_like(parameter, dtype=moment.dtype).copy_(moment)


def write_checkpoint(
    path: Path, state: State, module: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write a checkpoint atomically."""
    taken = snapshot(state, module, optimizer)
    plain = {name: tensor.cpu().contiguous() for name, tensor in taken.tensors.items()}
    write_atomic(path, tensors_to_bytes(plain, metadata={"state": json.dumps(asdict(state))}))


def read_checkpoint(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Bring module and optimizer to where a checkpoint stands; a torn file is ignored."""
    try:
        data = path.read_bytes()
        values = load_tensors(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        state = State(**json.loads(header["__metadata__"]["state"]))
        state.curve = [EpochPoint(**point) for point in state.curve]  # type: ignore[arg-type]
        return restore_(Snapshot(values, state), module, optimizer)
    except (SafetensorError, ValueError, KeyError, RuntimeError):
        return State()


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's weights as safetensors, atomically, in the plain memory layout."""
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in module.state_dict().items()}
    write_atomic(path, tensors_to_bytes(plain))


def weights_digest(module: nn.Module) -> str:
    """Return one digest over the names, shapes and values of all of a module's weights."""
    require_numbers(module)
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def require_numbers(module: nn.Module) -> None:
    """Raise TrainingError for lazy layers, which have no weights before the first batch."""
    for name, tensor in module.state_dict().items():
        if is_lazy(tensor):
            raise TrainingError(
                f"network: {name} of {type(module).__name__} is lazy and has no numbers yet; run "
                "a batch through the network where it is made, or give its layers their widths"
            )


def layout_digest(module: nn.Module) -> str:
    """Return one digest over the names and shapes of a module's weights, whatever their values."""
    layout = [(k, str(v.dtype), tuple(v.shape)) for k, v in module.state_dict().items()]
    return hashlib.sha256(json.dumps(layout).encode()).hexdigest()


def _named(prefix: str, values: Mapping[str, Tensor]) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
