"""The demos, as targets of the command and as scripts."""

from __future__ import annotations

import os
import runpy
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from gradcheckup.cli import main

ROOT = Path(__file__).resolve().parents[1]
Script = Callable[..., tuple[object, str]]


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(ROOT)
    path = list(sys.path)
    yield
    sys.path[:] = path


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    """Runs a demo as `python demos/name.py ...` does; gives its exit code and what it printed."""

    def _run(name: str, *arguments: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit) as exited:
            runpy.run_path(str(ROOT / "demos" / name), run_name="__main__")
        printed = capsys.readouterr()
        return exited.value.code, printed.out + printed.err

    return _run


def diagnosed(name: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["diagnose", f"demos/{name}"])
    return result.exit_code, result.output


def test_deep_sigmoid_as_a_target() -> None:
    code, text = diagnosed("deep_sigmoid.py")
    assert code == 1, text
    assert text.startswith("UNHEALTHY  DeepSigmoid, 8 layers, 8 probe steps with SGD(lr=0.01)")
    assert "assumed: data from demos/deep_sigmoid.py:build_data" in text
    assert "GC101 vanishing-gradient  critical  layer1" in text
    assert "7 sigmoids" in text


def test_deep_sigmoid_as_a_script() -> None:
    done = subprocess.run(
        [sys.executable, "demos/deep_sigmoid.py", "--seed", "1"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "GC101 vanishing-gradient  critical  layer1" in done.stdout


def test_deep_sigmoid_on_fashion_mnist(script: Script, tmp_path: Path) -> None:
    """Files in the format of FashionMNIST stand for the download, which finds them there."""
    pytest.importorskip("torchvision")
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        pixels = bytes(index % 251 for index in range(128 * 28 * 28))
        labels = bytes(index % 10 for index in range(128))
        images = struct.pack(">IIII", 0x803, 128, 28, 28) + pixels
        (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 128) + labels)
    options = ("--data", "fashion-mnist", "--data-root")
    code, text = script("deep_sigmoid.py", *options, str(tmp_path))
    assert code == 1
    assert "GC101" in text
    blocked = tmp_path / "file"
    blocked.write_text("")
    code, text = script("deep_sigmoid.py", *options, str(blocked))
    assert code == 2
    assert "could not be fetched" in text


def test_healthy_resnet(script: Script) -> None:
    pytest.importorskip("torchvision")
    for code, text in (diagnosed("healthy_resnet.py"), script("healthy_resnet.py", "--seed", "1")):
        assert code == 0, text
        assert text.startswith("HEALTHY  ResNet, 21 layers")
        assert "GC" not in text
