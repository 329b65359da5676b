"""The command line. Nothing here imports torch before a probe is due."""

from __future__ import annotations

import click

from gradcheckup import __version__
from gradcheckup.cli.compare import compare
from gradcheckup.cli.diagnose import diagnose
from gradcheckup.cli.failures import Commands, traceback_option
from gradcheckup.cli.knowledge import explain, rules
from gradcheckup.cli.prescribe import prescribe
from gradcheckup.cli.run import run
from gradcheckup.cli.show import show
from gradcheckup.cli.treatments import treatments

_EPILOG = """\b
examples
  gradcheckup diagnose model.py
  gradcheckup prescribe model.py
  gradcheckup run train.py --epochs 3
  gradcheckup diagnose torchvision.models:resnet50 --input 8,3,96,96
  gradcheckup explain GC101

\b
exit codes
  0    healthy; run has the exit code of the script
  1    findings as bad as --fail-on or worse
  2    a wrong option, or a target that cannot be diagnosed
  3    a bug in gradcheckup
  130  interrupted
"""


@click.group(
    cls=Commands,
    commands=[diagnose, prescribe, run, show, compare, rules, explain, treatments],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog=_EPILOG,
    invoke_without_command=True,
)
@click.version_option(__version__, prog_name="gradcheckup", message="%(prog)s %(version)s")
@traceback_option
@click.pass_context
def main(context: click.Context) -> int:
    """Say which layer of a PyTorch network starves of gradient, and why."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        return 2
    return 0


__all__ = ["main"]
