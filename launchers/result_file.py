"""Where ``interlace eval`` writes: the option ``--out`` of all its commands, tried before the work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def json_file(out: Path | None) -> Path | None:
    """``out`` itself. Raises ValueError where results could not be written to it, or their page would be."""
    if out is None:
        return None
    if out.suffix != ".json":
        raise ValueError(f"--out {out}: must end in .json; tables, pictures and a page get their names from it")
    home = next(folder for folder in out.absolute().parents if folder.exists())
    if out.is_dir() or not home.is_dir() or not os.access(home, os.W_OK):
        raise ValueError(f"--out {out}: no file can be written there; name one in a folder that can be written to")
    return out


Out = Annotated[
    Path | None,
    typer.Option(
        "--out", callback=json_file, help="The JSON file to write; by default in the run's results/, or ./results/."
    ),
]
