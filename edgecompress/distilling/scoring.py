"""What networks answer to whole splits, and how well they score there."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgecompress.distilling.loop import logits_of
from edgecompress.distilling.views import tensors
from edgecompress.records import Evaluation, SplitName
from edgecompress.tasks.metrics import evaluate
from edgecompress.tasks.targets import labels_of
from edgecompress.tasks.task import Arrays, Task


def forward(module: nn.Module, inputs: Arrays, batch: int = 500) -> NDArray[np.float32]:
    """Return the network's outputs on named arrays, in eval mode and float32, without gradients."""
    was_training = module.training
    module.eval()
    total = len(next(iter(inputs.values())))
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    parts = []
    with torch.no_grad():
        for start in range(0, total, batch):
            part = tensors({name: a[start : start + batch] for name, a in inputs.items()})
            output = module(*(tensor.to(device) for tensor in part.values()))
            parts.append(logits_of(output).float().cpu().numpy())
    module.train(was_training)
    return np.concatenate(parts)


def score(module: nn.Module, task: Task, split: SplitName) -> Evaluation:
    """Return the task's metric for a network on one split."""
    data = {"train": task.train, "validation": task.validation, "test": task.test}[split]
    return evaluate(task.metric, forward(module, data.inputs), labels_of(data), split)
