"""The size of a download, as an app store would send it."""

import os
import zipfile

from edgecompress.exporting.download import download_bytes


def test_it_is_what_a_zip_holds(tmp_path):
    file, archive = tmp_path / "model", tmp_path / "app.zip"
    file.write_bytes(os.urandom(3_000_000) + bytes(2_000_000))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as app:
        app.write(file, "model")
        size = app.getinfo("model").compress_size
    assert abs(download_bytes(file) - size) < 100
    assert 2_990_000 < size < 3_010_000


def test_an_empty_file_is_no_trouble(tmp_path):
    (tmp_path / "model").write_bytes(b"")
    assert download_bytes(tmp_path / "model") < 10
