"""What the documentation shows is run: Python blocks, and the commands of console blocks."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from gradcheckup.cli import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]


@dataclass(frozen=True)
class Block:
    """A fenced block, the language it names, and the line its text starts at."""

    language: str
    text: str
    line: int


def blocks(markdown: str, language: str) -> list[Block]:
    """The fenced blocks of a language, in order."""
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", markdown, flags=re.MULTILINE | re.DOTALL)
    return [
        Block(match[1], match[2], markdown.count("\n", 0, match.start(2)) + 1)
        for match in found
        if match[1] == language
    ]


@dataclass(frozen=True)
class Command:
    """A `$ gradcheckup ...` line, what is shown below it, and the exit code if it is shown."""

    arguments: list[str]
    first_line: str
    code: int | None


def commands(block: str) -> list[Command]:
    """The gradcheckup commands of a console block.

    An exit code is shown by `$ echo $?` right after a command.
    """
    entries: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            entries.append((line[2:], []))
        elif entries:
            entries[-1][1].append(line)
    found = []
    for index, (command, output) in enumerate(entries):
        if command.split("#")[0].split()[:1] != ["gradcheckup"]:
            continue
        after = entries[index + 1] if index + 1 < len(entries) else ("", [])
        code = int(after[1][0]) if after[0] == "echo $?" else None
        arguments = command.split("#")[0].split()[1:]
        found.append(Command(arguments, output[0] if output else "", code))
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_python_blocks_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the page, each with the names of those before it."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(document.read_text("utf-8"), "python"):
        # Empty lines in front, so that a traceback names the line of the page.
        source = "\n" * (block.line - 1) + block.text
        exec(compile(source, str(document), "exec"), names)  # noqa: S102 - our own pages


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_console_blocks_run(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the exit code that is shown, and the first line of output that is shown."""
    monkeypatch.chdir(tmp_path)
    if (ROOT / "demos").is_dir():
        shutil.copytree(ROOT / "demos", tmp_path / "demos")
    for block in blocks(document.read_text("utf-8"), "console"):
        for command in commands(block.text):
            finished = CliRunner().invoke(main, command.arguments)
            told = f"{command.arguments}\n{finished.output}"
            expected = {0, 1} if command.code is None else {command.code}
            assert finished.exit_code in expected, told
            printed = (finished.stdout + finished.stderr).splitlines()
            assert not command.first_line or printed[0].startswith(command.first_line), told


def test_settings_of_the_readme_are_valid(tmp_path: Path) -> None:
    from gradcheckup.settings import load_settings

    (block,) = blocks((ROOT / "README.md").read_text("utf-8"), "toml")
    (tmp_path / "pyproject.toml").write_text(block.text)
    assert load_settings(tmp_path).path == tmp_path / "pyproject.toml"


def test_the_test_command_is_marked_for_ci() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    (command,) = re.findall(
        r"^<!-- ci: test -->\n```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
    )
    assert command.count("\n") == 1
    assert command.startswith("python -m venv ")
    assert command.rstrip().endswith("-m pytest -n 2")


def test_extras_of_the_readme_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    used = re.findall(r'install (?:-e )?"\.\[(\w+)\]"', (ROOT / "README.md").read_text("utf-8"))
    assert used
    assert set(used) <= set(project["optional-dependencies"])


def test_blocks_and_commands_are_found() -> None:
    page = (
        "text\n```python\nx = 1\n```\n```console\n$ gradcheckup a b  # c\nout\n$ echo $?\n1\n```\n"
    )
    assert blocks(page, "python") == [Block("python", "x = 1\n", 3)]
    (console,) = blocks(page, "console")
    assert commands(console.text) == [Command(["a", "b"], "out", 1)]
    assert commands("$ ls\n$ gradcheckup x\n") == [Command(["x"], "", None)]
