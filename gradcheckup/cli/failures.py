"""What goes wrong, said in one sentence; and the exit codes."""

from __future__ import annotations

import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from gradcheckup.cli.console import WIDTH, color_wanted, silence_stdout
from gradcheckup.errors import GradcheckupError
from gradcheckup.suggestions import did_you_mean
from gradcheckup.tracebacks import one_line, user_traceback

USAGE, INTERNAL, INTERRUPTED, BROKEN_PIPE = 2, 3, 130, 141

Function = TypeVar("Function", bound=Callable[..., Any])


def traceback_option(function: Function) -> Function:
    """``--traceback``, which `Commands.main` reads from the raw arguments."""
    return click.option(
        "--traceback",
        is_flag=True,
        expose_value=False,
        help="Show the whole traceback of an error.",
    )(function)


class Commands(click.Group):
    """A group that suggests what a typo meant, and turns every failure into a sentence."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run and exit with the code that the command returned or that its failure has."""
        arguments = list(sys.argv[1:] if args is None else args)
        name = prog_name or "gradcheckup"
        if not standalone_mode:
            return super().main(arguments, name, complete_var, standalone_mode=False, **extra)
        try:
            code = super().main(arguments, name, complete_var, standalone_mode=False, **extra)
        except BaseException as error:  # noqa: BLE001 - the boundary: nothing may pass unsaid
            code = _fail(error, arguments)
        sys.exit(code if isinstance(code, int) else 0)

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command, or an error with the one that was probably meant."""
        word = arguments[0]
        if self.get_command(context, word) is None and not word.startswith("-"):
            hint = did_you_mean(word, self.list_commands(context), form="gradcheckup {}")
            if word.endswith(".py") or ":" in word:
                hint = f"; did you mean gradcheckup diagnose {word}?"
            known = ", ".join(self.list_commands(context))
            context.fail(f"no command {word!r}{hint or f'; there are {known}'}")
        return super().resolve_command(context, arguments)


def _fail(error: BaseException, arguments: Sequence[str]) -> int:
    """Print what happened to stderr; the exit code."""
    color = color_wanted(sys.stderr, refused="--no-color" in arguments)
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        silence_stdout()
        return BROKEN_PIPE
    if isinstance(error, click.ClickException):
        _say(error.format_message().rstrip("."), color=color)
        context = getattr(error, "ctx", None)
        if context is not None:
            click.echo(f"see {context.command_path} --help", err=True)
        return USAGE
    return _explain(error, full="--traceback" in arguments, color=color)


def _explain(error: BaseException, *, full: bool, color: bool) -> int:
    """A mistake in the user's code or ours, with as much of the traceback as is wanted."""
    if full:
        traceback.print_exception(error)
    if isinstance(error, SystemExit):
        # Raised by `forward` or a loss; at import it is a TargetError already.
        message = f"the model's code called sys.exit({error.code!r}) while it ran"
        error = GradcheckupError(message, traceback_text=user_traceback(error))
    if not isinstance(error, GradcheckupError):
        _say(f"this is a bug in gradcheckup: {one_line(error)}", color=color)
        if not full:
            click.echo("to report it, run the same command with --traceback", err=True)
        return INTERNAL
    _say(str(error), color=color)
    if error.traceback_text and not full:
        click.echo(textwrap.indent(error.traceback_text, "  "), err=True)
    if error.__cause__ is not None and not full:
        click.echo("--traceback shows everything", err=True)
    return USAGE


def _say(message: str, *, color: bool) -> None:
    """``error: ...`` in 80 columns; words as long as paths are never broken."""
    lines = f"error: {message}".splitlines()
    wrapped = [
        textwrap.fill(
            line,
            WIDTH,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        )
        for line in lines
    ]
    text = "\n".join(wrapped)
    if color:
        text = click.style("error:", fg="red", bold=True) + text.removeprefix("error:")
    click.echo(text, err=True, color=color)
