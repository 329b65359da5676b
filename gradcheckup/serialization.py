"""Reports as versioned JSON, exact in both directions.

The shape of a file is described in ``gradcheckup/report.schema.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gradcheckup.comparison import Comparison
from gradcheckup.encoding import MismatchError, decode, encode, parse
from gradcheckup.errors import GradcheckupError, ReportError
from gradcheckup.files import reason, write_whole
from gradcheckup.prescription import Prescription, Trial
from gradcheckup.report import Report
from gradcheckup.version import VERSION

SCHEMA = "gradcheckup/report"
COMPARISON_SCHEMA = "gradcheckup/comparison"
PRESCRIPTION_SCHEMA = "gradcheckup/prescription"
SCHEMA_VERSION = 1


def dump_report(report: Report, path: str | Path | None = None) -> str:
    """The report as JSON text, also written to `path` when one is given.

    The file appears whole or not at all. Beside the records it has ``healthy`` and
    ``end_to_end_ratio`` at the top, for tools that want the verdict alone.

    Raises:
        ReportError: The file cannot be written.
    """
    return _dump(_document(report), "report", path)


def _document(report: Report) -> dict[str, Any]:
    return {
        **header(SCHEMA),
        "healthy": report.healthy,
        "end_to_end_ratio": encode(report.end_to_end_ratio, float | None),
        **encode(report, Report),
    }


def dump_comparison(comparison: Comparison, path: str | Path | None = None) -> str:
    """The comparison as JSON text, also written to `path` when one is given.

    Beside the records it has ``worse`` and ``better`` at the top, and a ``factor`` for each layer.

    Raises:
        ReportError: The file cannot be written.
    """
    verdict = {"worse": comparison.worse, "better": comparison.better}
    document = {
        **header(COMPARISON_SCHEMA),
        **verdict,
        **encode(comparison, Comparison),
    }
    for layer, change in zip(document["layers"], comparison.layers, strict=True):
        layer["factor"] = encode(change.factor, float)
    return _dump(document, "comparison", path)


def header(schema: str) -> dict[str, Any]:
    """How every document begins."""
    return {
        "schema": schema,
        "schema_version": SCHEMA_VERSION,
        "gradcheckup_version": VERSION,
    }


def _dump(document: dict[str, Any], what: str, path: str | Path | None) -> str:
    """The text of a document, written whole or not at all."""
    text = json.dumps(document, indent=1, allow_nan=False)
    if path is not None:
        try:
            write_whole(path, text + "\n")
        except OSError as error:
            raise ReportError(f"cannot write {what} {path}: {reason(error)}") from None
    return text


def dump_prescription(prescription: Prescription, path: str | Path | None = None) -> str:
    """A prescription as JSON text, also written to `path` when one is given.

    Every trial is there but for its model, with its whole report, which `load_report` reads where
    it stands in a file of its own.

    Raises:
        ReportError: The file cannot be written.
    """
    random, nothing, best = prescription.random, prescription.nothing, prescription.best
    document = {
        **header(PRESCRIPTION_SCHEMA),
        "budget": prescription.budget,
        "held_out_batches": prescription.held_out,
        "first_loss": encode(prescription.first_loss, float | None),
        "learns": prescription.learns,
        "best": best.treatment if best else None,
        "before": _document(prescription.before),
        "trials": [_trial(each) for each in prescription.trials],
        "nothing": _trial(nothing) if nothing else None,
        "random": _trial(random) if random else None,
        "refused": [{"treatment": key, "reason": why} for key, why in prescription.refused],
    }
    return _dump(document, "prescription", path)


def _trial(trial: Trial) -> dict[str, Any]:
    """A trial without its model."""
    treated = trial.treated
    return {
        "treatment": trial.treatment,
        "acts_on": trial.acts_on,
        "healthy": trial.after.healthy,
        "loss": encode(trial.loss, float),
        "accuracy": trial.accuracy,
        "outcomes": [
            {
                "seed": each.seed,
                "loss": encode(each.loss, float),
                "accuracy": each.accuracy,
                "samples": each.samples,
                "chance": each.chance,
            }
            for each in trial.outcomes
        ],
        "changes": [{"what": each.what, "layers": list(each.layers)} for each in treated.changes],
        "snippet": treated.snippet,
        "after": _document(trial.after),
    }


def load_report(path: str | Path) -> Report:
    """The report that `Report.to_json` wrote to this file. Imports no torch.

    Raises:
        ReportError: The file cannot be read, is no report, is damaged, or was written by a newer
            version of gradcheckup.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ReportError(f"cannot read report {path}: {reason(error)}") from None
    return parse_report(content, path)


def parse_report(content: bytes, path: str | Path) -> Report:
    """The same from what the file holds, for files that can be read but once, such as a pipe.

    Args:
        content: What `Report.to_json` wrote.
        path: Where it comes from, for messages.

    Raises:
        ReportError: See `load_report`.
    """
    try:
        document = parse(content)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"cannot read report {path}: it is not valid JSON ({error})") from None
    _check_header(document, path)
    try:
        report: Report = decode(document, Report, "")
    except (MismatchError, GradcheckupError, RecursionError, OverflowError) as error:
        raise ReportError(f"report {path} is damaged: {error}") from None
    if not report.steps:
        raise ReportError(f"report {path} is damaged: recording.steps is empty")
    return report


def _check_header(document: object, path: str | Path) -> None:
    """Refuse documents that are no report, or that only a newer gradcheckup understands."""
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ReportError(
            f"{path} is not a gradcheckup report: expected a JSON object with "
            f'"schema": "{SCHEMA}", as `gradcheckup diagnose --format json` writes it'
        )
    check_version(document, f"report {path}")


def check_version(document: dict[str, Any], what: str) -> None:
    """Refuses a document that only a newer gradcheckup understands.

    Raises:
        ReportError: It is newer, or bears no version.
    """
    version = document.get("schema_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ReportError(f"{what} is damaged: schema_version is {version!r}")
    if version > SCHEMA_VERSION:
        raise ReportError(
            f"{what} has schema version {version}, and gradcheckup {VERSION} reads "
            f"versions up to {SCHEMA_VERSION}: upgrade gradcheckup to read it"
        )
