"""``python -m gradcheckup``."""

from __future__ import annotations

from gradcheckup.cli import main

if __name__ == "__main__":  # workers of a DataLoader import this file again
    main()
