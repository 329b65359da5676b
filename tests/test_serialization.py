"""Reports survive a file exactly, and files that are not reports are refused in one line."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcheckup.errors import ReportError
from gradcheckup.history import History, Sample
from gradcheckup.records import (
    Finding,
    Generalization,
    LayerRecord,
    ParameterRecord,
    Recording,
    Response,
    Role,
    Severity,
    Step,
)
from gradcheckup.report import Report
from gradcheckup.serialization import dump_report, load_report
from gradcheckup.thresholds import Thresholds

SCHEMA: dict[str, Any] = json.loads(
    resources.files("gradcheckup").joinpath("report.schema.json").read_text("utf-8")
)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def exact(report: Report) -> str:
    """Every value with its type: tells 1 from 1.0, and NaN equals itself."""
    return repr(dataclasses.asdict(report))


@pytest.fixture
def report() -> Report:
    """A report with every awkward value that a record may hold."""
    layers = (
        LayerRecord(
            name="块.0",
            call=1,
            kind="linear",
            role=Role.WEIGHT,
            shape=(64, 128),
            bottleneck=False,
            gradient_norm=5e-324,
            gradient_ratio=0.1 + 0.2,
            gain=math.inf,
            signal=math.nan,
            signal_ratio=-math.inf,
            time_profile=(0.0, 5e-324, math.inf),
            time_steps=3,
            finite=False,
        ),
        LayerRecord(name="relu", call=0, kind="relu", role=Role.ACTIVATION, functional=True),
    )
    parameters = (
        ParameterRecord(
            name="块.0.weight", layer="块.0", shape=(), trainable=True, weight_norm=1e-29
        ),
    )
    inner = Finding(code="GC203", rule="collapsed-signal", severity=Severity.WARNING)
    finding = Finding(
        code="GC101",
        rule="vanishing-gradient",
        severity=Severity.CRITICAL,
        layers=("块.0", "\ud800"),
        observed=math.nan,
        steps=(0, 1),
        evidence=(("total", 3), ("per_layer", 3.0), ("worst", "NaN"), ("loss_last", math.inf)),
        consequences=(dataclasses.replace(inner, consequences=(inner,)),),
        prescriptions=("normalization",),
    )
    return Report(
        recording=Recording(
            model="Net",
            optimizer="SGD(lr=0.01)",
            steps=(
                Step(
                    index=0,
                    loss=math.nan,
                    layers=layers,
                    parameters=parameters,
                    reference=("块.0", 1),
                ),
            ),
            misspelt=("fc.weight.require_grad",),
            history=History(
                every=10,
                steps=25,
                skipped=1,
                layers=("块.0", "fc"),
                samples=(
                    Sample(index=0, loss=2.3, norms=(1e-200, None), end_to_end_ratio=5e-324),
                    Sample(index=10, loss=None, norms=(math.nan, math.inf), culprits=((3, "fc"),)),
                ),
                first_bad=10,
                first_culprits=((3, "fc"),),
                processes=8,
                apart=2,
            ),
        ),
        findings=(finding,),
        thresholds=Thresholds(dead_warning=0.25),
        assumptions=("a", "b"),
        subject="model.py",
    )


def test_round_trip_is_exact(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    text = dump_report(report, path)
    assert path.read_text("utf-8") == text + "\n"
    assert exact(load_report(path)) == exact(report)


def test_loaded_values_keep_their_types(report: Report, tmp_path: Path) -> None:
    dump_report(report, tmp_path / "r.json")
    loaded = load_report(str(tmp_path / "r.json"))
    layer = loaded.layers[0]
    assert layer.role is Role.WEIGHT
    assert layer.gradient_norm == 5e-324
    assert layer.signal is not None
    assert math.isnan(layer.signal)
    assert loaded.findings[0].severity is Severity.CRITICAL
    assert loaded.findings[0].fact("worst") == "NaN"
    assert loaded.findings[0].fact("loss_last") == math.inf
    assert loaded.steps[0].reference == ("块.0", 1)


numbers = st.none() | st.floats(width=64)
texts = st.text(max_size=5) | st.sampled_from(["NaN", "Infinity", "-Infinity", "null"])
leaves = st.builds(
    Finding,
    code=st.sampled_from(["GC101", "GC999"]),
    rule=texts,
    severity=st.sampled_from(Severity),
    layers=st.lists(texts, max_size=2).map(tuple),
    culprit=st.none() | texts,
    observed=numbers,
    limit=numbers,
    steps=st.lists(st.integers(0), max_size=2).map(tuple),
    cause=st.none() | texts,
    evidence=st.lists(st.tuples(texts, st.floats() | st.integers() | texts), max_size=3).map(tuple),
)


def _nest(children: st.SearchStrategy[Finding]) -> st.SearchStrategy[Finding]:
    return st.builds(
        lambda finding, inner: dataclasses.replace(finding, consequences=tuple(inner)),
        leaves,
        st.lists(children, max_size=2),
    )


@st.composite
def records(draw: st.DrawFn, /, record: Callable[..., Any], **given_fields: Any) -> Any:
    """A record whose floats, flags and texts are drawn from the types of its fields."""
    by_type: dict[str, st.SearchStrategy[Any]] = {
        "str": texts,
        "int": st.integers(0),
        "bool": st.booleans(),
        "bool | None": st.none() | st.booleans(),
        "float": st.floats(),
        "float | None": numbers,
        "Role": st.sampled_from(Role),
        "tuple[int, ...]": st.lists(st.integers(0), max_size=3).map(tuple),
        "int | None": st.none() | st.integers(0),
        "tuple[float, ...]": st.lists(st.floats(), max_size=3).map(tuple),
        "tuple[float, ...] | None": st.none() | st.lists(st.floats(), max_size=3).map(tuple),
        "tuple[str, ...]": st.lists(texts, max_size=2).map(tuple),
        "tuple[tuple[int, str], ...]": _some(st.tuples(st.integers(0), texts)),
        "tuple[str, int] | None": st.none() | st.tuples(texts, st.integers(0)),
    }
    kinds = {field.name: str(field.type) for field in dataclasses.fields(record)}  # type: ignore[arg-type]
    return record(
        **{
            name: draw(given_fields[name] if name in given_fields else by_type[kind])
            for name, kind in kinds.items()
        }
    )


def _some(strategy: st.SearchStrategy[Any], least: int = 0) -> st.SearchStrategy[Any]:
    return st.lists(strategy, min_size=least, max_size=2).map(tuple)


steps = records(
    Step,
    layers=_some(records(LayerRecord)),
    parameters=_some(records(ParameterRecord)),
    response=st.none() | records(Response),
)
histories = records(
    History,
    every=st.integers(1),
    processes=st.integers(1),
    samples=_some(records(Sample, norms=_some(numbers))),
)
reports = records(
    Report,
    recording=records(
        Recording,
        unregistered=_some(records(ParameterRecord)),
        steps=_some(steps, least=1),
        generalization=st.none() | records(Generalization),
        history=st.none() | histories,
    ),
    findings=_some(st.recursive(leaves, _nest, max_leaves=4)),
    thresholds=st.just(Thresholds()) | st.builds(Thresholds, norm_growth=st.floats(1)),
)


@settings(max_examples=60, deadline=None)
@given(drawn=reports)
def test_any_report_round_trips_and_fits_the_schema(
    drawn: Report, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("drawn") / "report.json"
    text = dump_report(drawn, path)
    assert exact(load_report(path)) == exact(drawn)
    VALIDATOR.validate(json.loads(text))


def test_json_is_strict_and_plain_ascii(report: Report) -> None:
    def refuse(word: str) -> None:
        pytest.fail(f"{word} is no JSON")

    text = dump_report(report)
    document = json.loads(text, parse_constant=refuse)
    assert text.isascii()
    assert document["recording"]["steps"][0]["loss"] == "NaN"
    assert document["recording"]["steps"][0]["layers"][0]["gain"] == "Infinity"
    assert document["recording"]["steps"][0]["layers"][0]["signal_ratio"] == "-Infinity"


def test_verdict_stands_at_the_top(report: Report) -> None:
    document = json.loads(dump_report(report))
    assert document["schema"] == "gradcheckup/report"
    assert document["schema_version"] == 1
    assert document["healthy"] is False
    assert document["end_to_end_ratio"] == 0.30000000000000004
    healthy = dataclasses.replace(report, findings=())
    assert json.loads(dump_report(healthy))["healthy"] is True


# The schema


def test_the_schema_is_itself_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    ("place", "record"),
    [
        ("recording", Recording),
        ("generalization", Generalization),
        ("history", History),
        ("sample", Sample),
        ("step", Step),
        ("layer", LayerRecord),
        ("parameter", ParameterRecord),
        ("finding", Finding),
        ("thresholds", Thresholds),
    ],
)
def test_the_schema_names_exactly_the_fields(place: str, record: Any) -> None:
    names = [field.name for field in dataclasses.fields(record)]
    assert list(SCHEMA["$defs"][place]["properties"]) == names
    assert SCHEMA["$defs"][place]["required"] == names


def test_the_schema_of_the_whole_names_exactly_the_fields() -> None:
    header = ["schema", "schema_version", "gradcheckup_version", "healthy", "end_to_end_ratio"]
    names = header + [field.name for field in dataclasses.fields(Report)]
    assert sorted(SCHEMA["properties"]) == sorted(names) == sorted(SCHEMA["required"])


def test_the_schema_knows_all_words_of_the_enumerations() -> None:
    assert SCHEMA["$defs"]["layer"]["properties"]["role"]["enum"] == [role.value for role in Role]
    severities = SCHEMA["$defs"]["finding"]["properties"]["severity"]["enum"]
    assert severities == [severity.value for severity in Severity]


def _places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every key of every object in a document."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    found = []
    for key, value in items:
        if isinstance(document, dict):
            found.append((*path, key))
        if isinstance(value, dict | list):
            found.extend(_places(value, (*path, key)))
    return found


def _parent(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        document = document[key]
    return document


def test_the_schema_rejects_every_missing_and_every_ill_typed_field(report: Report) -> None:
    text = dump_report(dataclasses.replace(report, findings=(report.findings[0],)))
    VALIDATOR.validate(json.loads(text))
    for path in _places(json.loads(text)):
        if path[-1] == "text":
            continue
        without = json.loads(text)
        del _parent(without, path)[path[-1]]
        assert not VALIDATOR.is_valid(without), f"{path} may be missing"
        wrong = json.loads(text)
        _parent(wrong, path)[path[-1]] = {"wrong": [1]}
        assert not VALIDATOR.is_valid(wrong), f"{path} may be an object"


# Files that are not as they should be


def _edited(report: Report, path: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    document = json.loads(dump_report(report))
    edit(document)
    path.write_text(json.dumps(document), "utf-8")
    return path


def test_unknown_keys_of_the_same_version_are_ignored(report: Report, tmp_path: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["mood"] = "good"
        document["recording"]["steps"][0]["layers"][0]["colour"] = {"red": 1}

    loaded = load_report(_edited(report, tmp_path / "r.json", edit))
    assert exact(loaded) == exact(report)


def test_a_threshold_that_the_file_does_not_know_has_its_default(
    report: Report, tmp_path: Path
) -> None:
    def edit(document: dict[str, Any]) -> None:
        del document["thresholds"]["loss_growth"]

    loaded = load_report(_edited(report, tmp_path / "r.json", edit))
    assert loaded.thresholds.loss_growth == Thresholds().loss_growth


def test_a_report_without_findings_is_damaged_and_not_healthy(
    report: Report, tmp_path: Path
) -> None:
    path = _edited(report, tmp_path / "r.json", lambda document: document.pop("findings"))
    with pytest.raises(ReportError, match="is damaged: findings is missing"):
        load_report(path)


def test_a_newer_file_says_which_version_and_what_to_do(report: Report, tmp_path: Path) -> None:
    path = _edited(report, tmp_path / "r.json", lambda d: d.update(schema_version=7))
    with pytest.raises(ReportError, match=r"schema version 7, .*: upgrade gradcheckup") as caught:
        load_report(path)
    assert str(path) in str(caught.value)


def _set_loss(value: object) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["recording"]["steps"][0].update(loss=value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_set_loss("big"), r'recording.steps\[0\].loss should be a number, got "big"'),
        (_set_loss(True), r"recording.steps\[0\].loss should be a number, got true"),
        (_set_loss(None), r"recording.steps\[0\].loss should be a number, got null"),
        (lambda d: d["recording"].pop("model"), "recording.model is missing"),
        (lambda d: d["recording"].update(steps=[]), "recording.steps is empty"),
        (lambda d: d["recording"].update(steps=3), "recording.steps should be a list, got 3"),
        (
            lambda d: d["recording"]["steps"][0].update(reference=["a"]),
            r"recording.steps\[0\].reference should have 2 items, got 1",
        ),
        (
            lambda d: d["findings"][0].update(severity="awful"),
            r"findings\[0\].severity should be one of information, warning, critical",
        ),
        (lambda d: d["findings"][0].update(severity=[]), r"findings\[0\].severity should be one"),
        (lambda d: d["thresholds"].update(loss_growth=-1), "loss_growth must be above 0"),
        (lambda d: d.update(schema_version="1"), "schema_version is '1'"),
        (lambda d: d.update(schema_version=True), "schema_version is True"),
        (lambda d: d.update(schema_version=0), "schema_version is 0"),
    ],
)
def test_damaged_reports_name_the_place(
    report: Report, tmp_path: Path, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = _edited(report, tmp_path / "r.json", edit)
    with pytest.raises(ReportError, match=message) as caught:
        load_report(path)
    assert str(caught.value).startswith(f"report {path} is damaged: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"schema": "gradcheckup/report", "sch', "not valid JSON"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "not valid JSON"),
        (b'{"schema": NaN}', "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b"[]", "not a gradcheckup report"),
        (b'{"schema": "other"}', "not a gradcheckup report"),
        (b'{"schema": ["gradcheckup/report"]}', "not a gradcheckup report"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(ReportError, match=message) as caught:
        load_report(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reason"), [("absent.json", "no such file"), (".", "is a directory")]
)
def test_unreadable_paths_give_the_reason(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ReportError, match=f"cannot read report .*{reason}"):
        load_report(tmp_path / name)


# Writing


@pytest.mark.parametrize("name", ["no/such/folder/r.json", "file/r.json", "."])
def test_unwritable_paths_are_refused(report: Report, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ReportError, match="cannot write report"):
        dump_report(report, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.json"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(ReportError, match="no space left"):
        dump_report(report, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="links and devices of POSIX")
def test_links_and_devices_stay_what_they_are(report: Report, tmp_path: Path) -> None:
    link, real = tmp_path / "link.json", tmp_path / "real.json"
    link.symlink_to(real)
    dump_report(report, link)
    assert link.is_symlink()
    assert exact(load_report(real)) == exact(report)

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(  # noqa: S603 - of a file that is ours
        ["cat", str(pipe)],  # noqa: S607 - wherever the system has it
        stdout=subprocess.PIPE,
    )
    text = dump_report(report, pipe)
    assert reader.communicate(timeout=30)[0].decode() == text + "\n"
    assert pipe.is_fifo()


@pytest.mark.skipif(os.name == "nt", reason="permission bits of POSIX")
def test_the_file_has_the_usual_permissions(report: Report, tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    dump_report(report, tmp_path / "r.json")
    assert (tmp_path / "r.json").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_reading_a_report_imports_no_torch(report: Report, tmp_path: Path) -> None:
    dump_report(report, tmp_path / "r.json")
    code = (
        "import sys; from gradcheckup.serialization import load_report; "
        "load_report(sys.argv[1]); sys.exit('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "r.json")]
    subprocess.run(command, check=True)  # noqa: S603 - the code stands above
