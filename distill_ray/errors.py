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
