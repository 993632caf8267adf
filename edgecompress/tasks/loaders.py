"""Read data into splits: arrays from npz and idx files here, and the door to the other loaders.

CSV files are read in `tables`, those of texts in `texts`, folders of images in `images`, and
`rows` deals rows out to splits. No loader opens a pickle; what a damaged or hostile file does is
one line, a DataError.
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompress.errors import DataError
from edgecompress.settings import did_you_mean
from edgecompress.tasks.images import from_image_folder as from_image_folder
from edgecompress.tasks.rows import drop_shared as drop_shared
from edgecompress.tasks.rows import split_rows as split_rows
from edgecompress.tasks.tables import from_csv as from_csv
from edgecompress.tasks.tables import split_csv as split_csv
from edgecompress.tasks.task import Split
from edgecompress.tasks.texts import texts_from_csv as texts_from_csv

# The header of an idx file may ask for any size; no file of this kind is near 4 GB.
_MOST_IDX_BYTES = 2**32


def from_npz(
    path: Path | str, inputs: Mapping[str, str] | Sequence[str], labels: str | None = None
) -> Split:
    """Read a split from a `.npz` file.

    `inputs` maps input names to the file's arrays, or lists arrays that keep their names.
    Double precision becomes float32, integer labels become int64.
    """
    path = Path(path)
    keys = dict(inputs) if isinstance(inputs, Mapping) else {name: name for name in inputs}
    arrays = read_npz(path, [*keys.values(), *([labels] if labels else [])])
    return Split(
        {name: _as_input(arrays[key]) for name, key in keys.items()},
        _as_labels(arrays[labels]) if labels else None,
        (path,),
    )


def read_npz(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return the named arrays of a `.npz` file. Arrays of Python objects are refused."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            known = list(file.files)
            for name in names:
                if name not in known:
                    raise DataError(
                        f"data {path}: has no array {name!r}, only {', '.join(known)}"
                        f"{did_you_mean(name, known)}"
                    )
            return {name: file[name] for name in names}
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"data {path}: no such file") from error
    except (OSError, EOFError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise DataError(f"data {path}: {_npz_reason(error)}") from error
    except (zipfile.BadZipFile, zlib.error, MemoryError, RuntimeError, OverflowError) as error:
        raise DataError(f"data {path}: {_npz_reason(error)}") from error


def _npz_reason(error: BaseException) -> str:
    if "allow_pickle" in str(error):
        return (
            "holds Python objects, which only a pickle can store, and a pickle runs code; expected "
            "arrays of numbers (np.savez)"
        )
    return f"is no sound .npz file ({type(error).__name__}); write it again with np.savez"


def _as_input(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32) if array.dtype in (np.float64, np.float16) else array


def _as_labels(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.int64) if array.dtype.kind in "iub" else array


def from_idx(images: Path | str, labels: Path | str, name: str = "image") -> Split:
    """Read images and labels in MNIST's idx format, as `.gz` or unpacked.

    Images come out as float32 in 0..1 of shape (samples, 1, height, width).
    """
    pixels, classes = _read_idx(Path(images), 3), _read_idx(Path(labels), 1)
    if len(pixels) != len(classes):
        raise DataError(
            f"data {images}: holds {len(pixels)} images, but {labels} holds {len(classes)} labels; "
            "expected the two files of one split"
        )
    inputs = {name: (pixels[:, None] / np.float32(255)).astype(np.float32)}
    return Split(inputs, classes.astype(np.int64), (Path(images), Path(labels)))


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the array of an idx file: a magic number, big-endian sizes, then bytes."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as stream:
            header = stream.read(4 + 4 * dimensions)
            if header[:4] != bytes([0, 0, 8, dimensions]) or len(header) != 4 + 4 * dimensions:
                raise DataError(
                    f"data {path}: is no idx file of bytes with {dimensions} "
                    f"dimension{'s' if dimensions > 1 else ''}; expected e.g. "
                    f"{'train-images-idx3' if dimensions == 3 else 'train-labels-idx1'}-ubyte.gz"
                )
            shape = tuple(int(size) for size in np.frombuffer(header[4:], ">u4"))
            size = prod(shape)
            values = stream.read(min(size, _MOST_IDX_BYTES) + 1)
    except FileNotFoundError as error:
        raise DataError(f"data {path}: no such file") from error
    except (OSError, EOFError, ValueError, zlib.error, MemoryError) as error:
        raise DataError(
            f"data {path}: cannot be unpacked ({type(error).__name__}); get the file again"
        ) from error
    if len(values) != size:
        raise DataError(
            f"data {path}: its header promises {size} bytes, it holds "
            f"{'more' if len(values) > size else len(values)}; get the file again"
        )
    return np.frombuffer(values, np.uint8).reshape(shape)
