"""The `edgecompress` command: which commands there are, and how each way of ending ends.

Nothing heavy is imported here: a command imports what it needs when it is called, so that
`--help` and a wrong option answer at once, and `check`, `measure` and `report` never load torch.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from types import FrameType
from typing import Annotated

import typer
from typer.exceptions import Exit, TyperException

from edgecompress import __version__
from edgecompress.cli.bundle_command import bundle
from edgecompress.cli.check_command import check
from edgecompress.cli.model_commands import measure, quantize
from edgecompress.cli.run_commands import compare, distill, export, prune, report, run
from edgecompress.cli.setup_commands import doctor, init, profiles
from edgecompress.cli.show import say
from edgecompress.cli.student_command import students
from edgecompress.cli.verify_command import verify
from edgecompress.errors import (
    EXIT_BAD_INPUT,
    EXIT_BUG,
    EXIT_INTERRUPTED,
    EXIT_PASS,
    EXIT_RESOURCE,
    EdgecompressError,
)

app = typer.Typer(
    name="edgecompress",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Every command takes --debug, which shows the traceback of an error.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise Exit


@app.callback()
def describe(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version."),
    ] = False,
) -> None:
    """Give it a teacher, data and a device budget; get back the best ONNX model that fits."""


COMMANDS: tuple[Callable[..., int], ...] = (
    *(run, check, measure, distill, prune, export, quantize, verify, bundle),
    *(report, compare, students, init, doctor),
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(profiles, name="profiles")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (`sys.argv` by default) and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _terminable():
            _prepare_streams()
            code = _call([word for word in given if word != "--debug"])
            if sys.stdout is not None:  # as it is when somebody closed it
                sys.stdout.flush()
    except BaseException as error:
        if "--debug" in given:
            for line in traceback.format_exc().splitlines():
                say(line)
        code, line = explain(error)
        if line:
            say(f"error: {line}")
    _abandon_streams()
    return code


def explain(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the one line that an error ends a command with."""
    match error:
        case EdgecompressError():
            return error.exit_code, str(error)
        case TyperException():
            return EXIT_BAD_INPUT, _explain_usage(error)
        case KeyboardInterrupt():
            return EXIT_INTERRUPTED, str(error) or "interrupted"
        case BrokenPipeError():
            return EXIT_RESOURCE, ""
        case MemoryError():
            return EXIT_RESOURCE, "out of memory; close other programs or use smaller batches"
        case RuntimeError() if "can't allocate memory" in str(error):  # how torch words it
            return EXIT_RESOURCE, "out of memory; close other programs or use smaller batches"
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return EXIT_RESOURCE, f"{where}{error.strerror or error}"
    return EXIT_BUG, (
        f"a bug in edgecompress: {type(error).__name__}: {error}; "
        "please report it with what the same command prints with --debug"
    )


def _call(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        with command.make_context("edgecompress", arguments) as context:
            code = command.invoke(context)
    except Exit as done:  # --help, --version
        return done.exit_code
    return code if isinstance(code, int) else EXIT_PASS


def _explain_usage(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "edgecompress"
    message = error.format_message().rstrip(".").replace(". Did you mean", "; did you mean")
    see = " See" if message.endswith("?") else "; see"
    return f"{message[0].lower()}{message[1:]}{see} '{path} --help'"


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does, so that locks and children go away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _prepare_streams() -> None:
    """Let odd names be shown escaped, and no file take the number of a stream that is closed.

    Else what a library writes to number 1 or 2 would land in a file of the run folder.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def _abandon_streams() -> None:
    """Point a stream that cannot be written nowhere, so that Python does not fail on it again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except (ValueError, AttributeError):  # closed
            continue
