"""Token ids of any length: free in the file where the network allows it, right at two lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgecompress.exporting.onnx import export
from edgecompress.exporting.parity import check_parity
from edgecompress.quantizing.schemes import quantize
from edgecompress.recipe import QuantizeSettings
from edgecompress.records import OnnxModel
from edgecompress.runtime import run, session
from edgecompress.students.text import HashedBag, NgramBag, TextEncoder
from edgecompress.tasks.task import Split, Task
from edgecompress.tasks.tokenizers import HashedWords

LENGTH = 16
TOKENS = {"tokens": np.random.default_rng(0).integers(1, 40, (24, LENGTH))}
FAMILIES = [TextEncoder(40, 3, 1, 2, LENGTH), NgramBag(40, 3, 8), HashedBag(64, 3, 8)]


class Positions(nn.Module):
    """Have a weight for each place, so that no other length will do."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(40, 4), nn.Parameter(torch.randn(LENGTH, 4))
        self.head = nn.Linear(LENGTH * 4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head((self.words(tokens) + self.places).flatten(1))


class Baked(nn.Module):
    """Divide by the length as it was while exporting: another length gets another answer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        length = LENGTH if torch.compiler.is_exporting() else tokens.shape[1]
        return self.words(tokens).sum(1) / length


def input_shape(model: OnnxModel) -> list[object]:
    return list(session(model.path).get_inputs()[0].shape)


def answers(network: nn.Module, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network.eval()(torch.from_numpy(tokens)).numpy()


@pytest.mark.parametrize("network", FAMILIES, ids=lambda n: type(n).__name__)
def test_students_of_texts_take_any_length(network: nn.Module, tmp_path: Path) -> None:
    model = export(network, TOKENS, tmp_path / "m.onnx", lengths=("tokens",))
    assert input_shape(model) == ["batch", "length"]
    for length in (1, 2, 7, LENGTH):
        short = {"tokens": TOKENS["tokens"][:, :length]}
        parity = check_parity(answers(network, short["tokens"]), model, short, "torch")
        assert parity.passed, (length, parity.reason)


@pytest.mark.parametrize("network", [Positions(), Baked()], ids=lambda n: type(n).__name__)
def test_where_the_network_does_not_allow_it_the_length_stays(
    network: nn.Module, tmp_path: Path
) -> None:
    model = export(network, TOKENS, tmp_path / "m.onnx", lengths=("tokens",))
    assert input_shape(model) == ["batch", LENGTH]
    parity = check_parity(answers(network, TOKENS["tokens"]), model, TOKENS, "torch")
    assert parity.passed, parity.reason


def test_without_a_wish_the_length_stays(tmp_path: Path) -> None:
    assert input_shape(export(FAMILIES[1], TOKENS, tmp_path / "m.onnx")) == ["batch", LENGTH]


def test_quantized_files_take_any_length_too(tmp_path: Path) -> None:
    network = TextEncoder(40, 3, 2, 1, LENGTH)
    model = export(network, TOKENS, tmp_path / "m.onnx", lengths=("tokens",))
    settings = QuantizeSettings(schemes=("static", "dynamic"))
    short = {"tokens": TOKENS["tokens"][:, :5]}
    for made in quantize(model, TOKENS, tmp_path, settings):
        assert made.model is not None, made.reason
        assert input_shape(made.model) == ["batch", "length"]
        off = np.abs(run(made.model, short) - run(model, short)).max()
        assert off < 0.2 * np.abs(run(model, short)).max()


def test_a_tokenizers_input_is_of_any_length() -> None:
    split = Split(dict(TOKENS), np.zeros(24, np.int64))
    tokenizer = HashedWords(LENGTH, buckets=40)
    task = Task("texts", split, split, split, lambda: None, tokenizer=tokenizer)
    assert task.free_lengths == ("tokens",)
    assert Task("t", split, split, split, lambda: None, lengths=("ids",)).free_lengths == ("ids",)


def test_a_transformer_of_hugging_face_takes_any_length(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=LENGTH, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    bert = transformers.BertForSequenceClassification(config).eval()

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            return self.bert(input_ids=ids, attention_mask=mask).logits

    network = Logits()
    mask = (np.arange(LENGTH) < np.arange(24)[:, None] % LENGTH + 1).astype(np.int64)
    inputs = {"ids": TOKENS["tokens"], "mask": mask}
    model = export(network, inputs, tmp_path / "m.onnx", lengths=("ids", "mask"))
    assert input_shape(model) == ["batch", "length"]
    for length in (3, LENGTH):
        short = {name: array[:, :length] for name, array in inputs.items()}
        with torch.no_grad():
            right = network(*map(torch.from_numpy, short.values())).numpy()
        parity = check_parity(right, model, short, "torch")
        assert parity.passed, parity.reason
