"""What the tests of the command line share."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent


EDGECOMPRESS = [
    sys.executable,
    "-c",
    "import sys; from edgecompress.cli.main import main; sys.exit(main())",
]


def quick_profile(folder: Path, budget: str, host: bool = True) -> str:
    """Write a profile whose budgets are far from any limit, so that any machine decides them."""
    (folder / "quick.toml").write_text(
        f'name = "quick"\n[device]\ndescription = "q"\nhost = {str(host).lower()}\n'
        f"[budget]\n{budget}\n"
    )
    return "quick.toml"


def result(capsys) -> str:
    return capsys.readouterr().out


def document(capsys) -> dict:
    found = json.loads(result(capsys))
    assert found["schema_version"] == 1
    return found
