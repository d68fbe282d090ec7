"""The command line. Each command imports what it needs when it runs, so that `--help` and
`validate` respond at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from distill_ray.cli.bench import bench
from distill_ray.cli.data import data
from distill_ray.cli.inspect import compare, logs, report, status, ui
from distill_ray.cli.model import export, predict
from distill_ray.cli.run import plan, run, validate
from distill_ray.cli.schema import schema
from distill_ray.cli.store import gc, sync
from distill_ray.cli.uncertainty import uncertainty
from distill_ray.errors import DistillRayError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 2 for a wrong request, 1 for a failure, 130
    after Ctrl-C.

    This is the one place where errors become text: a line or more for the user, and a traceback
    only in a file or with `--verbose`.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = commands.main(args=list(arguments), prog_name="distill-ray", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except DistillRayError as error:
        click.echo(str(error), err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        again = "; the same command again goes on from here" if "run" in arguments[:1] else ""
        click.echo(f"interrupted{again}", err=True)
        return 130
    except Exception as error:
        click.echo(_unexpected(error, "--verbose" in arguments), err=True)
        return 1


def _unexpected(error: Exception, verbose: bool) -> str:
    """One line about an error that nobody expected; its traceback goes into a file, or is printed."""
    import tempfile
    import traceback

    from distill_ray.report.results import without_credentials

    message = without_credentials(next(iter(str(error).splitlines()), ""))
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


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="distill-ray")
def commands() -> None:
    """Studies of ensemble distillation: train teachers, search how best to distil them into a
    student, confirm, report.

    \b
    Begin with:
      distill-ray validate studies/quickstart.yaml
      distill-ray run studies/quickstart.yaml
    """


for command in (
    *(
        run,
        validate,
        plan,
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
    ),
):
    commands.add_command(command)
