"""``gradcheckup treatments``: what can be tried, and where it does not apply."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from gradcheckup.cli.console import print_out, width_of, wrapped
from gradcheckup.cli.failures import traceback_option
from gradcheckup.errors import UsageError
from gradcheckup.suggestions import did_you_mean

if TYPE_CHECKING:
    from gradcheckup.treatments import Treatment

_EPILOG = """\b
examples
  gradcheckup treatments
  gradcheckup treatments normalization
  gradcheckup prescribe model.py --treatments normalization:layer,optimizer
"""

_HEAD = """# Treatments

What `gradcheckup.treat` and `gradcheckup prescribe` apply to a copy of a model. This page is
written by `gradcheckup treatments --markdown > docs/treatments.md`; `gradcheckup treatments KEY`
prints the same text.

Name one as `normalization`, with a variant as `normalization:layer` (the first one listed is the
default), and several that are applied in turn as `skip_connection + normalization`. Options are
keywords of `treat`: `gradcheckup.treat(model, "weight_scale:normal", std=10)`.
"""

_ACTS_ON = {
    "flow": "the flow of signal and gradient, from the first step on",
    "updates": "what the optimizer makes of the gradient",
    "training": "the order of training",
}


@click.command(epilog=_EPILOG)
@click.argument("key", required=False)
@click.option(
    "--markdown", is_flag=True, help="The whole reference page, as in docs/treatments.md."
)
@traceback_option
def treatments(key: str | None, *, markdown: bool) -> int:
    """List all treatments, or say what one of them does and where it does not apply."""
    from gradcheckup.treatments import TREATMENTS

    if markdown:
        print_out("\n".join([_HEAD, *map(_section, TREATMENTS)]).rstrip())
    elif key:
        print_out("\n".join(_explanation(_find(key, TREATMENTS), width_of(sys.stdout))))
    else:
        _list(TREATMENTS)
    return 0


def _list(every: tuple[Treatment, ...]) -> None:
    width = width_of(sys.stdout)
    longest = max(len(each.key) for each in every)
    for each in every:
        head = f"{each.key:<{longest}}  "
        for text in (each.summary, f"variants: {', '.join(each.variants)}"):
            print_out(wrapped(text, width, first=head, other=" " * len(head)))
            head = " " * len(head)
    print_out("\nmore on one of them: gradcheckup treatments KEY")


def _find(word: str, every: tuple[Treatment, ...]) -> Treatment:
    plain = word.strip().lower().replace("-", "_").replace(" ", "_").partition(":")[0]
    known = {each.key: each for each in every}
    if plain not in known:
        hint = did_you_mean(plain, known) or "; gradcheckup treatments lists them"
        raise UsageError(f"no treatment {word!r}{hint}")
    return known[plain]


def _explanation(treatment: Treatment, width: int) -> Iterator[str]:
    yield treatment.key
    yield wrapped(treatment.summary, width, first="  ", other="  ")
    yield from ("", "works on", f"  {_ACTS_ON[treatment.acts_on]}")
    yield from ("", "variants")
    longest = max(map(len, treatment.variants))
    for name, text in treatment.variants.items():
        options = _options(treatment, name)
        head = f"  {name:<{longest}}  "
        yield wrapped(text + options, width, first=head, other=" " * len(head))
    for heading, text in (("limits", treatment.limits), ("from", treatment.source)):
        yield from ("", heading, wrapped(text, width, first="  ", other="  "))


def _section(treatment: Treatment) -> str:
    rows = [
        f"  - `{name}`: {text}{_options(treatment, name)}"
        for name, text in treatment.variants.items()
    ]
    return "\n".join(
        [
            f"## {treatment.key}\n",
            f"{treatment.summary}\n",
            f"- **Works on**: {_ACTS_ON[treatment.acts_on]}",
            "- **Variants**:",
            *rows,
            f"- **Limits**: {treatment.limits}",
            f"- **From**: {treatment.source}\n",
        ]
    )


def _options(treatment: Treatment, variant: str) -> str:
    """`` (std=1)``; "" where the variant takes none."""
    taken = treatment.options_of(variant)
    return f" ({', '.join(f'{name}={value:g}' for name, value in taken.items())})" if taken else ""
