"""Keep a whole report on disk, raw samples included, so that it can be shown again later."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from edgecompress.errors import UsageError
from edgecompress.records import Report
from edgecompress.store import with_paths, write_atomic

RECORD_FILE = "record.json"


class _Record(BaseModel):
    """Carry the setting that lets scores that are not finite survive the round trip."""

    model_config = ConfigDict(ser_json_inf_nan="constants", frozen=True)
    report: Report


def save_record(report: Report, path: Path) -> None:
    """Write the report as JSON; paths inside its folder become relative to that folder."""
    write_atomic(path, record_bytes(report))


def record_bytes(report: Report) -> bytes:
    """Return what `save_record` writes: the same bytes for the same report."""
    relative = with_paths(report, lambda p: relative_to_folder(p, report.folder))
    return _Record(report=relative).model_dump_json().encode()


def load_record(path: Path) -> Report:
    """Read a report back; its folder is the one that `path` lies in now.

    Raises UsageError when there is no such file or it is no record of this version.
    """
    folder = path.parent
    try:
        report = _Record.model_validate_json(path.read_bytes()).report
    except FileNotFoundError as error:
        raise UsageError(
            f"{folder}: holds no {path.name}; give the folder of a finished run"
        ) from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the file"
        raise UsageError(
            f"{path}: {field} is not what this version writes "
            f"({error.errors()[0]['msg']}); run again to remake it"
        ) from error
    return with_paths(report, lambda p: folder / p)


def relative_to_folder(path: Path, folder: Path) -> Path:
    """Return `path` relative to `folder` where it lies inside, else unchanged."""
    return path.relative_to(folder) if path.is_relative_to(folder) else path
