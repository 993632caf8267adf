"""Write every form of the report into a folder."""

from __future__ import annotations

import json
from pathlib import Path

from edgecompress.records import Report
from edgecompress.report.document import report_json
from edgecompress.report.markdown import render_markdown
from edgecompress.report.record import RECORD_FILE, record_bytes, save_record
from edgecompress.store import write_atomic

FILES = (RECORD_FILE, "report.json", "report.md", "report.html")


def write_report(report: Report, folder: Path, anew: bool = True) -> None:
    """Write `record.json`, `report.json`, `report.md` and `report.html`, each at once or not.

    Without `anew`, the files of exactly this report are left as they are.
    """
    if not anew and _is_written(report, folder):
        return
    from edgecompress.report.html import render_html  # brings Matplotlib, slow to import

    document = json.dumps(report_json(report), indent=2, allow_nan=False)
    write_atomic(folder / "report.json", f"{document}\n".encode())
    write_atomic(folder / "report.md", render_markdown(report).encode())
    write_atomic(folder / "report.html", render_html(report).encode())
    save_record(report, folder / RECORD_FILE)  # last: it says that the others are whole


def _is_written(report: Report, folder: Path) -> bool:
    if not all((folder / name).is_file() for name in FILES):
        return False
    return (folder / RECORD_FILE).read_bytes() == record_bytes(report)
