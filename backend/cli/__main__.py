"""``python -m backend.cli``: run the command line without an installed entry point."""

from __future__ import annotations

import sys

from backend.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
