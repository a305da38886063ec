"""`python -m vdistill`, and what `accelerate launch -m vdistill` starts."""

from __future__ import annotations

import sys

from .app.cli import main

if __name__ == "__main__":
    sys.exit(main())
