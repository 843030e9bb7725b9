"""Files that are whole or not there."""

from __future__ import annotations

from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write a file so that whoever reads it finds the old text or the new, and never a part."""
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)
