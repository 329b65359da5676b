"""`[tool.gradcheckup]`: what is read, what is refused, and that nothing is silently ignored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gradcheckup.errors import UsageError
from gradcheckup.settings import Settings, load_settings

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a pyproject.toml and returns its folder."""

    def _write(text: str) -> Path:
        (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
        return tmp_path

    return _write


def refused(folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load_settings(folder)
    assert str(folder / "pyproject.toml") in str(caught.value)
    return str(caught.value)


def test_everything_at_once(write: Write) -> None:
    folder = write(
        """
        [tool.gradcheckup]
        steps = 12
        batches = 6
        seed = 3
        select = ["GC1", "dead-units"]
        ignore = "GC101, GC202"
        fail-on = "warning"
        format = "json"
        optimizer = "adam"
        lr = 1
        input = "8,3,64,64"
        [tool.gradcheckup.thresholds]
        dead-warning = 0.25
        gradient_ratio_low = 0.01
        """
    )
    assert load_settings(folder) == Settings(
        path=folder / "pyproject.toml",
        steps=12,
        batches=6,
        seed=3,
        select=("GC1", "dead-units"),
        ignore=("GC101", "GC202"),
        fail_on="warning",
        format="json",
        optimizer="adam",
        lr=1.0,
        input=("8,3,64,64",),
        thresholds={"dead_warning": 0.25, "gradient_ratio_low": 0.01},
    )


def test_the_nearest_file_upwards_counts(write: Write) -> None:
    folder = write("[tool.gradcheckup]\nsteps = 5")
    deep = folder / "a" / "b"
    deep.mkdir(parents=True)
    assert load_settings(deep).steps == 5
    (folder / "a" / "pyproject.toml").write_text("[project]\nname = 'x'")
    assert load_settings(deep) == Settings(path=folder / "a" / "pyproject.toml")


def test_no_file_and_no_table(tmp_path: Path, write: Write) -> None:
    write("")
    assert load_settings(tmp_path).steps is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("stpes = 3", "'stpes' in [tool.gradcheckup]; did you mean steps?"),
        ("fail_on = 'never'", "did you mean fail-on?"),
        ("zzz = 1", "there are steps, batches, follow, seed"),
        ("steps = '8'", "steps should be a whole number, got '8'"),
        ("steps = true", "steps should be a whole number"),
        ("steps = 0", "at least 1"),
        ("batches = 0", "at least 1"),
        ("follow = -1", "at least 0"),
        ("seed = -1", "at least 0"),
        ("seed = 1.5", "whole number"),
        ("lr = 'fast'", "lr should be a number, got 'fast'"),
        ("lr = -1.0", "negative"),
        ("lr = nan", "negative"),
        ("select = 3", "text or a list of texts"),
        ("ignore = [3]", "should be text, got 3"),
        ("fail-on = 'always'", "one of critical, warning, never, got 'always'"),
        ("format = 'html'", "one of text, json"),
        ("optimizer = 1", "should be text"),
        ("thresholds = 1", "should be a table"),
        ("thresholds.dead_warnign = 1", "did you mean dead_warning?"),
        ("thresholds.dead_warning = '1'", "thresholds.dead_warning should be a number"),
    ],
)
def test_wrong_settings(write: Write, line: str, said: str) -> None:
    assert said in refused(write(f"[tool.gradcheckup]\n{line}"))


def test_unreadable_files(write: Write) -> None:
    assert "not valid TOML" in refused(write("[tool.gradcheckup"))
    folder = write("")
    (folder / "pyproject.toml").write_bytes(b"a = '\xff'")
    assert "not valid TOML" in refused(folder)
    assert "should be a table" in refused(write("tool.gradcheckup = 3"))
