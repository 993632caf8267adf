"""Write for people and machines: the result to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


def emit(text: str) -> None:
    """Print a result to stdout."""
    print(text.rstrip("\n"))


def emit_json(document: object) -> None:
    """Print a result to stdout as one JSON document."""
    print(json.dumps(document, indent=2, allow_nan=False))


def say(text: str) -> None:
    """Print one line to stderr: progress, a warning, an error."""
    if sys.stderr is not None:  # as it is when somebody closed it
        with suppress(OSError):  # who cannot be told is not told; the exit code still says it
            print(printable(text), file=sys.stderr, flush=True)


def table(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> str:
    """Return rows as columns two spaces apart, those in `right` set to the right.

    Nothing is cut, so that what stands in a cell can be copied from it.

    >>> print(table([("a", "ms"), ("bc", "1.5")], right=[1]))
    a    ms
    bc  1.5
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    set_right = set(right)
    lines = (
        "  ".join(
            cell.rjust(width) if i in set_right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def printable(text: str) -> str:
    """Return one line, with nothing in it that could move a terminal's cursor."""
    return "".join(c if c.isprintable() else " " for c in text)


@dataclass(frozen=True)
class Progress:
    """Show how far a run is: lines, and on a terminal a bar with the time that is left."""

    bar: Bar | None = None

    def say(self, text: str) -> None:
        """Print a line above the bar, which then starts anew."""
        if self.bar is None:
            say(text)
            return
        for task in self.bar.task_ids:
            self.bar.remove_task(task)
        self.bar.refresh()
        self.bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def wait(self, text: str) -> None:
        """Show that something of unknown length is going on."""
        self.tick(text, 0, 0)

    def tick(self, text: str, done: int, total: int) -> None:
        """Move the bar to `done` of `total` steps; of 0 steps, where nobody knows how many."""
        if self.bar is None:
            return
        current = self.bar.tasks[-1] if self.bar.tasks else None
        if current is None or current.total != (total or None) or done < current.completed:
            for task in self.bar.task_ids:
                self.bar.remove_task(task)
            self.bar.add_task(text, total=total or None, completed=done, rate="")
        else:
            rate = f"{current.speed:.1f}/s" if current.speed else ""
            self.bar.update(current.id, description=text, completed=done, rate=rate)


@contextmanager
def progress() -> Iterator[Progress]:
    """Show a bar while the block runs, if stderr is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield Progress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
    )
    with Bar(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as bar:
        yield Progress(bar)
