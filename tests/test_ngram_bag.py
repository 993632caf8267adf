"""The student for hashed words and n-grams: padding says nothing, and ONNX agrees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgecompress.exporting.onnx import export
from edgecompress.exporting.parity import check_parity
from edgecompress.quantizing.schemes import quantize
from edgecompress.recipe import QuantizeSettings
from edgecompress.runtime import run
from edgecompress.students.text import NgramBag
from edgecompress.tasks.tokenizers import HashedWords

WORDS = HashedWords(40, buckets=300, characters=(3, 3))
TEXTS = [f"{a} {b} card" for a in ("my", "lost", "new") for b in ("is", "was", "not")] + [""]


def bag() -> NgramBag:
    torch.manual_seed(0)
    return NgramBag(300, 5, 16)


def test_a_text_is_the_sum_of_its_ids_over_the_root_of_their_number() -> None:
    net = bag().eval()
    ids = torch.tensor([[7, 9, 7, 0, 0], [0, 0, 0, 0, 0]])
    with torch.no_grad():
        sums = torch.stack([net.table.weight[[7, 9, 7]].sum(0) / 3**0.5, torch.zeros(16)])
        torch.testing.assert_close(net(ids), net.head(sums))
        torch.testing.assert_close(net(ids)[:1], net(ids[:1, :3]))


def test_padding_never_learns() -> None:
    net = bag().train()
    ids, labels = torch.from_numpy(WORDS.encode(TEXTS)["tokens"]), torch.arange(10) % 5
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(ids), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert not net.table.weight[0].any()


def test_onnx_and_int8_agree(tmp_path: Path) -> None:
    net, inputs = bag().eval(), WORDS.encode(TEXTS * 2)
    model = export(net, {"tokens": inputs["tokens"][:1]}, tmp_path / "m.onnx")
    with torch.no_grad():
        expected = net(torch.from_numpy(inputs["tokens"])).numpy()
    assert check_parity(expected, model, inputs, "torch").passed
    (int8,) = quantize(model, inputs, tmp_path, QuantizeSettings(schemes=("dynamic",)))
    assert int8.model is not None
    error = np.abs(run(int8.model, inputs) - expected).max() / np.abs(expected).max()
    assert error < 0.05
    assert int8.model.size_bytes < model.size_bytes


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="width is 0, expected >= 1"):
        NgramBag(300, 5, 0)
