"""Compare what ships with its teacher: bytes, and milliseconds from a string to logits on one core.

python measure.py DATA RUN_FOLDER

Both answer texts of the test one by one, in turns of 30, tokenizing included: the teacher with the
tokenizer of transformers (written in Rust), the student with ours (written in Python), both with
ONNX Runtime on one thread. Pin it to a core of its own: taskset -c 1 python measure.py ...
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import banking77
import numpy as np
import onnxruntime
import torch
from minilm import IntentTeacher, intent_teacher
from numpy.typing import NDArray
from torch import nn

from edgecompress.errors import EdgecompressError
from edgecompress.tasks.tokenizers import from_json

TEXTS, TURN, TORCH_TEXTS = 600, 30, 90

Answer = Callable[[str], NDArray[np.float32]]


class Classifier(nn.Module):
    """Run MiniLM and its head as one network."""

    def __init__(self, embed: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.embed, self.head = embed, head

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Map token ids and their mask (batch, tokens) to logits (batch, intents)."""
        logits: torch.Tensor = self.head(self.embed(input_ids, attention_mask))
        return logits


def export_teacher(teacher: IntentTeacher, path: Path) -> None:
    """Write the teacher as one float ONNX file; texts of any length and number."""
    inputs = teacher.minilm.tokenized(["where is my card", "it is late, and I am in a hurry"])
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    network = Classifier(teacher.minilm.network, teacher.head)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (),
            path,
            kwargs=inputs,
            dynamic_shapes=dict.fromkeys(inputs, sizes),
            external_data=False,
            verbose=False,
            dynamo=True,
        )
    given = {name: tensor.numpy() for name, tensor in inputs.items()}
    error = np.abs(session(path).run(None, given)[0] - network(**inputs).numpy()).max()
    assert error < 1e-3, f"the exported teacher differs by {error:.2g}"


def session(path: Path) -> onnxruntime.InferenceSession:
    """Return an ONNX Runtime session on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def teacher_answers(teacher: IntentTeacher, path: Path) -> Answer:
    """Return the teacher in ONNX Runtime, from a string to logits."""
    run, tokenizer = session(path), teacher.minilm.tokenizer

    def answer(text: str) -> NDArray[np.float32]:
        made = tokenizer([text], truncation=True, max_length=256, return_tensors="np")
        names = ("input_ids", "attention_mask")
        logits: NDArray[np.float32] = run.run(None, {name: made[name] for name in names})[0]
        return logits

    return answer


def torch_answers(teacher: IntentTeacher) -> Answer:
    """Return the teacher in torch, from a string to logits."""
    network = Classifier(teacher.minilm.network, teacher.head)

    def answer(text: str) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = network(**teacher.minilm.tokenized([text])).numpy()
        return logits

    return answer


def student_answers(bundle: Path) -> Answer:
    """Return the student of a bundle, from a string to logits."""
    run = session(bundle / "model.onnx")
    tokenizer = from_json((bundle / "tokenizer.json").read_text(encoding="utf-8"))

    def answer(text: str) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = run.run(None, tokenizer.encode([text]))[0]
        return logits

    return answer


def timed(
    answers: dict[str, Answer], texts: list[str], turn: int = TURN
) -> dict[str, NDArray[np.float64]]:
    """Return milliseconds (texts,) of each, asked in turns of a few texts.

    An app runs one of them, again and again: call by call, the teacher's weights would push the
    student out of the processor's caches. The first turn of each is its warm-up.
    """
    times: dict[str, list[float]] = {name: [] for name in answers}
    asked = [*texts[:turn], *texts]
    for first in range(0, len(asked), turn):
        for name, answer in answers.items():
            for text in asked[first : first + turn]:
                started = time.perf_counter()
                answer(text)
                times[name].append(1e3 * (time.perf_counter() - started))
    return {name: np.array(values[turn:]) for name, values in times.items()}


def report(times: dict[str, NDArray[np.float64]], sizes: dict[str, int]) -> None:
    """Print bytes and quantiles of both, and how they compare."""
    print(f"{'':8} {'bytes':>11} {'p50 ms':>8} {'p95 ms':>8}")
    for name, values in times.items():
        size = f"{sizes[name]:,}" if name in sizes else ""
        print(f"{name:8} {size:>11} {np.median(values):8.4f} {np.quantile(values, 0.95):8.4f}")
    fewer = sizes["teacher"] / sizes["student"]
    faster = np.median(times["teacher"]) / np.median(times["student"])
    print(f"the student has 1/{fewer:.0f} of the bytes and takes 1/{faster:.0f} of the p50")


def main(data: Path, run: Path) -> None:
    """Measure the bundle of a run beside the teacher."""
    torch.set_num_threads(1)
    train, _, test, _ = banking77.read(data)
    teacher, bundle = intent_teacher(train), run / "bundle"
    texts = list(test.take(np.random.default_rng(0).permutation(len(test))[:TEXTS]).texts)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "teacher.onnx")
        export_teacher(teacher, path)
        asked = {"teacher": teacher_answers(teacher, path), "student": student_answers(bundle)}
        times = timed(asked, texts) | timed({"torch": torch_answers(teacher)}, texts[:TORCH_TEXTS])
        mixed = timed(asked, texts, turn=1)
        sizes = {"teacher": path.stat().st_size}
    sizes["student"] = sum((bundle / f).stat().st_size for f in ("model.onnx", "tokenizer.json"))
    report(times, sizes)
    cold = np.median(mixed["teacher"]) / np.median(mixed["student"])
    print(f"call by call, caches full of the other's weights: 1/{cold:.0f} of the p50")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python measure.py DATA RUN_FOLDER")
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except (EdgecompressError, OSError) as problem:
        sys.exit(f"measure.py: {problem}")
