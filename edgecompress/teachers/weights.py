"""Load weights into a module from files that cannot run code."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgecompress.errors import TeacherError
from edgecompress.settings import did_you_mean

M = TypeVar("M", bound=nn.Module)


def load_weights_(module: M, path: Path | str) -> M:
    """Fill a module with the weights in a `.safetensors` or weights-only `.pt` file; return it.

    Every weight must be there with its shape, and nothing else. Raises TeacherError.
    """
    path = Path(path)
    given, wanted = _read(path), module.state_dict()
    missing = [name for name in wanted if name not in given]
    unknown = [name for name in given if name not in wanted]
    if missing or unknown:
        raise TeacherError(f"weights {path}: {_difference(missing, unknown)}")
    for name, tensor in wanted.items():
        if given[name].shape != tensor.shape:
            raise TeacherError(
                f"weights {path}: {name} has shape {tuple(given[name].shape)}; the module has "
                f"{tuple(tensor.shape)}; build the module as it was when it was saved"
            )
    module.load_state_dict(given)
    return module


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise TeacherError(f"weights {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, OSError, RuntimeError, EOFError) as error:
        raise TeacherError(
            f"weights {path}: is neither a safetensors file nor one that "
            "torch.save(module.state_dict(), path) wrote, or it is damaged; save the weights again"
        ) from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise TeacherError(
            f"weights {path}: holds no state dict; expected what module.state_dict() returns"
        )
    return found


def _difference(missing: list[str], unknown: list[str]) -> str:
    parts = []
    if missing:
        parts.append(f"lacks {len(missing)} of the module's weights, the first {missing[0]!r}")
    if unknown:
        near = did_you_mean(unknown[0], missing)
        parts.append(f"holds {len(unknown)} unknown to it, the first {unknown[0]!r}{near}")
    return " and ".join(parts)
