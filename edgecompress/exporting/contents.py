"""What goes into a bundle, and what is known of it once its model is in place."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgecompress.exporting.golden import Golden
from edgecompress.exporting.mobile import Mobile
from edgecompress.graphs import About
from edgecompress.records import Kind, Report
from edgecompress.tasks.task import Arrays, Normalization
from edgecompress.tasks.tokenizers import Tokenizer


@dataclass(frozen=True)
class BundleContents:
    """Hold what a bundle is made of.

    `calls` are a few real inputs, one call each, all of the same shapes; `samples` the sizes of
    the data's splits, where there are any; `tokenizer` is what makes the model's input of texts,
    where it reads them; `kind` is the task's and `intended_use` what its author says, if anything.
    A report without a profile is of a model that nobody judged.
    """

    report: Report
    calls: tuple[Arrays, ...]
    class_names: tuple[str, ...] = ()
    normalization: Mapping[str, Normalization] = field(default_factory=dict)
    samples: Mapping[str, int] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None
    kind: Kind | None = "classification"
    intended_use: str = ""

    @property
    def labels(self) -> list[str]:
        """Return the class names, each in one line."""
        return [one_line(name) for name in self.class_names]


def one_line(text: str) -> str:
    r"""Return text in one line, without what terminals obey and what UTF-8 cannot hold.

    >>> one_line("a\nsquare \x1b[31m"), one_line("\ud800")
    ('a square ?[31m', '?')
    """
    kept = " ".join(text.split())
    return "".join("?" if unicodedata.category(sign) in ("Cc", "Cs") else sign for sign in kept)


@dataclass(frozen=True)
class FileFacts:
    """Hold what the manifest says of a file; `download_bytes` are those of it compressed."""

    sha256: str
    size_bytes: int
    download_bytes: int


@dataclass(frozen=True)
class Made:
    """Hold what stands in the bundle before its card and its bill of materials are written.

    `about` is what the model's file says of itself.
    """

    golden: Golden
    mobile: Mobile
    runtime_version: str
    about: About
    files: Mapping[str, FileFacts]

    @property
    def model_file(self) -> str:
        """Return the file that an app loads."""
        return "model.onnx" if self.mobile.ort_reason else "model.ort"
