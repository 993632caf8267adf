"""What phones need beside the model: its `.ort` form, the operators of a reduced build, a verdict.

All three are ONNX Runtime's own; a child process runs its tools and this file reads what they made.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from edgecompress.errors import ModelError
from edgecompress.exporting.golden import Golden
from edgecompress.records import OnnxModel
from edgecompress.store import artifact, write_atomic

# The highest level without operators for one processor only; "all" lays weights out for this host.
LEVEL = "extended"
MODEL, OPERATORS = "model.ort", "required_operators.config"
_LEVEL_VARIABLE = "ORT_CONVERT_ONNX_MODELS_TO_ORT_OPTIMIZATION_LEVEL"
_SECONDS = 300
_CHILD = Path(__file__).with_name("mobile_child.py")
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")  # it may not start without
_WORTH = {"yes": "worth trying", "maybe": "perhaps worth trying", "no": "not worth trying"}
_HEADER = (
    "# for ONNX Runtime's build.py --include_ops_by_config, and with\n"
    "# --enable_reduced_operator_type_support for the types in braces too\n"
)


@dataclass(frozen=True)
class Split:
    """Hold how an accelerator would split the graph, and whether that is worth it.

    `worthwhile` is yes, maybe or no, by ONNX Runtime's own rule: one part that holds most nodes is
    best; each further part copies data to and fro.
    """

    worthwhile: Literal["yes", "maybe", "no"]
    parts: int
    supported_nodes: int
    nodes: int
    unsupported_operators: tuple[str, ...]


@dataclass(frozen=True)
class Accelerator:
    """Hold what ONNX Runtime says of one way to run the model off the CPU of a phone."""

    name: str
    as_it_is: Split
    with_fixed_shapes: Split

    def in_words(self) -> str:
        """Return it as the model card has it."""
        split = self.with_fixed_shapes
        answer = _WORTH[split.worthwhile]
        if self.as_it_is.worthwhile != split.worthwhile:
            answer += " once the input sizes are fixed"
        parts = "1 part" if split.parts == 1 else f"{split.parts} parts"
        lacking = f", lacks {', '.join(split.unsupported_operators)}" * bool(
            split.unsupported_operators
        )
        return (
            f"{self.name}: {answer}; {split.supported_nodes} of {split.nodes} operators in "
            f"{parts}{lacking}"
        )


@dataclass(frozen=True)
class Mobile:
    """Hold what was made and said for phones; a reason stands where there is none of it."""

    ort_reason: str = ""
    accelerators: tuple[Accelerator, ...] = ()
    verdict_reason: str = ""

    @property
    def verdict(self) -> str:
        """Return ONNX Runtime's verdict in one sentence."""
        if self.verdict_reason:
            return f"ONNX Runtime's own verdict is not known: {self.verdict_reason}"
        splits = (s for a in self.accelerators for s in (a.as_it_is, a.with_fixed_shapes))
        if any(split.worthwhile != "no" for split in splits):
            return (
                "ONNX Runtime runs it on the CPU of any phone; an accelerator may be quicker, so "
                "compare them on real ones"
            )
        return "ONNX Runtime runs it on the CPU of any phone, and expects no accelerator to help"


def make_mobile(model: OnnxModel, folder: Path, golden: Golden) -> Mobile:
    """Write `model.ort` and the operators and types it needs, where that is possible.

    The `.ort` form counts once it gives the golden answers.
    """
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        shutil.copy(model.path, scratch / "model.onnx")
        try:
            _run_tools(scratch)
            mobile = _read(scratch)
        except subprocess.CalledProcessError as error:
            last = " ".join((error.stderr.strip() or error.stdout.strip()).splitlines()[-1:])
            return _nothing(f"the converter failed: {last.replace(name, '')}")
        except (subprocess.TimeoutExpired, OSError, ValueError) as error:
            return _nothing(f"the conversion failed: {type(error).__name__}")
        return replace(mobile, ort_reason=_keep(scratch, folder, golden))


def _keep(scratch: Path, folder: Path, golden: Golden) -> str:
    """Move what the converter made into the bundle; return why not, where it is not alike."""
    made = scratch / f"model.{LEVEL}.ort"
    listed = scratch / f"model.required_operators_and_types.{LEVEL}.config"
    try:
        missed = golden.error_of(artifact(made, OnnxModel))
        needed = _without_comments(listed.read_text(encoding="utf-8"))
    except (OSError, ModelError):
        return "ONNX Runtime cannot run what its converter made of the model"
    if not missed <= golden.max_rel_error:
        return "the converted model gives other answers than model.onnx"
    write_atomic(folder / MODEL, made.read_bytes())
    write_atomic(folder / OPERATORS, (_HEADER + needed).encode())
    return ""


def _run_tools(scratch: Path) -> None:
    # What a process is given moves its addresses too: each conversion gets the same.
    environment = {k: os.environ[k] for k in _KEPT_VARIABLES if k in os.environ}
    environment |= {_LEVEL_VARIABLE: LEVEL, "PYTHONHASHSEED": "0"}
    subprocess.run(
        [sys.executable, "-P", "-c", _CHILD.read_text(encoding="utf-8")],
        cwd=scratch,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=True,
    )


def _read(scratch: Path) -> Mobile:
    found: Mapping[str, Any] = json.loads((scratch / "mobile.json").read_bytes())
    accelerators = TypeAdapter(tuple[Accelerator, ...]).validate_python(found["accelerators"])
    return Mobile("", accelerators, found["reason"])


def _nothing(reason: str) -> Mobile:
    return Mobile(ort_reason=reason, verdict_reason="its tools did not run to their end")


def _without_comments(config: str) -> str:
    """Return the list of operators without its comments, which name folders of this machine."""
    lines = (line for line in config.splitlines() if line and not line.startswith("#"))
    return "".join(f"{line}\n" for line in lines)
