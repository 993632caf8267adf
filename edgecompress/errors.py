"""What can go wrong, and the exit code each kind of failure ends a command with.

EdgecompressError                       70  a bug of ours, when nothing more precise is known
├── InputError                           2  something the user gave is wrong
│   ├── UsageError                          a command-line option
│   ├── RecipeError                         recipe.toml
│   ├── ProfileError                        a device profile
│   ├── TaskError                           the task's Python: what it returns, its networks
│   ├── DataError                           samples, labels, splits
│   ├── TeacherError                        the teacher's outputs
│   ├── ModelError                          an ONNX file
│   ├── TrainingError                       training that cannot go on (diverged, not finite)
│   └── PruningError                        a request that prunes nothing or too much
└── ResourceError                        4  disk, memory, time, device
    ├── FolderLockedError                   another run holds the folder
    ├── OutOfTimeError                      --max-time
    ├── ChildFailedError                    a measuring process died or ran past its limits
    └── DeviceError                         a phone or board over adb or ssh: away, full, unfit

A message is one line: what (file, field), what was given, what was expected, what to do.
"""

from __future__ import annotations

from collections.abc import Iterable

EXIT_PASS = 0
EXIT_FAIL = 1
EXIT_BAD_INPUT = 2
EXIT_INCONCLUSIVE = 3
EXIT_RESOURCE = 4
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
_GRAVEST_FIRST = (EXIT_BUG, EXIT_BAD_INPUT, EXIT_RESOURCE, EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS)


def gravest(codes: Iterable[int]) -> int:
    """Return the exit code of several answers together.

    >>> gravest([0, 3, 1]), gravest([1, 4, 2]), gravest([0, 0])
    (1, 2, 0)
    """
    return min(codes, key=_GRAVEST_FIRST.index)


class EdgecompressError(Exception):
    """Be the root of every error raised on purpose."""

    exit_code = EXIT_BUG

    def __str__(self) -> str:
        """Return one printable line, whatever the name of a file or a key holds."""
        return "".join(c if c.isprintable() else " " for c in super().__str__())


class InputError(EdgecompressError):
    """Say that something the user gave is wrong."""

    exit_code = EXIT_BAD_INPUT


class UsageError(InputError):
    """Refuse a command-line option."""


class RecipeError(InputError):
    """Refuse a recipe."""


class ProfileError(InputError):
    """Refuse a device profile."""


class TaskError(InputError):
    """Refuse what the task's Python returned."""


class DataError(InputError):
    """Refuse samples, labels or splits."""


class TeacherError(InputError):
    """Refuse the teacher's outputs."""


class ModelError(InputError):
    """Refuse an ONNX file."""


class TrainingError(InputError):
    """Stop a training that cannot go on."""


class PruningError(InputError):
    """Refuse a pruning request that removes nothing, or too much."""


class ResourceError(EdgecompressError):
    """Say that the machine, not the input, failed."""

    exit_code = EXIT_RESOURCE


class FolderLockedError(ResourceError):
    """Refuse a run folder that another run holds."""


class OutOfTimeError(ResourceError):
    """Stop because --max-time is used up; what is finished is kept."""


class ChildFailedError(ResourceError):
    """Report a measuring process that died or ran past its limits."""


class DeviceError(ResourceError):
    """Report a phone or board that cannot be reached, went away, or cannot run a model."""
