"""All seven mitigations side by side, and two variants that do not suffice.

    python demos/all_seven.py --plot all_seven.png
    python demos/all_seven.py --seeds 5

Each is applied to the same deep sigmoid net, which then is trained for as many
epochs as the one that is not treated. Every mitigation is judged in what it is
to put right: the gradient that reaches the first layer, the updates of the
slowest one (optimizer), or the gradient in each shallow net on the way to the
deep one (layerwise_training). These two leave the gradient of the first step as
it was, so the figure has them later: after the training, and at the start of
the last stage.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from statistics import median

import showing
from experiment import BATCH_SIZE, Case, Course, Measure, flow, follow, number

import gradcheckup
from gradcheckup import Report

UNTREATED = "untreated"
SEVEN = (
    "1_weight_scale",
    "2_activation",
    "3_optimizer",
    "4_normalization",
    "5_skip_connection",
    "6_layerwise_training",
    "7_gradient_normalization",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way to train the net.

    Attributes:
        name: Of the treatment.
        apply: Treats a case; None for nothing.
        measure: What it is to put right.
        remark: What has to be known where not all is well.
        profile: The report to draw, and what to call it.
        courses: What became of the net, one for each seed.
    """

    name: str
    apply: Callable[[Case], gradcheckup.Treated | None] = lambda _: None
    measure: Measure = flow
    remark: str = ""
    profile: tuple[str, Callable[[Course], Report]] = ("", lambda course: course.report)
    courses: list[Course] = field(default_factory=list)

    def healthy(self) -> int:
        """Seeds on which it is healthy in its own measure."""
        return sum(self.measure(course).is_healthy for course in self.courses)

    def better(self, other: Row) -> int:
        """Seeds on which it has more right answers than another way."""
        pairs = zip(self.courses, other.courses, strict=True)
        return sum(mine.accuracy[1] > theirs.accuracy[1] for mine, theirs in pairs)


def rows() -> list[Row]:
    """The net as it is, the seven, and the two that do not suffice."""
    made = [Row(name=UNTREATED)]
    later: Mapping[str, tuple[str, Callable[[Course], Report]]] = {
        "optimizer": (", later", lambda course: course.trained),
        "layerwise_training": (", later", lambda course: course.stages[-1]),
    }
    for name in SEVEN:
        demo = import_module(name)
        key = name[2:]
        shown = {"profile": later[key]} if key in later else {}
        made.append(
            Row(name=key, apply=demo.apply, measure=demo.MEASURE, remark=demo.REMARK, **shown)
        )
    made.append(
        Row(
            name="weights of N(0, 10²)",
            apply=lambda case: case.treat("weight_scale:normal", std=10),
            remark="Too much of a good thing: sigmoids saturate and gradients explode.",
        )
    )
    made.append(
        Row(
            name="norm of whole tensors",
            apply=lambda case: case.treat("normalization:tensor"),
            remark="An offset of each unit survives it, and most of what is there is offset. With "
            "the plain SGD(lr=0.01) of the tutorials such a net does not learn.",
        )
    )
    return made


def table(made: Sequence[Row]) -> str:
    """A line for each, with medians over the seeds where there are several."""
    text = f"{'':23} {'flow':7} {'healthy in its own measure':27} right answers\n"
    text += f"{'':23} {'':7} {'':27} before  after\n"
    for row in made:
        ratio = median(flow(course).values[0] for course in row.courses)
        first, after = zip(*(course.accuracy for course in row.courses), strict=True)
        figures = f"{number(ratio):7} {own(row):27} {median(first):6.2f}  {spread(after)}"
        text += f"{row.name:23} {figures}\n"
    return text


def own(row: Row) -> str:
    """``updates 0.0036, healthy``; on how many seeds, where there are several: ``5 of 5``."""
    readings = [row.measure(course) for course in row.courses]
    lowest = median(min(reading.values) for reading in readings)
    if len(readings) == 1:
        verdict = "healthy" if readings[0].is_healthy else "UNHEALTHY"
    else:
        verdict = f"{row.healthy()} of {len(readings)}"
    return f"{readings[0].short} {number(lowest)}, {verdict}"


def spread(values: Sequence[float]) -> str:
    """``0.97``, or ``0.35 … 0.47``."""
    ends = dict.fromkeys(f"{end:.2f}" for end in (min(values), max(values)))
    return " … ".join(ends)


def remarks(made: Sequence[Row]) -> Iterator[str]:
    """What the figures do not say of those that are not well in every way."""
    for row in made:
        worst = min(course.accuracy[1] for course in row.courses)
        healthy = row.healthy() == len(row.courses)
        codes = dict.fromkeys(
            f"{finding.code} {finding.rule}"
            for course in row.courses
            for finding in course.report.findings
            if finding.severity is gradcheckup.Severity.CRITICAL
        )
        said = [] if healthy else [f"out of the healthy range, accuracy {worst:.2f}"]
        said += [f"accuracy lags, at {worst:.2f}"] if healthy and worst < showing.LAGS else []
        said += [f"the verdict at the start is {', '.join(codes)}"] if codes else []
        if said and row.remark:
            yield showing.filled(f"{row.name}: {'; '.join(said)}. {row.remark}")


def summary(made: Sequence[Row]) -> tuple[str, bool]:
    """How many of the seven do what they are for on every seed, and whether all of them do."""
    untreated, seven, seeds = made[0], made[1 : 1 + len(SEVEN)], len(made[0].courses)
    healthy = sum(row.healthy() == seeds for row in seven)
    better = sum(row.better(untreated) == seeds for row in seven)
    text = (
        f"{healthy} of 7 reach the healthy range in their own measure, and {better} of 7 have more "
        "right answers than the net that is not treated"
        + (f", on each of {seeds} seeds." if seeds > 1 else ".")
    )
    return text, healthy == better == len(seven)


def main() -> None:
    parser = showing.parser(__doc__)
    parser.add_argument(
        "--seeds", type=showing.positive, default=1, help="how many, from --seed on (1)"
    )
    with showing.failures():
        options = parser.parse_args()
        made = rows()
        cases = [Case.build(options, options.seed + each) for each in range(options.seeds)]
        with showing.progress(len(made) * len(cases) * cases[0].epochs) as tick:
            for case in cases:
                # The net itself is trained last, since all others begin as copies of it.
                for row in reversed(made):
                    row.courses.append(follow(case, row.apply(case), tick))
        print(table(made))
        print(showing.filled(recipe(made, cases)) + "\n")
        for remark in remarks(made):
            print(remark + "\n")
        text, reached = summary(made)
        print(showing.filled(text))
        if options.plot:
            gradcheckup.plot_profiles(dict(map(profile, made)), options.plot)
            print(f"drawn: {options.plot}")
    sys.exit(0 if reached else 1)


def recipe(made: Sequence[Row], cases: Sequence[Case]) -> str:
    """How all of them were trained."""
    usual = made[0].courses[0].report.recording.optimizer
    others = [
        f"{row.name} with {optimizer}"
        for row in made
        if (optimizer := row.courses[0].report.recording.optimizer) != usual
    ]
    first, last = cases[0].seed, cases[-1].seed
    seeds = f"seed {first}" if first == last else f"seeds {first} to {last}"
    return (
        f"Each trained for {cases[0].epochs} epochs of batches of {BATCH_SIZE} with "
        f"{', '.join([usual, *others])}; {seeds}, right answers on a fifth that was held out."
    )


def profile(row: Row) -> tuple[str, Report]:
    """What to draw of it, and under which label."""
    later, report = row.profile
    return f"{row.name}{later}", report(row.courses[0])


if __name__ == "__main__":
    main()
