"""Who may import whom, what is exported, and what must not pull in torch."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gradcheckup
import pytest_gradcheckup

PACKAGE = Path(gradcheckup.__file__).parent
PLUGIN = Path(pytest_gradcheckup.__file__).parent

# A part of the package is a module or a folder directly in it. Beside what is named here, every
# part may import the standard library and itself.
RECORDS = {"errors", "files", "history", "records", "thresholds", "version"}
READING = RECORDS | {
    "comparison",
    "report",
    "serialization",
    "rules",
    "indications",
    "suggestions",
}
MEASURING = {"activations", "statistics", "nesting", "capture", "probe"}

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "version": set(),
    "history": set(),
    "records": {"history"},
    "thresholds": {"errors"},
    "suggestions": set(),
    "tracebacks": set(),
    "report": RECORDS | {"serialization", "reports"},
    "comparison": RECORDS | {"report", "reports", "serialization"},
    "prescription": {"report", "serialization", "reports"},
    "encoding": {"thresholds"},
    "serialization": RECORDS | {"encoding", "report", "comparison", "prescription"},
    "runs": RECORDS | {"encoding", "report", "rules", "serialization"},
    "rules": RECORDS | {"indications"},
    "indications": RECORDS,
    "reports": RECORDS | {"comparison", "report", "prescription", "rules", "rich", "matplotlib"},
    "settings": RECORDS | {"suggestions", "tomli"},
    "activations": {"torch"},
    "statistics": {"torch"},
    "nesting": {"torch"},
    "capture": RECORDS | {"activations", "nesting", "statistics", "torch"},
    "probe": RECORDS | {"capture", "nesting", "statistics", "tracebacks", "torch", "numpy"},
    "treatments": {"errors", "records", "suggestions", "tracebacks"}
    | {"activations", "capture", "probe", "statistics", "torch"},
    "checkup": READING | MEASURING | {"pursuit", "torch"},
    "pursuit": RECORDS | {"probe", "rules"},
    "trials": {"errors", "records", "report", "prescription", "tracebacks"}
    | {"probe", "treating", "treatments", "torch"},
    "prescribing": {"errors", "thresholds", "report", "prescription"}
    | {"checkup", "probe", "treatments", "trials", "torch"},
    "watching": READING
    | {"runs"}
    | MEASURING
    | {"checkup", "tracebacks", "torch", "typing_extensions"},
    "integrations": {"errors", "probe", "report", "runs", "watching"}
    | {"torch", "typing_extensions"}
    | {"lightning", "mlflow", "transformers", "wandb"},
    # Without torch until the script has imported it: `seeker` alone needs it.
    "launching": READING
    | {"capture", "probe", "runs", "tracebacks", "watching"}
    | {"torch", "typing_extensions"},
    "treating": {"errors", "nesting", "probe", "targets", "treatments", "torch"},
    "targets": RECORDS | MEASURING | {"suggestions", "tracebacks", "torch", "numpy"},
    "cli": READING
    | {"checkup", "prescribing", "prescription", "reports", "settings", "targets", "tracebacks"}
    | {"launching", "runs", "treatments"}
    | {"torch", "click", "rich", ""},
    "__main__": {"cli"},
    # The public names; what needs torch is imported when it is first used.
    "__init__": RECORDS
    | {"comparison", "report", "reports", "rules", "runs", "serialization", "settings"}
    | {"prescription"}
    | {"checkup", "prescribing", "probe", "targets", "treating", "treatments", "watching"},
}
# The plugin sees the public names of gradcheckup alone, and itself.
PLUGIN_MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "plugin": {"pytest"},
    "tracebacks": {"pytest", "gradcheckup"},
    "settings": {"pytest", "gradcheckup"},
    "claims": {"gradcheckup"},
    "baseline": {"gradcheckup"},
    "baseline_text": {"gradcheckup"},
    "comparing": set(),
    "matching": set(),
    "looks": set(),
    "plain": {"pytest", "gradcheckup"},
    "annotations": {"pytest"},
    "unused": {"pytest"},
    "silence": set(),
    "properties": {"pytest"},
    "journal": {"pytest", "gradcheckup", "typing_extensions"},
    "targets": {"pytest", "gradcheckup"},
    "generated": {"typing_extensions"},
    "shelf": {"pytest", "gradcheckup"},
    "differences": {"gradcheckup"},
    "terminal": {"pytest"},
    "majority": {"gradcheckup"},
    "failures": {"gradcheckup"},
    "files": set(),
    "suggestions": set(),
    "options": {"gradcheckup"},
    "loops": {"pytest", "gradcheckup"},
    "probing": {"pytest", "gradcheckup", "torch"},
    "fixture": {"pytest", "gradcheckup", "torch", "typing_extensions"},
}
# The command line imports torch when it is due, in a function.
NEED_TORCH = {part for part, may in MAY_IMPORT.items() if "torch" in may} - {"cli"}


def imports(source: str, module: str) -> Iterator[tuple[str, int]]:
    """What a module imports, also inside functions: parts of gradcheckup, or other packages.

    The package itself, imported for its public names, is the part ``""``.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")[: -node.level]
                base = ".".join([*package, *([base] if base else [])])
            names = [base]
            if base == "gradcheckup":
                names = [f"gradcheckup.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and _calls_import_module(node):
            argument = node.args[0]
            names = [argument.value] if isinstance(argument, ast.Constant) else []
        else:
            continue
        for name in names:
            yield _part(str(name)), getattr(node, "lineno", 0)


def _calls_import_module(node: ast.Call) -> bool:
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in {"import_module", "__import__"} and bool(node.args)


def _part(name: str) -> str:
    """``gradcheckup.rules.rule`` is ``rules``; a public name is the package itself."""
    package, _, rest = name.partition(".")
    if package != "gradcheckup":
        return package
    part = rest.partition(".")[0]
    return part if part in MAY_IMPORT else ""


def violations(root: Path, may_import: dict[str, set[str]]) -> list[str]:
    """Every import under `root` that the table does not allow."""
    found = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        part = relative.parts[0].removesuffix(".py")
        if part not in may_import:
            found.append(f"{relative}: {part} is not in the table")
            continue
        module = ".".join(("gradcheckup", *relative.with_suffix("").parts))
        allowed = may_import[part] | {part, "__future__"}
        found.extend(
            f"{relative}:{line} imports {name or 'gradcheckup'}"
            for name, line in imports(path.read_text("utf-8"), module)
            if name not in allowed and name not in sys.stdlib_module_names
        )
    return found


def test_modules_import_only_what_the_table_allows() -> None:
    assert violations(PACKAGE, MAY_IMPORT) == []


@pytest.mark.parametrize(
    ("place", "source", "complaint"),
    [
        ("records.py", "import torch\n", "records.py:1 imports torch"),
        ("records.py", "def f():\n    import torch.nn as nn\n", "records.py:2 imports torch"),
        ("records.py", "from torch import nn\n", "records.py:1 imports torch"),
        ("rules/a.py", "from gradcheckup.capture import x\n", "rules/a.py:1 imports capture"),
        ("rules/a.py", "from gradcheckup import probe\n", "rules/a.py:1 imports probe"),
        ("rules/a.py", "from ..capture import x\n", "rules/a.py:1 imports capture"),
        ("rules/a.py", "from gradcheckup import diagnose\n", "rules/a.py:1 imports gradcheckup"),
        ("rules/a.py", "import gradcheckup\n", "rules/a.py:1 imports gradcheckup"),
        (
            "rules/a.py",
            "from importlib import import_module\nimport_module('torch.nn')\n",
            "rules/a.py:2 imports torch",
        ),
        ("novel.py", "", "novel.py: novel is not in the table"),
    ],
)
def test_the_table_is_enforced(tmp_path: Path, place: str, source: str, complaint: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text(source)
    assert violations(tmp_path, MAY_IMPORT) == [complaint]


def test_allowed_imports_are_not_complained_about(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "a.py").write_text(
        "from __future__ import annotations\nimport math\nfrom gradcheckup.rules import query\n"
        "from . import rule\nfrom gradcheckup.records import Step\n"
    )
    assert violations(tmp_path, MAY_IMPORT) == []


def plugin_violations(root: Path) -> list[str]:
    """Every import of the plugin that its table does not allow, or that is no public name."""
    found = []
    for path in sorted(root.rglob("*.py")):
        allowed = PLUGIN_MAY_IMPORT[path.stem] | {"pytest_gradcheckup"}
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names = [(alias.name, "") for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "", alias.name) for alias in node.names]
            else:
                continue
            for module, name in names:
                package = module.partition(".")[0]
                private = package == "gradcheckup" and (
                    module != package or (name and name not in gradcheckup.__all__)
                )
                if private or (package not in allowed and package not in sys.stdlib_module_names):
                    found.append(f"{path.name}:{node.lineno} imports {module} {name}".rstrip())
    return found


def test_the_plugin_imports_public_names_alone() -> None:
    assert plugin_violations(PLUGIN) == []


@pytest.mark.parametrize(
    "source",
    [
        "from gradcheckup.rules import RULES\n",
        "import gradcheckup.rules\n",
        "from gradcheckup import checkup\n",
        "def f():\n    import gradcheckup\n",
        "import torch\n",
    ],
)
def test_the_table_of_the_plugin_is_enforced(tmp_path: Path, source: str) -> None:
    (tmp_path / "plugin.py").write_text(source)
    assert len(plugin_violations(tmp_path)) == 1


def test_loading_the_plugin_loads_nothing_else() -> None:
    """Every run of pytest pays for it: counted in modules, which no busy machine changes."""
    _run(
        "import sys, pytest\nbefore = set(sys.modules)\nimport pytest_gradcheckup.plugin\n"
        "loaded = set(sys.modules) - before\n"
        "assert loaded == {'pytest_gradcheckup', 'pytest_gradcheckup.plugin'}, loaded"
    )


def test_hooks_are_registered_in_few_places() -> None:
    places = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("register_")
        and node.attr.endswith("hook")
    }
    measuring = {"effect.py", "glance.py", "hooks.py", "response.py", "tap.py"}
    # These wait for a pass or a step to begin and end.
    waiting = {"clock.py", "look.py"}
    seeking = {"seeker.py", "session.py"}
    # These are parts of a treated model, which the user trains on.
    treating = {"equalizing.py", "shortcuts.py", "stages.py"}
    # This tells, on a copy, which modules run.
    telling = {"running.py"}
    assert places == {
        *(f"capture/{name}" for name in measuring),
        *(f"watching/{name}" for name in waiting),
        *(f"launching/{name}" for name in seeking),
        *(f"treatments/mechanisms/{name}" for name in treating),
        *(f"treatments/editing/{name}" for name in telling),
    }


def test_only_figures_import_matplotlib() -> None:
    places = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for name, _ in imports(path.read_text("utf-8"), "gradcheckup")
        if name == "matplotlib"
    }
    drawing = ("axes", "canvas", "figure", "overlay")
    assert places == {f"reports/{name}.py" for name in drawing}


def _run(code: str) -> None:
    command = [sys.executable, "-W", "error", "-c", code]
    subprocess.run(command, check=True)  # noqa: S603 - the code stands in the tests


WITHOUT_TORCH = sorted(
    ".".join(("gradcheckup", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    )
    for path in PACKAGE.rglob("*.py")
    if path.relative_to(PACKAGE).parts[0].removesuffix(".py") not in {*NEED_TORCH, "__main__"}
)


def test_reading_and_judging_need_no_torch() -> None:
    """All at once, in one process: whoever imports torch makes it appear."""
    imported = "".join(f"import {module}\n" for module in WITHOUT_TORCH)
    _run(f"import sys\n{imported}assert 'torch' not in sys.modules")


def test_importing_the_package_is_cheap() -> None:
    heavy = ["torch", "rich", "matplotlib", "numpy"]
    _run(f"import sys, gradcheckup; assert not [*filter(sys.modules.get, {heavy})]")


def test_exported_names_exist_and_are_sorted() -> None:
    assert list(gradcheckup.__all__) == sorted(gradcheckup.__all__)
    for name in gradcheckup.__all__:
        assert getattr(gradcheckup, name) is not None
    assert dir(gradcheckup) == sorted(gradcheckup.__all__)


def test_exported_names_are_those_of_the_design() -> None:
    assert {"diagnose", "load_report", "assert_healthy", "Thresholds", "Report"} <= set(
        gradcheckup.__all__
    )
    # Every error can be caught by name.
    errors = importlib.import_module("gradcheckup.errors")
    raised = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    assert raised <= set(gradcheckup.__all__)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = gradcheckup.no_such_name  # type: ignore[attr-defined]


def test_the_version_is_that_of_the_distribution() -> None:
    assert gradcheckup.__version__ == importlib.metadata.version("gradcheckup")


def test_public_functions_and_modules_are_documented() -> None:
    for path in (*PACKAGE.rglob("*.py"), *PLUGIN.rglob("*.py")):
        assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), f"{path} says nothing"
