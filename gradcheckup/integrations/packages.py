"""Packages that gradcheckup does not depend on."""

from __future__ import annotations

from gradcheckup.errors import MissingDependencyError


def missing(package: str) -> MissingDependencyError:
    """The error of a package that is not installed, whose extra has its name."""
    return MissingDependencyError(
        f"expected {package} to be installed, but it is not: pip install 'gradcheckup[{package}]'"
    )
