"""Types the session of README.md for real and writes down what was printed. `script/transcript` runs it."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Final

from pages import ROOT, Block, blocks
from typing_in_lab import Session

README: Final = ROOT / "README.md"


def printed(block: Block, session: Session) -> str:
    """Return the block with what each of its commands prints."""
    parts = []
    for line, command in zip(
        (one for one in block.text.splitlines() if one.startswith("$ ")), block.commands, strict=True
    ):
        before = session.address
        text = session.type(command)
        shown = session.as_shown(text, before if command[2:3] == ["down"] else session.address)
        parts.append("\n".join([line, *(row.rstrip() for row in shown.strip("\n").splitlines())]))
    return "\n\n".join(parts)


def main() -> int:
    """Rewrite the first session of the README."""
    block = next(one for one in blocks("console") if one.page == README.name and "lab" in one.info)
    with tempfile.TemporaryDirectory() as folder:
        session = Session(f"readme{os.getpid()}", Path(folder))
        try:
            text = printed(block, session)
        finally:
            session.end()
    README.write_text(README.read_text(encoding="utf-8").replace(block.text, text, 1), encoding="utf-8")
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
