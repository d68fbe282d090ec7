"""The two ways a command can end badly, what each owes the reader, and how an error crosses from
one process to another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal


class DistillRayError(Exception):
    """Base of the errors that carry a message for the user instead of a traceback."""

    exit_code = 1


class RequestError(DistillRayError):
    """What was asked for is wrong: a bad study file, an impossible combination, an unreadable data
    set.

    The message says what is wrong, where (file, line, field) and what to do. The command line exits
    with 2.
    """

    exit_code = 2


def first_line(error: BaseException, length: int = 300) -> str:
    """The first line of an error's message that is not empty, at most `length` characters of it;
    the name of its class if there is no message.
    """
    lines = (line.strip() for line in str(error).splitlines())
    text = next(filter(None, lines), type(error).__name__)
    return text if len(text) <= length else f"{text[:length]}..."


def out_of_memory(error: BaseException) -> str | None:
    """What to do about an error that says that memory could not be had; None for any other error.

    Memory of a GPU and that of the machine alike. A process that the system kills for its memory
    has no such error.
    """
    lacking = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if not lacking and "DefaultCPUAllocator" not in str(error):
        return None
    asked = re.search(r"[\d.]+ (bytes|[KMGTP]i?B)", str(error))
    return (
        f"out of memory{f', {asked[0]} at once' if asked else ''}: smaller images (data.size, and "
        "preprocessing.size of a network), a smaller batch_size or network take less"
    )


class RunError(DistillRayError):
    """The request was fine, and something failed while it ran. The command line exits with 1."""


class StoreError(RunError):
    """The store cannot be read or written, or has lost something; whichever job noticed it, the
    same command goes on later.
    """


class DamagedError(StoreError):
    """A record of the store was damaged or is gone. It was set aside, so the stages of the study
    make it anew when run again.
    """


Fault = Literal["request", "job", "damaged", "store", "machine"]
"""Where an error in another process comes from. What follows from it is the same for every job:

- `request`, `job`: the job itself, which would fail again. It has failed, and is not tried again.
- `damaged`: a record that the job needs. The job has not failed; the stages make the record anew.
- `store`: the store cannot be read or written. No job has failed; the study ends, and goes on when
  the same command is given again.
- `machine`: the process or what it runs in, such as a disk that cannot be read or a package that is
  gone. The job has not failed, and is tried again as often as `resources.retries` says.
"""


@dataclass(frozen=True)
class Failure:
    """An error as plain values, which any channel between two processes carries."""

    fault: Fault
    reason: str
    errno: int | None = None

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """The values of `error`."""
        text = str(error) or type(error).__name__
        match error:
            case DamagedError():
                return cls("damaged", text)
            case StoreError():
                return cls("store", text)
            case RequestError():
                return cls("request", text)
            case OSError():
                return cls("machine", error.strerror or text, error.errno)
            case ImportError():
                return cls("machine", text)
        return cls("job", out_of_memory(error) or text)

    def error(self) -> Exception:
        """The error again, as one of our own or as an `OSError`."""
        match self.fault:
            case "damaged":
                return DamagedError(self.reason)
            case "store":
                return StoreError(self.reason)
            case "request":
                return RequestError(self.reason)
            case "machine":
                return OSError(self.errno, self.reason)
        return RunError(self.reason)
