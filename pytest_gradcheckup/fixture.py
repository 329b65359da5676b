"""The object that tests hold: ``gradcheckup.assert_healthy(model, data, criterion)``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import gradcheckup
from gradcheckup import Monitor, Report
from pytest_gradcheckup import claims, loops
from pytest_gradcheckup.differences import check_tolerance
from pytest_gradcheckup.failures import fail
from pytest_gradcheckup.journal import Journal, journal_of
from pytest_gradcheckup.looks import first_look, second_look
from pytest_gradcheckup.options import check_probe_options
from pytest_gradcheckup.probing import MEASURED, Probing
from pytest_gradcheckup.settings import CheckSettings, matching
from pytest_gradcheckup.shelf import Shelf, shelf_of
from pytest_gradcheckup.silence import Silence, silence_of
from pytest_gradcheckup.suggestions import suggestion
from pytest_gradcheckup.tracebacks import HIDDEN

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from typing_extensions import Unpack

    from pytest_gradcheckup.options import CheckOptions, ProbeOptions, WatchOptions

__tracebackhide__ = HIDDEN


class Checker:
    """Gradient checks in a test. The fixture `gradcheckup` is one.

    `model` is an `nn.Module`, or a function without arguments that builds one: then each seed
    draws weights of its own. `data` and `criterion` are those of `gradcheckup.diagnose`; an
    iterator is read once and serves all seeds. Assertions take a report, or the monitor of a
    watched loop, in place of the model and its data. Each assertion asks with several seeds, and
    fails where more than half of them speak against it; model, data and random states are
    afterwards as they were.

    The public names of gradcheckup are its attributes too (`gradcheckup.load_report`), because the
    fixture hides the module of the same name.
    """

    def __init__(
        self,
        settings: CheckSettings,
        shelf: Shelf,
        journal: Journal,
        ends: ExitStack,
        silence: Silence,
    ) -> None:
        self._settings, self._shelf, self._journal = settings, shelf, journal
        self._ends, self._silence = ends, silence

    def __getattr__(self, name: str) -> Any:
        __tracebackhide__ = True
        if name.startswith("_") or name not in gradcheckup.__all__:
            known = [*vars(type(self)), *gradcheckup.__all__]
            hint = suggestion(name, known, "docs/pytest.md lists what they have")
            raise AttributeError(f"no gradcheckup.{name}, in the fixture or the module; {hint}")
        return getattr(gradcheckup, name)

    def diagnose(
        self, model: Any, data: Any, criterion: Any = None, **options: Unpack[CheckOptions]
    ) -> Report:
        """The report of one probe, with the first seed.

        Raises:
            GradcheckupError: The model, the data or an option cannot be used.
        """
        return Probing(model, data, criterion, self._settings, options).run()

    def watch(
        self,
        model: nn.Module,
        optimizer: Optimizer | Iterable[Optimizer] | None = None,
        **options: Unpack[WatchOptions],
    ) -> Monitor:
        """Watches a loop of the test, each of its steps; `assert_healthy(monitor)` is the check.

        Rules and limits are those of the test's settings. It is closed at the end of the test at
        the latest. What is never asserted fails nothing.

        Args:
            model: The model that the loop trains.
            optimizer: Its optimizer, or several; None for a loop that calls `monitor.step()`.
            options: See `gradcheckup.watch`; `every` is 1 where it is left out.

        Raises:
            GradcheckupError: The model, the optimizer or an option cannot be used.
        """
        monitor = loops.watch(model, optimizer, self._settings, options)
        self._ends.callback(monitor.close)
        return monitor

    def assert_healthy(
        self,
        model: Any,
        data: Any = None,
        criterion: Any = None,
        **options: Unpack[CheckOptions],
    ) -> None:
        """Fails where a finding stands that is as bad as `fail_on` or worse.

        Raises:
            UnhealthyError: An AssertionError, with the report.
            GradcheckupError: The model, the data or an option cannot be used.
        """
        with self._journal.check("assert_healthy") as check:
            probe = Probing(model, data, criterion, self._settings, options)
            fail_on = probe.settings.fail_on
            verdict = probe.decide(lambda report: bool(report.at_least(fail_on)))
            check.enter(verdict)
            if verdict.broken:
                found = verdict.telling.report.at_least(fail_on)
                silence = self._silence.leaving_out(dict.fromkeys(each.code for each in found))
                fail(f"unhealthy gradient flow: {claims.named(found)}", verdict, silence, found)

    def assert_no(
        self,
        code: str,
        model: Any,
        data: Any = None,
        criterion: Any = None,
        *,
        thresholds: gradcheckup.Thresholds | Mapping[str, float] | None = None,
        **options: Unpack[ProbeOptions],
    ) -> None:
        """Fails where a rule finds something, however bad.

        What the settings select and ignore has no bearing on it, unless a report or a monitor
        judged by them already.

        Args:
            code: ``GC101``, the beginning of codes (``GC1``) or a name (``vanishing-gradient``).
            model: See the class; or a report or monitor.
            data: Likewise.
            criterion: Likewise.
            thresholds: Limits to judge by.
            options: See `ProbeOptions`.

        Raises:
            UnhealthyError: An AssertionError, with the report.
            UsageError: There is no such rule.
            GradcheckupError: The model, the data or an option cannot be used.
        """
        with self._journal.check("assert_no") as check:
            if not isinstance(code, str):
                raise gradcheckup.UsageError(
                    "expected a rule code first, as in assert_no('GC101', model, data, criterion), "
                    f"got {type(code).__name__}"
                )
            check_probe_options(options)
            codes = matching(code, "assert_no")
            judging: dict[str, Any] = {**options, "select": sorted(codes), "ignore": ()}
            if isinstance(model, MEASURED):
                judging = dict(options)
            if thresholds is not None:
                judging["thresholds"] = thresholds
            probe = Probing(model, data, criterion, self._settings, judging)
            verdict = probe.decide(lambda report: bool(claims.with_codes(report, codes)))
            check.enter(verdict)
            if verdict.broken:
                found = claims.with_codes(verdict.telling.report, codes)
                silence = "leave the assertion out, or move its limit: thresholds={...}"
                fail(f"expected no {code}, found {claims.named(found)}", verdict, silence, found)

    def assert_reaches(
        self,
        model: Any,
        layer: str,
        data: Any = None,
        criterion: Any = None,
        **options: Unpack[ProbeOptions],
    ) -> None:
        """Fails where no gradient of the loss reaches a layer: none arrives, or exactly 0.

        Args:
            model: See the class; or a report or monitor.
            layer: Its name, as ``stem.conv``; of a module of layers, one has to be reached.
            data: See the class.
            criterion: Likewise.
            options: See `ProbeOptions`.

        Raises:
            UnhealthyError: An AssertionError, with the report.
            UsageError: The model has no such layer.
            GradcheckupError: The model, the data or an option cannot be used.
        """
        with self._journal.check("assert_reaches") as check:
            if not isinstance(layer, str):
                raise gradcheckup.UsageError(
                    "expected the name of a layer second, as in assert_reaches(model, 'stem.conv', "
                    f"data, criterion), got {type(layer).__name__}"
                )
            check_probe_options(options)
            probe = Probing(model, data, criterion, self._settings, options)
            verdict = probe.decide(lambda report: claims.unreached(report, layer) is not None)
            check.enter(verdict)
            if verdict.broken:
                claim = claims.unreached(verdict.telling.report, layer) or ""
                fail(claim, verdict, "leave the assertion out")

    def assert_all_parameters_train(
        self,
        model: Any,
        data: Any = None,
        criterion: Any = None,
        *,
        ignore: str | Iterable[str] = (),
        **options: Unpack[ProbeOptions],
    ) -> None:
        """Fails where a parameter is the same after the probe, also where it is frozen on purpose.

        Args:
            model: See the class; or a report or monitor.
            data: See the class.
            criterion: Likewise.
            ignore: Names to leave out, with the wildcards of a shell: ``backbone.*``, ``*.bias``.
            options: See `ProbeOptions`.

        Raises:
            UnhealthyError: An AssertionError, with the report.
            GradcheckupError: The model, the data or an option cannot be used.
        """
        with self._journal.check("assert_all_parameters_train") as check:
            check_probe_options(options)
            patterns = claims.name_patterns(ignore)
            probe = Probing(model, data, criterion, self._settings, options)
            verdict = probe.decide(lambda report: bool(claims.standing(report, patterns)))
            check.enter(verdict)
            if verdict.broken:
                found = claims.standing(verdict.telling.report, patterns)
                claim = claims.unchanged(found, len(verdict.telling.report.steps))
                fail(claim, verdict, f"ignore=[{found[0].name!r}, ...]")

    def assert_matches_baseline(
        self,
        model: Any,
        data: Any = None,
        criterion: Any = None,
        *,
        name: str | None = None,
        tolerance: float = 2.0,
        **options: Unpack[ProbeOptions],
    ) -> None:
        """Fails where gradient or signal of a layer is not what it was, or layers came or went.

        The baseline stands in ``__gradcheckup__`` beside the test, and is written where there is
        none. Layers that have new names alone do not fail; the summary names them.

        Args:
            model: See the class; or a report or monitor.
            data: See the class.
            criterion: Likewise.
            name: What to call the baseline; unique in its module. The test's name when left out.
            tolerance: By which factor a value may be smaller or larger.
            options: See `ProbeOptions`.

        Raises:
            UnhealthyError: An AssertionError, with what is different.
            ReportError: The baseline is corrupt, or cannot be written.
            GradcheckupError: The model, the data or an option cannot be used.
        """
        with self._journal.check("assert_matches_baseline") as check:
            check_probe_options(options)
            check_tolerance(tolerance)
            path = self._shelf.place(name)
            before = self._shelf.standard(path)
            probe = Probing(model, data, criterion, self._settings, options)
            if before is None:
                first_look(probe, path, self._shelf, check, tolerance=tolerance)
            else:
                second_look(probe, path, self._shelf, check, before=before, tolerance=tolerance)


@contextmanager
def checking(node: pytest.Item, settings: CheckSettings) -> Iterator[Checker]:
    """What a test holds while it runs; random numbers start from the first seed inside."""
    with gradcheckup.random_state(settings.seed), ExitStack() as ends:
        yield Checker(settings, shelf_of(node), journal_of(node), ends, silence_of(node))
