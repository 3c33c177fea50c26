"""Kinds of lines that need not be kept as long as what happened."""

from __future__ import annotations

from typing import Final

CURVES: Final = ("sample", "mirror", "series", "work")
"""What a report draws curves from."""

THINNED: Final = "samples and the probe's series have been removed since; what happened, and how it ended, is kept"
"""What a story says that has none of it any more."""
