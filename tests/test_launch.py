"""Several processes through `accelerate launch`: one speaks and writes, all learn together."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import blobs
import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
def test_two_processes_train_one_student(tmp_path: Path) -> None:
    shutil.copy(HERE / "blobs.py", tmp_path)
    (tmp_path / "recipe.toml").write_text(blobs.RECIPE)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes=2",
              "--num_machines=1", "--multi_gpu", "--mixed_precision=no", "--dynamo_backend=no",
              "-m", "edgecompress"]  # fmt: skip
    scores = {}
    for name, command in (("one", [sys.executable, "-m", "edgecompress"]), ("two", launch)):
        done = subprocess.run(
            [*command, "run", "recipe.toml", "--profile=android-cpu", f"--out={name}", "--json",
             "--set=teacher.epochs=12", "--set=distill.epochs=12", "--set=redistill.epochs=12"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        )  # fmt: skip
        assert done.returncode in (0, 3), done.stderr
        report = json.loads(done.stdout)  # one document: one process speaks
        assert done.stderr.splitlines().count("distill distilled: started") == 1
        scores[name] = {
            (training["stage"], arm["name"]): arm["metrics"]["accuracy"]["value"]
            for training in report["trainings"]
            for arm in training["arms"]
        }
    trained = {
        n: {p.name for p in tmp_path.glob(f"{n}/stages/distill-distilled-*")} for n in scores
    }
    assert trained["one"] and trained["two"]
    assert trained["one"].isdisjoint(trained["two"])  # a key holds how many processes there were
    assert scores["one"].keys() == scores["two"].keys()
    for arm, alone in scores["one"].items():
        assert scores["two"][arm] == pytest.approx(alone, abs=0.06), arm
