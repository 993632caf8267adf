"""Read TOML into settings that are checked once at the door; every refusal is one line.

A line names the file and the field, what was given and what was expected, and the near miss:
`recipe.toml: distill.temprature: unknown key; did you mean 'temperature'?`
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgecompress.errors import InputError

MAX_BYTES = 1_000_000

_UNITS = ("us", "ms", "s", "bytes", "kb", "mb", "gb", "mhz", "ghz", "percent", "ratio")

# Begins the tags of a union, which pydantic puts into the place of a problem; no key begins so.
TAG = "="

Document = dict[str, Any]
Loc = tuple[int | str, ...]


class Settings(BaseModel):
    """Be frozen, finite, and refuse every key that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


S = TypeVar("S", bound=Settings)

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]

# What pydantic calls a value of the wrong kind, in the words of somebody who writes TOML.
_EXPECTED = {
    "bool_type": "true or false, without quotes",
    "dict_type": "a section of keys",
    "finite_number": "a finite number",
    "float_type": "a number, without quotes or unit",
    "int_from_float": "a whole number",
    "int_type": "a whole number, without quotes or unit",
    "model_type": "a section of keys",
    "path_type": "a path in quotes",
    "string_type": "text in quotes",
    "tuple_type": "a list in brackets",
}


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest of `known`, or nothing when none is near.

    >>> did_you_mean("temprature", ["temperature", "epochs"])
    "; did you mean 'temperature'?"
    >>> did_you_mean("latency_s", ["latency_ms", "model_size_mb"])
    "; did you mean 'latency_ms' (mind the unit)?"
    >>> did_you_mean("colour", ["temperature"])
    ''
    """
    near = difflib.get_close_matches(given, sorted(known), n=1)
    if not near:
        return ""
    other_unit = given.rpartition("_")[2] in _UNITS and near[0].rpartition("_")[2] in _UNITS
    mind = " (mind the unit)" if other_unit and given != near[0] else ""
    return f"; did you mean '{near[0]}'{mind}?"


def near_file(path: Path) -> str:
    """Return `; did you mean 'x'?` for the file beside `path` of the nearest name and its kind."""
    names = {other.stem: other.name for other in path.parent.glob(f"*{path.suffix}")}
    near = difflib.get_close_matches(path.stem, names, n=1)
    return f"; did you mean '{names[near[0]]}'?" if near else ""


def read_toml(path: Path, what: str, remedy: str, error: type[InputError]) -> Document:
    """Return the document in the file `path`.

    `what` says what it should have been, and `remedy` where somebody gets one who has none.

    Raises `error` for everything that is no readable, non-empty TOML file.
    """
    try:
        raw = _read_bytes(path, what, remedy, error)
        document = tomllib.loads(raw.decode("utf-8-sig"))
    except OSError as refused:
        raise error(f"{path}: cannot be read: {refused.strerror}; expected {what}") from None
    except UnicodeDecodeError as bad:
        raise error(
            f"{path}: byte {raw[bad.start]:#04x} at offset {bad.start} is not UTF-8, expected "
            f"{what}; save the file as UTF-8"
        ) from None
    except tomllib.TOMLDecodeError as bad:
        raise error(f"{path}: not TOML: {' '.join(str(bad).split())}; expected {what}") from None
    except RecursionError:
        raise error(f"{path}: not TOML: nested too deeply; expected {what}") from None
    if not document:
        raise error(f"{path}: is empty, expected {what}; {remedy}")
    return document


def _read_bytes(path: Path, what: str, remedy: str, error: type[InputError]) -> bytes:
    if path.is_dir():
        raise error(f"{path}: is a folder, expected {what}; give the path of the file inside it")
    if not path.exists():
        near = near_file(path)
        raise error(f"{path}: no such file, expected {what}{near or f'; {remedy}'}")
    if not path.is_file():
        raise error(f"{path}: is no regular file, expected {what}")
    raw = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b"\0"
    if b"\0" in raw and not raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise error(f"{path}: is no text file, expected {what}; give a TOML file in UTF-8")
    return raw


def parse(model: type[S], document: Mapping[str, Any], where: str, error: type[InputError]) -> S:
    """Return `document` as a checked `model`; `where` names the file in the error's line.

    Types are taken strictly: `"5"` is no number, `true` is no number, `0.5` is no whole number.
    Raises `error` for the most telling problem, and counts the others.
    """
    try:
        # By way of JSON, where strictness still lets a list be a tuple and text be a path.
        return model.model_validate_json(json.dumps(document, default=str), strict=True)
    except ValidationError as refused:
        # A misspelt key also leaves another key missing: the misspelling is the cause.
        problems: list[Any] = sorted(
            ({**e, "loc": _untagged(e["loc"])} for e in refused.errors()),
            key=lambda e: e["type"] != "extra_forbidden",
        )
    first = problems[0]
    others = [p for p in problems if p["loc"] != first["loc"][: len(p["loc"])]]
    more = f" (and {len(others)} more)" if others else ""
    place = f"{where}: {dotted(first['loc'])}: " if first["loc"] else f"{where}: "
    raise error(f"{place}{_explain(model, first)}{more}")


def _untagged(loc: Loc) -> Loc:
    return tuple(part for part in loc if not str(part).startswith(TAG))


def dotted(loc: Loc) -> str:
    """Return a place in a document as people write it.

    >>> dotted(("measure", "processes", 1))
    'measure.processes[1]'
    """
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.removeprefix(".")


def _explain(model: type[Settings], problem: Any) -> str:
    given = json.dumps(problem["input"], ensure_ascii=False, default=str)
    given = given if len(given) <= 60 else f"{given[:57]}..."
    match problem["type"]:
        case "extra_forbidden":
            return _explain_unknown(model, problem["loc"], isinstance(problem["input"], dict))
        case "missing" if isinstance(problem["loc"][-1], int):
            return f"given {given}, expected one entry more"
        case "missing":
            owner = _model_at(model, problem["loc"][:-1]) or model
            about = owner.model_fields[str(problem["loc"][-1])].description or "a value"
            return f"missing, expected {about[0].lower()}{about[1:].rstrip('.')}"
        case "value_error":
            return str(problem["ctx"]["error"])
        case "literal_error":
            allowed = problem["ctx"]["expected"]
            options = [part.strip("'") for part in allowed.replace(" or ", ", ").split(", ")]
            near = did_you_mean(str(problem["input"]), options)
            return f"given {given}, expected {allowed}{near}"
        case kind:
            wanted = problem["msg"].partition("should ")[2].removeprefix("be ")
            return f"given {given}, expected {_EXPECTED.get(kind, wanted)}"


def _explain_unknown(model: type[Settings], loc: Loc, is_section: bool) -> str:
    owner, key = _model_at(model, loc[:-1]) or model, str(loc[-1])
    homes = [name for name in model.model_fields if key in _keys(_model_at(model, (name,)))]
    if homes:
        near = f"; it belongs in {' or '.join(f'[{home}]' for home in homes)}"
    elif key in model.model_fields:
        near = "; it belongs at the top, before the first section"
    else:
        near = did_you_mean(key, owner.model_fields)
    known = "" if near else f", expected one of {', '.join(owner.model_fields)}"
    return f"unknown {'section' if is_section else 'key'}{near}{known}"


def _keys(model: type[Settings] | None) -> Iterable[str]:
    return model.model_fields if model else ()


def _model_at(model: type[Settings], loc: Loc) -> type[Settings] | None:
    for part in loc:
        field = model.model_fields.get(str(part))
        inner = [field.annotation, *get_args(field.annotation)] if field else []
        inner += [get_args(a)[0] for a in inner if get_origin(a) is Annotated]
        found = [a for a in inner if isinstance(a, type) and issubclass(a, Settings)]
        if not found:
            return None
        model = found[0]
    return model


def editor_schema(model: type[Settings], title: str) -> Document:
    """Return the JSON schema with which an editor completes and checks a TOML file."""
    schema: Document = _without_null(model.model_json_schema())
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = title
    return schema


def _without_null(node: Any) -> Any:
    """Leave out `null`, which TOML cannot write."""
    if isinstance(node, list):
        return [_without_null(item) for item in node if item != {"type": "null"}]
    if not isinstance(node, dict):
        return node
    node = {key: _without_null(item) for key, item in node.items() if item is not None}
    match node.get("anyOf"):
        case [only]:  # what was optional: the field's own words win over its type's
            del node["anyOf"]
            return {**only, **node}
    return node
