"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write the whole file, text as UTF-8, or leave what was there.

    Raises:
        OSError: It cannot be written.
    """
    # Through links to the file that they name; pipes and devices cannot be replaced.
    target = Path(os.path.realpath(path))
    direct = target.exists() and not target.is_file()
    scratch = target if direct else target.with_name(f".gradcheckup-{secrets.token_hex(8)}")
    try:
        with scratch.open("wb" if direct else "xb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
        if not direct:
            scratch.replace(target)
    finally:
        if not direct:
            with suppress(OSError):
                scratch.unlink()


def reason(error: OSError) -> str:
    """Why, without the path: ``permission denied``."""
    return (error.strerror or str(error)).lower()
