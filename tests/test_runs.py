"""The log of a watched run: what is in it, what a crash leaves, how it goes on."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from torch import nn

import gradcheckup
from gradcheckup import GradcheckupError, ReportError, Sample
from gradcheckup.__main__ import main
from gradcheckup.runs.trace import Trace

FULL = Path("/dev/full")


def net(depth: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [each for _ in range(depth) for each in (nn.Linear(12, 12), nn.Sigmoid())]
    return nn.Sequential(*hidden, nn.Linear(12, 3))


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, *, broken_at: int | None = None
) -> None:
    inputs = torch.randn(32, 12, generator=torch.Generator().manual_seed(1))
    targets = inputs[:, :3].argmax(1)
    for index in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        (loss * (math.nan if index == broken_at else 1.0)).backward()
        optimizer.step()


def run_to(path: Path, steps: int = 20, *, every: int = 2) -> gradcheckup.Report:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradcheckup.watch(model, optimizer, every=every, log=path) as monitor:
        train(model, optimizer, steps)
    return monitor.report()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_log_gives_the_report_of_its_monitor(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    report = run_to(path)
    assert gradcheckup.load_run(path).to_json() == report.to_json()
    history = report.recording.history
    assert history is not None
    assert [each.index for each in history.samples] == list(range(0, 20, 2))
    assert history.steps == 20
    assert [next(iter(line)) for line in lines(path)][:3] == ["schema", "look", "sample"]


def test_every_line_is_there_when_its_step_is_over(tmp_path: Path) -> None:
    path, model = tmp_path / "run.jsonl", net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradcheckup.watch(model, optimizer, every=1, log=path):
        for done in range(1, 4):
            train(model, optimizer, 1)
            samples = [line for line in lines(path) if "sample" in line]
            assert len(samples) == done
    assert "end" in lines(path)[-1]


@pytest.mark.parametrize("cut", [1, 40])
def test_a_torn_last_line_is_left_out_and_appended_behind(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "run.jsonl"
    run_to(path)
    whole = path.read_bytes().splitlines(keepends=True)
    samples = [number for number, line in enumerate(whole) if b'"sample"' in line]
    path.write_bytes(b"".join(whole[: samples[-1]]) + whole[samples[-1]][:-cut])
    history = gradcheckup.load_run(path).recording.history
    assert history is not None
    assert [each.index for each in history.samples][-1] == (18 if cut == 1 else 16)
    run_to(path, steps=4)
    again = gradcheckup.load_run(path).recording.history
    assert again is not None
    # It goes on with the step behind the last one that was logged.
    start = 19 if cut == 1 else 17
    assert [each.index for each in again.samples if each.index >= start] == [
        index for index in range(start, start + 4) if index % 2 == 0
    ]


def test_a_run_that_goes_on_counts_on(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    run_to(path, steps=6)
    report = run_to(path, steps=6)
    assert report.recording.history is not None
    assert report.recording.history.steps == 12
    loaded = gradcheckup.load_run(path).recording
    assert loaded.history is not None
    assert [each.index for each in loaded.history.samples] == [0, 2, 4, 6, 8, 10]
    assert [step.index for step in loaded.steps] == [0, 2, 6, 8]


def test_what_is_ignored_stays_ignored_when_a_log_is_shown(tmp_path: Path) -> None:
    model, found = net(depth=9), {}
    for name, ignore in (("all", None), ("few", ["GC1", "GC2", "GC3"])):
        path = tmp_path / f"{name}.jsonl"
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        with gradcheckup.watch(model, optimizer, every=1, log=path, ignore=ignore):
            train(model, optimizer, 10)
        found[name] = gradcheckup.load_run(path)
    assert found["all"].findings[0].code == "GC101"
    assert found["few"].healthy


def test_show_reads_a_log_without_torch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.jsonl"
    report = run_to(path)
    with pytest.raises(SystemExit, match="0"):
        main(["show", str(path)])
    assert capsys.readouterr().out.splitlines()[0] == str(report).splitlines()[0]
    code = (
        "import sys, gradcheckup\n"
        "sys.modules['torch'] = None\n"
        f"print(gradcheckup.load_run({str(path)!r}).healthy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own interpreter
    assert done.stdout.strip() == str(report.healthy)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no sampled training step yet"),
        (b"epoch,loss\n", "is not the log of a run"),
        (b'{"schema": "gradcheckup/report"}\n', "is not the log of a run"),
        (b'{"schema": "gradcheckup/run", "schema_version": 9}\n', "schema version 9"),
        (b'{"schema": "gradcheckup/run", "schema_version": 1}\n', "damaged in line 1: start"),
    ],
)
def test_what_is_no_log_is_refused_in_a_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(content)
    with pytest.raises(ReportError, match=message) as caught:
        gradcheckup.load_run(path)
    assert "\n" not in str(caught.value)
    if content:
        model = net()
        with pytest.raises(ReportError, match=message):
            gradcheckup.watch(model, torch.optim.SGD(model.parameters()), log=path)
        assert path.read_bytes() == content
        assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("damage", ["look", "sample", "end"])
def test_damage_is_named_by_its_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "run.jsonl"
    run_to(path, steps=8)
    every = lines(path)
    number = next(index for index, line in enumerate(every) if damage in line)
    every[number][damage] = {"index": "three"}
    path.write_text("".join(json.dumps(line) + "\n" for line in every), "utf-8")
    with pytest.raises(ReportError, match=rf"damaged in line {number + 1}: {damage}"):
        gradcheckup.load_run(path)


def _sent(file: IO[bytes], content: bytes) -> None:
    with file:
        file.write(content)


def _edited(path: Path, kind: str, edit: Callable[[Any], object]) -> int:
    """Edits the last line of a kind; returns its number."""
    every = lines(path)
    number = max(index for index, line in enumerate(every) if kind in line)
    edit(every[number] if kind == "schema" else every[number][kind])
    path.write_text("".join(json.dumps(line) + "\n" for line in every), "utf-8")
    return number + 1


@pytest.mark.parametrize(
    ("kind", "edit", "said"),
    [
        ("look", lambda it: it["layers"][0].update(shape=[32, -12]), r"shape\[1\] should be 0 or"),
        (
            "look",
            lambda it: it["parameters"][0].update(shape=[-12, 12]),
            r"shape\[0\] should be 0 or more, got -12",
        ),
        ("sample", lambda it: it["norms"].pop(), "sample.norms should have 5 items, got 4"),
        ("sample", lambda it: it["norms"].append(1.0), "should have 5 items, got 6"),
        ("sample", lambda it: it.update(index=-1), "sample.index should be 0 or more, got -1"),
        ("end", lambda it: it.update(steps=-5), "end.steps should be 0 or more, got -5"),
        ("schema", lambda it: it.update(start=-5), "start should be 0 or more, got -5"),
    ],
)
def test_numbers_that_cannot_be_are_damage(
    tmp_path: Path, kind: str, edit: Callable[[Any], object], said: str
) -> None:
    path = tmp_path / "run.jsonl"
    run_to(path, steps=8)
    number = _edited(path, kind, edit)
    with pytest.raises(ReportError, match=rf"damaged in line {number}: .*{said}"):
        gradcheckup.load_run(path)


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs names of open files")
def test_a_log_that_comes_through_a_pipe_is_read_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.jsonl"
    report = run_to(path)
    for content in (path.read_bytes(), report.to_json().encode()):
        source, sink = os.pipe()
        with os.fdopen(source), os.fdopen(sink, "wb") as file:
            writer = threading.Thread(target=_sent, args=(file, content))
            writer.start()
            with pytest.raises(SystemExit, match="0"):
                main(["show", f"/dev/fd/{source}"])
            writer.join()
        assert capsys.readouterr().out.splitlines()[0] == str(report).splitlines()[0]


def test_a_log_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters())
    for path in (tmp_path, tmp_path / "nowhere" / "run.jsonl"):
        with pytest.raises(GradcheckupError, match="run log") as caught:
            gradcheckup.watch(model, optimizer, log=path)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
def test_a_log_that_finds_no_room_is_refused_at_once() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(ReportError, match="cannot write run log /dev/full: no space left"):
        gradcheckup.watch(model, optimizer, log=FULL)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_full_disk_ends_the_log_and_not_the_monitor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradcheckup.watch(model, optimizer, every=1, log=tmp_path / "run.jsonl")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gradcheckup.runs.log.RunLog._write", full)
    with pytest.warns(RuntimeWarning, match="writes no more to .*run.jsonl") as warned:
        train(model, optimizer, 5)
    monitor.close()
    assert len(warned) == 1
    history = monitor.report().recording.history
    assert history is not None
    assert len(history.samples) == 5


def test_a_failure_ends_no_training_where_warnings_are_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradcheckup.watch(model, optimizer, every=1)

    def broken(*_: object) -> None:
        raise ValueError("ours")

    monkeypatch.setattr("gradcheckup.statistics.norm", broken)
    train(model, optimizer, 3)  # the suite has warnings raise
    assert monitor.closed
    assert capsys.readouterr().err.count("your training goes on: ValueError: ours") == 1


def test_the_first_bad_step_is_kept_and_looked_into(tmp_path: Path) -> None:
    path, model = tmp_path / "run.jsonl", net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradcheckup.watch(model, optimizer, every=1, log=path) as monitor:
        train(model, optimizer, 8, broken_at=4)
    report = monitor.report()
    assert report.recording.history is not None
    assert report.recording.history.first_bad == 4
    assert not report.healthy
    assert {"GC401", "GC402"} & {finding.code for finding in report.findings}
    assert "first NaN or Inf at step 4" in str(report)
    assert any("finding" in line for line in lines(path))


def _sample(index: int, ratio: float) -> Sample:
    return Sample(index=index, loss=1.0, norms=(ratio, 1.0), end_to_end_ratio=ratio)


def test_a_trace_is_bounded_and_keeps_the_ends() -> None:
    trace = Trace()
    for index in range(100_000):
        trace.add(_sample(index, 1.0))
    samples = trace.history(every=1, steps=100_000).samples
    assert len(samples) <= 513
    assert samples[-1].index == 99_999
    assert samples[0].index == 0
    gaps = [after.index - before.index for before, after in pairwise(samples)]
    assert gaps[-100:] == [1] * 100


def test_a_trace_asks_for_looks_until_enough_have_seen_the_ratio_leave() -> None:
    trace = Trace()

    def look(index: int, ratio: float) -> None:
        trace.look(_Look(index, ratio), ("a", "b"))  # type: ignore[arg-type]

    look(0, 0.5)
    for index in range(20):
        trace.add(_sample(index, 0.5))
    assert not trace.strays(0.004, 100.0, looks=4, every=10)
    for index in range(20, 24):
        trace.add(_sample(index, 1e-4))
    assert not trace.strays(0.004, 100.0, looks=4, every=10)  # a few of ten may be chance
    for index in range(24, 30):
        trace.add(_sample(index, 1e-4))
    asked = 0
    while trace.strays(0.004, 100.0, looks=4, every=10):
        look(30 + asked, 1e-4)
        asked += 1
        assert asked < 10
    assert asked == 4


def test_a_layer_out_of_turn_is_not_silent_and_one_that_stays_away_is() -> None:
    """Of twelve layers a glance at every step reads a quarter and the two ends."""
    names = tuple("abcdefghijkl")

    def silent_after(count: int, *, gone: str) -> bool:
        trace = Trace()
        seen = _Look(0, 0.5)
        seen.layers = tuple(_Seen(name) for name in names)  # type: ignore[assignment]
        trace.look(seen, names)  # type: ignore[arg-type]
        for index in range(count):
            read = [name in "al" or row % 4 == index % 4 for row, name in enumerate(names)]
            norms = tuple(
                1.0 if each and name != gone else None
                for each, name in zip(read, names, strict=True)
            )
            trace.add(Sample(index=index, loss=1.0, norms=norms, end_to_end_ratio=0.5))
        return trace.strays(0.004, 100.0, looks=4, every=1)

    assert not silent_after(100, gone="")
    assert not silent_after(40, gone="e")
    assert silent_after(41, gone="e")


class _Seen:
    """As much of a layer."""

    gradient_norm = 1.0

    def __init__(self, name: str) -> None:
        self.name = name


class _Look:
    """As much of a step as a trace asks for."""

    layers = ()
    loss = 1.0

    def __init__(self, index: int, ratio: float) -> None:
        self.index = index
        self.end_to_end_ratio = ratio


def _learning(harm: Callable[[nn.Sequential], None], at: int) -> list[tuple[int, str]]:
    """Trains a net that learns, and harms it at a step; returns what was found, and when."""
    torch.manual_seed(0)
    sizes = [(12, 24), (24, 24), (24, 24)]
    hidden = [each for pair in sizes for each in (nn.Linear(*pair), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(24, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    found: list[tuple[int, str]] = []
    with gradcheckup.watch(
        model, optimizer, every=2, on_finding=lambda each: found.append((monitor.steps, each.code))
    ) as monitor:
        for index in range(160):
            if index == at:
                harm(model)
            train(model, optimizer, 1)
    return found


def _cut(model: nn.Sequential) -> None:
    model[2].register_forward_hook(lambda *given: given[-1].detach())


def _silence(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[2].bias.fill_(-50.0)


@pytest.mark.parametrize(
    ("harm", "code"), [(_cut, "GC103"), (_silence, "GC202")], ids=["cut", "silence"]
)
def test_what_goes_wrong_in_the_middle_of_a_run_is_found_soon(
    harm: Callable[[nn.Sequential], None], code: str
) -> None:
    """Within ten samples to notice and four looks to judge, not with the next due look."""
    ((step, found),) = [each for each in _learning(harm, at=80) if each[1] == code]
    assert found == code
    assert 80 < step <= 80 + 2 * (10 + 4) + 2


def test_a_run_in_which_nothing_goes_wrong_is_told_nothing() -> None:
    assert _learning(lambda _: None, at=80) == []
