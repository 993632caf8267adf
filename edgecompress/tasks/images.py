"""Read a folder of images, one subfolder a class. The only file that uses Pillow."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edgecompress.errors import DataError
from edgecompress.tasks.task import Split

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

# More bits than 8 a channel: Pillow would clip them to white without a word.
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def from_image_folder(
    root: Path | str,
    size: tuple[int, int],
    channels: Literal[1, 3] = 3,
    class_names: tuple[str, ...] = (),
    name: str = "image",
) -> tuple[Split, tuple[str, ...]]:
    """Read `root/CLASS/*.png` (and jpg, bmp, webp, tif, ...); return the split and class names.

    `size` is (height, width); images are scaled to it. They come out as float32 in 0..1 of shape
    (samples, channels, height, width), grey (1) or RGB (3). The classes are the subfolders in
    order of their names; for another split of the same data give the first one's `class_names`.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"data {root}: no such folder; expected one subfolder a class")
    found = tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != "."))
    names = class_names or found
    if len(names) < 2 or set(found) - set(names):
        expected = f"those of {', '.join(names)}" if class_names else "at least two, one a class"
        raise DataError(
            f"data {root}: has the subfolders {', '.join(found) or '(none)'}; expected {expected}"
        )
    files = [(path, index) for index, label in enumerate(names) for path in _images(root / label)]
    if not files:
        raise DataError(f"data {root}: holds no image; expected files in {', '.join(SUFFIXES)}")
    pixels = np.empty((len(files), channels, *size), dtype=np.float32)
    for row, (path, _) in enumerate(files):
        pixels[row] = _read(path, size, channels)
    labels = np.array([index for _, index in files], dtype=np.int64)
    return Split({name: pixels}, labels, tuple(path for path, _ in files)), names


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.name[0] != "." and path.is_file()
    )


def _read(path: Path, size: tuple[int, int], channels: int) -> NDArray[np.float32]:
    """Return one image, turned upright as its camera noted, of shape (channels, height, width)."""
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if image.mode in _DEEP_MODES:
                raise DataError(
                    f"data {path}: has {image.mode} pixels, more than 8 bits a channel; convert it "
                    "to 8 bits with the scaling that suits it"
                )
            upright = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
            scaled = upright.resize(size[::-1], Image.Resampling.BILINEAR)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever their parsing trips over
        raise DataError(
            f"data {path}: is no readable image ({type(error).__name__}); replace or remove it"
        ) from error
    pixels = np.asarray(scaled, dtype=np.float32) / np.float32(255)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
