"""Open the page in a real browser, without a network."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from sample_report import ALL

from edgecompress.report.html import render_html

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is installed")


def browse(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            str(BROWSER),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            f"--user-data-dir={folder / 'browser'}",
            *arguments,
            (folder / "report.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest.mark.parametrize("name", ["pass", "fail", "nothing"])
def test_page_opens_and_shows_its_verdict(name: str, tmp_path: Path) -> None:
    report, page = ALL[name](), tmp_path / "report.html"
    page.write_text(render_html(report), encoding="utf-8")
    opened = browse(tmp_path, "--dump-dom")
    assert f'id="verdict">{report.verdict.status}</span>' in opened.stdout
    assert opened.stdout.count("<svg") == render_html(report).count("<svg")
    assert "CONSOLE" not in opened.stderr


def test_page_forbids_every_request(tmp_path: Path) -> None:
    page = render_html(ALL["pass"]()).replace("</main>", '<img src="http://localhost:9/a"></main>')
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    opened = browse(tmp_path, "--dump-dom")
    assert "CONSOLE" in opened.stderr
    assert "violates the following Content Security Policy" in opened.stderr


@pytest.mark.parametrize("width", [500, 1200])
def test_page_is_not_blank(width: int, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(render_html(ALL["pass"]()), encoding="utf-8")
    picture = tmp_path / "page.png"
    browse(tmp_path, f"--screenshot={picture}", f"--window-size={width},1600")
    with Image.open(picture) as image:
        assert image.size == (width, 1600)
        colours = image.convert("RGB").getcolors(maxcolors=1 << 24)
    assert len(colours) > 100
    assert max(count for count, _ in colours) < 0.9 * width * 1600
