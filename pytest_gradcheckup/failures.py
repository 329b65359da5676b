"""What a failed assertion says."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_gradcheckup.majority import Verdict


def failure(claim: str, verdict: Verdict, silence: str) -> str:
    """What was asserted and does not hold, the report that tells it, seeds, and what to do.

    Args:
        claim: The first line.
        verdict: What speaks against it.
        silence: How to leave it out, where it is wanted so.
    """
    lines = [claim, "", str(verdict.telling.report), ""]
    seeds = _seeds(verdict)
    return "\n".join([*lines, *([seeds] if seeds else []), f"wanted so? {silence}"])


def _seeds(verdict: Verdict) -> str:
    """Which seeds say so, and how to see it again; empty for a report that was given."""
    broken = [case.seed for case in verdict.cases if case.broken and case.seed is not None]
    if not broken:
        return ""
    held = [case.seed for case in verdict.cases if not case.broken and case.seed is not None]
    fine = f", not with {_listed(held)}" if held else ""
    return f"so with {_listed(broken)}{fine}; again: --gradcheckup-seed={broken[0]}"


def _listed(seeds: Sequence[int]) -> str:
    word = "seed" if len(seeds) == 1 else "seeds"
    return f"{word} {', '.join(map(str, seeds))}"
