"""Files that appear whole or not at all, whatever other workers write beside them."""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write the whole file as UTF-8, in folders that are made, or leave what was there.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".gradcheckup-{secrets.token_hex(8)}")
    try:
        scratch.write_text(text, encoding="utf-8", newline="\n")
        scratch.replace(path)
    finally:
        with suppress(OSError):
            scratch.unlink()
