"""How to leave out a rule that finds what is wanted so: it depends on where the check was made."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

ATTRIBUTE = "gradcheckup_silence"


class Silence(Enum):
    """What a failure says of it, for rules in the manner of Python and of an ini file."""

    MARK = "@pytest.mark.gradcheckup(ignore=[{quoted}]), or thresholds={{...}}"
    CALL = "healthy_test(..., ignore=[{quoted}]), or thresholds={{...}}"
    INI = "gradcheckup_ignore = {plain} in the ini file, or gradcheckup_thresholds"

    def leaving_out(self, codes: Iterable[str]) -> str:
        """The advice for these rules."""
        known = [*codes]
        quoted = ", ".join(f'"{code}"' for code in known)
        return self.value.format(quoted=quoted, plain=" ".join(known))


def silence_of(node: Any) -> Silence:
    """What its test, or the function that it runs, says under `ATTRIBUTE`; else the mark."""
    said = getattr(getattr(node, "function", node), ATTRIBUTE, Silence.MARK)
    return Silence(said)
