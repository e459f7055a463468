"""Where commands speak: results to standard output, everything else to standard error."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Print a result at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
