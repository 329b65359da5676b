"""A verdict that does not flake: what holds for most seeds holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gradcheckup import Report
from pytest_gradcheckup.tracebacks import HIDDEN

__tracebackhide__ = HIDDEN


@dataclass(frozen=True, slots=True)
class Case:
    """One report of several.

    Attributes:
        seed: What it was made with; None for a report that was given.
        report: The report.
        broken: True where it breaks what is asserted.
    """

    seed: int | None
    report: Report
    broken: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """All cases that it took, in the order of the seeds.

    Attributes:
        cases: One or more.
        broken: True where more than half of all seeds break what is asserted.
    """

    cases: tuple[Case, ...]
    broken: bool

    @property
    def telling(self) -> Case:
        """The first case that agrees with the verdict."""
        return next(case for case in self.cases if case.broken == self.broken)

    def turned(self, broken: bool) -> Verdict:
        """The same cases under what all of them together say, where that is another thing."""
        if broken == self.broken:
            return self
        return Verdict(tuple(replace(case, broken=broken) for case in self.cases), broken)


def majority(cases: tuple[Case, ...]) -> Verdict:
    """What more than half of the cases say."""
    return Verdict(cases, 2 * sum(case.broken for case in cases) > len(cases))


def decide(
    run: Callable[[int], Report], seeds: Sequence[int], breaks: Callable[[Report], bool]
) -> Verdict:
    """Ask with one seed after the other until the rest cannot change the answer.

    Args:
        run: The report for a seed.
        seeds: All seeds, one or more.
        breaks: True for a report that breaks what is asserted.
    """
    needed = len(seeds) // 2 + 1
    cases: list[Case] = []
    for seed in seeds:
        report = run(seed)
        cases.append(Case(seed, report, breaks(report)))
        broken = sum(case.broken for case in cases)
        if broken >= needed or len(cases) - broken > len(seeds) - needed:
            break
    return Verdict(tuple(cases), broken >= needed)
