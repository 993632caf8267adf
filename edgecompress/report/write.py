"""Write every form of the report into a folder."""

from __future__ import annotations

import json
from pathlib import Path

from edgecompress.records import Report
from edgecompress.report.document import report_json
from edgecompress.report.html import render_html
from edgecompress.report.markdown import render_markdown
from edgecompress.report.record import RECORD_FILE, save_record
from edgecompress.store import write_atomic


def write_report(report: Report, folder: Path) -> None:
    """Write `record.json`, `report.json`, `report.md` and `report.html`, each at once or not."""
    save_record(report, folder / RECORD_FILE)
    document = json.dumps(report_json(report), indent=2, allow_nan=False)
    write_atomic(folder / "report.json", f"{document}\n".encode())
    write_atomic(folder / "report.md", render_markdown(report).encode())
    write_atomic(folder / "report.html", render_html(report).encode())
