"""The command `distill-ray`, which is `python -m distill_ray` too."""

import atexit
import os
import sys


def run() -> None:
    """Run the command line, and end the process."""
    ended: list[int] = []
    atexit.register(_leave, ended)  # first, so that it is called last
    from distill_ray.cli import main

    ended.append(main())
    sys.exit(ended[0])


def _leave(ended: list[int]) -> None:
    """End at once. Python would take apart all that is loaded, which with torch and Ray takes a
    second and frees what the system frees anyway.
    """
    if not ended:
        return  # of an error that Python is to print
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            return  # Python says it
    os._exit(ended[0])


if __name__ == "__main__":
    run()
