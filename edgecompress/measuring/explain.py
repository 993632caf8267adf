"""Say why a model is slow: profile it, time its layers in other ways, apply the rules."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgecompress.errors import ChildFailedError
from edgecompress.measuring.explained import (
    Answer,
    Explanation,
    Node,
    Profile,
    Question,
    Tensor,
    Timing,
)
from edgecompress.measuring.findings import findings
from edgecompress.measuring.host import usable_cores
from edgecompress.measuring.latency import read_answer
from edgecompress.measuring.lock import alone
from edgecompress.measuring.questions import questions
from edgecompress.records import OnnxModel
from edgecompress.runtime import Arrays

TIMEOUT_S = 180.0
PROFILE_S = 0.6
TRIALS_S = 6.0
MEMORY_BYTES = 8 * 10**9
Say = Callable[[str], None]


def explain(
    model: OnnxModel, inputs: Arrays, threads: int = 1, progress: Say | None = None
) -> Explanation:
    """Return where a call of `model` spends its time on this host, and why it is slow if it is.

    The model runs in one fresh, pinned process, layers built like its own in another; no other
    measurement runs on the machine meanwhile. Raise ModelError when the model does not run,
    ChildFailedError when a process dies.
    """
    say = progress or (lambda _: None)
    with tempfile.TemporaryDirectory(prefix="edgecompress-") as folder, alone(say):
        say(f"profiling {model.path.name}")
        profile = _profile(model, inputs, threads, Path(folder))
        asked = questions(profile)
        say(f"timing {len(asked)} layers of {model.path.name} in other ways")
        answers = _trials(model, asked, threads, Path(folder))
    return Explanation(profile, findings(profile, answers))


def profiled(
    models: Sequence[OnnxModel], inputs: Arrays, threads: int = 1, progress: Say | None = None
) -> tuple[Profile, ...]:
    """Return where a call of each model spends its time on this host, nothing else measured."""
    say = progress or (lambda _: None)
    with tempfile.TemporaryDirectory(prefix="edgecompress-") as folder, alone(say):
        found = []
        for model in models:
            say(f"profiling {model.path.name}")
            found.append(_profile(model, inputs, threads, Path(folder)))
    return tuple(found)


def _profile(model: OnnxModel, inputs: Arrays, threads: int, folder: Path) -> Profile:
    file = folder / "inputs.npz"
    np.savez(file, *inputs.values())
    request = {
        "model": str(model.path),
        "inputs": str(file),
        "names": list(inputs),
        "seconds": PROFILE_S,
    }
    return read_profile(ask_child("profiling_child.py", model, request, threads, folder))


def read_profile(told: Mapping[str, Any]) -> Profile:
    """Return the profile that the child told, without what the profiler itself took.

    Whatever the nodes took beyond a call without the profiler is the profiler's doing: it writes
    down each node's shapes within the node's time. It costs each node alike.
    """
    raw = [node["ms"] for node in told["nodes"]]
    extra = max(0.0, sum(raw) - told["call_ms"]) / max(1, len(raw))
    return Profile(
        call_ms=told["call_ms"],
        nodes=tuple(
            Node(
                name=node["name"],
                operator=node["operator"],
                domain=node["domain"],
                inputs=tuple(node["inputs"]),
                outputs=tuple(node["outputs"]),
                attributes=node["attributes"],
                ms=max(0.0, node["ms"] - extra),
            )
            for node in told["nodes"]
        ),
        tensors={
            name: Tensor(entry["dtype"], tuple(entry["shape"]), entry["constant"])
            for name, entry in told["tensors"].items()
        },
        outputs=frozenset(told["outputs"]),
        runs=told["runs"],
        profiler_ms=extra,
        node_ms=told["node_ms"],
        quantized_types=tuple(told["quantized_types"]),
        float32_ms=told["float32_ms"],
    )


def _trials(
    model: OnnxModel, asked: Sequence[Question], threads: int, folder: Path
) -> tuple[Answer, ...]:
    if not asked:
        return ()
    request = {
        "questions": [[asdict(layer) for layer in q.variants.values()] for q in asked],
        "seconds": TRIALS_S,
    }
    told = ask_child("trial_child.py", model, request, threads, folder)
    return tuple(
        Answer(
            question.nodes,
            {
                name: Timing(tuple(turns))
                for name, turns in zip(question.variants, found, strict=True)
                if turns is not None
            },
        )
        for question, found in zip(asked, told["turns_ms"], strict=True)
    )


def ask_child(
    file: str, model: OnnxModel, request: Mapping[str, Any], threads: int, folder: Path
) -> dict[str, Any]:
    """Return the answer of one fresh child, pinned to the last cores."""
    conditions = {
        "threads": threads,
        "cores": list(usable_cores()[-threads:]),
        "folder": str(folder),
        "memory": MEMORY_BYTES + 10 * model.size_bytes,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(Path(__file__).with_name(file))],
            input=json.dumps({**request, **conditions}).encode(),
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ChildFailedError(
            f"{model.path}: explaining took over {TIMEOUT_S:g} s; give smaller inputs"
        ) from error
    return read_answer(model, done.returncode, done.stdout, done.stderr)
