"""Where ``interlace eval`` writes: the option ``--out`` of all its commands, tried before the work."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated

import typer


def unwritable(folder: Path) -> str | None:
    """Why no file can be made in ``folder``, which need not be there yet; None where one can."""
    try:
        home = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
        # Tried, not asked for: permissions do not bind root, and say nothing of a file system that takes no files.
        with TemporaryFile(dir=home):
            return None
    except OSError as error:
        return error.strerror


def json_file(out: Path | None) -> Path | None:
    """``out`` itself. Raises ValueError where results could not be written to it, or their page would be."""
    if out is None:
        return None
    if out.suffix != ".json":
        raise ValueError(f"--out {out}: must end in .json; tables, pictures and a page get their names from it")
    why = "Is a directory" if out.is_dir() else unwritable(out.parent)
    if why is not None:
        raise ValueError(f"--out {out}: no file can be written there ({why}); name one in a folder that takes files")
    return out


def result_file(out: Path | None, home: Path, name: str) -> Path:
    """``out``, or ``name``.json in ``home``, where such results go by themselves.

    Raises ValueError where ``home`` takes no files: before the work, which would be lost.
    """
    if out is not None:
        return out
    why = unwritable(home)
    if why is not None:
        raise ValueError(f"{home}: no results can be written there ({why}); say where they go with --out FILE.json")
    return home / f"{name}.json"


def results_of(place: str) -> Path:
    """Where results of a backbone go by themselves: into its run, or, of another, beside those of others."""
    from interlace.eval.compare import RESULTS
    from interlace.eval.subjects import name_of

    return Path(place) / RESULTS if (Path(place) / "backbone").is_dir() else Path(RESULTS) / name_of(place)


Out = Annotated[
    Path | None,
    typer.Option(
        "--out", callback=json_file, help="The JSON file to write; by default in the run's results/, or ./results/."
    ),
]
