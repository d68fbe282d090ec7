"""The command line. Each command imports what it needs when it runs, so that `--help` and
`validate` respond at once.
"""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Sequence
from typing import Any

import click

from distill_ray.cli.bench import bench
from distill_ray.cli.data import data
from distill_ray.cli.init import init
from distill_ray.cli.inspect import compare, logs, report, status, ui
from distill_ray.cli.model import export, predict
from distill_ray.cli.repeat import repeat
from distill_ray.cli.run import plan, run, validate
from distill_ray.cli.schema import schema
from distill_ray.cli.store import gc, sync
from distill_ray.cli.teacher_logits import teacher_logits
from distill_ray.cli.teachers import teachers
from distill_ray.cli.uncertainty import uncertainty
from distill_ray.errors import DistillRayError, RequestError, out_of_memory
from distill_ray.log_printing import log_printed, printable


class Interrupted(DistillRayError):
    """Ctrl-C, or SIGTERM where a command takes it for that."""

    exit_code = 130


class Commands(click.Group):
    """The commands of `distill-ray`, with what applies to all of them."""

    def invoke(self, context: click.Context) -> Any:
        try:
            with log_printed(lambda line: click.echo(line, err=True)):
                return super().invoke(context)
        except KeyboardInterrupt:
            resumes = context.invoked_subcommand in ("run", "repeat")
            again = "; the same command again goes on from here" if resumes else ""
            raise Interrupted(f"interrupted{again}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 2 for a wrong request, 1 for a failure, 130
    after Ctrl-C.

    This is the one place where errors become text: a line or more for the user, and a traceback
    only in a file or with `--verbose`.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    _accept_any_character()
    try:
        if any("\0" in argument for argument in arguments):
            raise RequestError("an argument holds a NUL character, which no path can have")
        code = commands.main(args=list(arguments), prog_name="distill-ray", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        click.echo(printable(text.getvalue()), nl=False, err=True)
        return error.exit_code
    except DistillRayError as error:
        click.echo(printable(str(error)), err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except Exception as error:
        line = out_of_memory(error) or _unexpected(error, "--verbose" in arguments)
        click.echo(printable(line), err=True)
        return 1


def _accept_any_character() -> None:
    """Replace characters that the terminal's encoding lacks, instead of failing on them."""
    codecs.register_error("distill-ray", _replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="distill-ray")


_ASCII = {"·": "-", "±": "+-", "α": "alpha", "β": "beta", "–": "-", "—": "-", "…": "...", "×": "x"}


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_ASCII.get(character, "?") for character in missing), error.end


def _unexpected(error: Exception, verbose: bool) -> str:
    """One line about an unexpected error; its traceback goes into a file, or is printed."""
    import tempfile
    import traceback

    message = next(iter(str(error).splitlines()), "")
    line = f"distill-ray failed unexpectedly: {type(error).__name__}{': ' * bool(message)}{message}"
    if verbose:
        traceback.print_exception(error)
        return line
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="distill-ray-", suffix=".log", delete=False
        ) as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return f"{line} (--verbose shows the traceback)"
    return f"{line} (traceback: {file.name})"


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="distill-ray")
def commands() -> None:
    """Studies of ensemble distillation: train teachers, search how best to distil them into a
    student, confirm, report.

    \b
    Begin with:
      distill-ray init
      distill-ray validate quickstart.yaml
      distill-ray run quickstart.yaml
    """


for command in (
    init,
    run,
    repeat,
    validate,
    plan,
    teachers,
    bench,
    status,
    logs,
    report,
    compare,
    uncertainty,
    export,
    predict,
    ui,
    sync,
    gc,
    schema,
    data,
    teacher_logits,
):
    commands.add_command(command)
