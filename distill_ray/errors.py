"""The two ways a command can end badly, and what each owes the reader."""


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
