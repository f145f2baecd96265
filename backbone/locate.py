"""Which folder a name means: a folder, a run, or a model of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
#: Where an export says at which size it was trained.
PROCESSOR = "preprocessor_config.json"
#: In the folder of every run.
RECIPE = "recipe.yaml"
#: In a run's folder: which frozen backbone it was trained on. Its weights are not copied.
REFERENCE = "backbone.json"
#: All that is ever downloaded: no code and no pickles.
DOWNLOADED = (CONFIG, INDEX, PROCESSOR, "model*.safetensors", "heads/*.json", "heads/*.safetensors")
#: Endings of files that unpickling reads, which can run anything.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

_LOG_IN = "`hf auth login`"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def locate(path: str | Path) -> Path:
    """The folder with a backbone's ``config.json``: ``path``, a run's ``backbone/``, or a download.

    A text ``owner/name`` or ``owner/name@revision`` that is no folder here is a model of the hub. Raises ValueError
    for what is neither, a run that has not ended or holds no backbone, and a folder whose weights are pickles.
    """
    folder = Path(path)
    if not folder.exists() and isinstance(path, str) and _HUB_ID.fullmatch(path):
        folder = _download(path)
    elif not (folder / CONFIG).is_file() and (folder / "backbone").is_dir():
        folder = folder / "backbone"
    elif not (folder / CONFIG).is_file() and (folder / RECIPE).is_file():
        raise ValueError(f"{folder}: {_without_backbone(folder)}")
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give a backbone's folder, a run's, or owner/name on the hub")
    _refuse_pickles(folder)
    if not (folder / CONFIG).is_file() and not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"{folder}: neither a run, an export nor a backbone's folder: it has no {RECIPE} and no {CONFIG}; give one "
            "that is"
        )
    return folder


def _without_backbone(run: Path) -> str:
    """Why there is none in a run's folder."""
    if (run / REFERENCE).is_file():
        return f"a run on a frozen backbone, which it does not hold: {REFERENCE} says where it is; give that one"
    return "a run without backbone/, which is written when training ends; go on with --resume"


def _download(name: str) -> Path:
    """A copy of the hub's model, in the hub's own cache. Raises ValueError where it cannot be had."""
    repository, _, revision = name.partition("@")
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError:
        raise ValueError(
            f"{name}: no such folder, and the hub needs a package that is missing: pip install huggingface_hub"
        ) from None
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(DOWNLOADED)))
    except errors.GatedRepoError as error:
        page = f"huggingface.co/{repository}"
        raise ValueError(f"{name}: its terms were not accepted; do so at {page}, then {_LOG_IN}") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"{name}: no such folder, and no such model on the hub; if it is private, {_LOG_IN}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{name}: the hub's {repository} has no revision {revision!r}") from error
    except (errors.LocalEntryNotFoundError, ConnectionError) as error:
        raise ValueError(
            f"{name}: no such folder, and the hub cannot be reached; give the folder, or download it where there is a "
            "network"
        ) from error
    except (OSError, ValueError) as error:  # what all of its other errors are
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{name}: no such folder, and not to be had from the Hugging Face hub: {reason}") from error


def _refuse_pickles(folder: Path) -> None:
    """Raise ValueError where a folder has weights, but only such as would have to be unpickled."""
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{folder}: {', '.join(pickles)} would have to be unpickled, which can run anything; "
            f"only {WEIGHTS} is read: save the model with safetensors"
        )
