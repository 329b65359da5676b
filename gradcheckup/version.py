"""The version, in one place: the build backend and every report file read it from here."""

from __future__ import annotations

VERSION = "0.1.0"
