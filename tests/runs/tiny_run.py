"""Four tasks on two dozen tiny samples: the whole engine in seconds."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import yaml

from interlace.data_recipes import FIELDS, Episode, Sample, Text
from interlace.data_recipes.schema import Recipe
from interlace.data_recipes.shards import SampleWriter
from interlace.pretrain.train import recipe_from

COLOURS = ("red", "green", "blue", "white")
BANKS = {"object": 24, "motion": 16}
SIDE, FRAMES = 32, 4
#: The one sample of ``root/poisoned`` that cannot be learned from.
POISONED = 7


def sample(number: int, *, poison: bool = False) -> Sample:
    """A coloured clip before a slanted wall; with ``poison`` its rays leave the range of float32."""
    rng = np.random.default_rng(number)
    colour = COLOURS[number % len(COLOURS)]
    frames = rng.integers(0, 80, (FRAMES, SIDE, SIDE, 3)).astype(np.uint8)
    frames[..., number % 3] += 120
    columns = np.linspace(1.0, 2.0 + number % 3, SIDE, dtype=np.float32)
    depth = np.broadcast_to(columns, (FRAMES, SIDE, SIDE)) + np.arange(FRAMES, dtype=np.float32)[:, None, None] / 10
    c2w = np.tile(np.eye(4), (FRAMES, 1, 1))
    c2w[:, :3, 3] = np.cumsum(rng.normal(scale=0.1, size=(FRAMES, 3)), axis=0)
    focal = 1.5e-45 if poison else 28  # positive, as the conventions ask
    box = np.array([[0.25, 0.25, 0.5, 0.75]], np.float32)
    return Sample(
        key=f"scene-{number:03d}/0",
        source="tiny",
        frames=frames,
        times=np.arange(FRAMES) / 4.0,
        depth=depth,
        K=np.tile(np.array([[focal, 0, SIDE / 2], [0, 28, SIDE / 2], [0, 0, 1]], np.float32), (FRAMES, 1, 1)),
        c2w=c2w,
        texts=[
            Text(kind="caption", prompt="describe", answer=f"a {colour} wall", frame=number % FRAMES),
            Text(kind="grounding", prompt=f"where is the {colour} box?", answer="there", frame=1, boxes=box),
        ],
        clusters={name: rng.permutation(rows)[:10] for name, rows in BANKS.items()},
        labels={"colour": number % len(COLOURS)},
        episode=Episode(
            instruction=f"push the {colour} wall",
            actions=rng.random((FRAMES, 4), np.float32),
            proprio=np.zeros((FRAMES, 0), np.float32),
            steps=np.arange(FRAMES),
        ),
    )


def write_data(root: Path) -> Path:
    """``root/train``, ``root/held_out``, ``root/poisoned``, ``root/words.model`` and ``root/recipe.yaml``."""
    for split, numbers in (("train", range(24)), ("held_out", range(100, 106)), ("poisoned", range(24))):
        with SampleWriter(
            root / split,
            name=split,
            fields=FIELDS,
            split=split,
            licence="CC0-1.0",
            fps=4.0,
            classes={"colour": COLOURS},
            banks=BANKS,
            codec="png",
            shard_bytes=60_000,
        ) as writer:
            for number in numbers:
                writer.write(sample(number, poison=split == "poisoned" and number == POISONED))
    lines = [f"a {colour} wall where is the {colour} box? describe" for colour in COLOURS] * 4
    lines += ["0 1 2 3 4 5 6 7 8 9 [ ]"] * 4
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=3,
        minloglevel=2,
        split_digits=True,
        character_coverage=1.0,
    )
    (root / "words.model").write_bytes(model.getvalue())
    write_recipe(root)
    return root


def recipe_text(root: Path) -> dict[str, Any]:
    """Four tasks with batches that two ranks share unevenly."""
    return {"name": "tiny", "seed": 3, "backbone": dict(BACKBONE), "engine": dict(ENGINE), "tasks": task_texts(root)}


BACKBONE = {
    "hidden_size": 32,
    "depth": 2,
    "heads": 2,
    "mlp_size": 64,
    "patch_size": 8,
    "registers": 1,
    "layer_scale": 0.5,
    "drop_path": 0.1,
}
ENGINE = {
    "steps": 6,
    "lr": 1e-3,
    "warmup": 2,
    # Small gradients of Adam's first steps would be amplified to signs: a fair comparison needs a larger eps.
    "eps": 1e-3,
    "clip": 5.0,
    "workers": 0,
    "log_every": 1,
    "checkpoint_every": 2,
    "evaluate_every": 100,
    "cosine_every": 3,
    "keep": 5,
    "blind_samples": 8,
}


def task_texts(root: Path) -> dict[str, Any]:
    """Each task on the same samples."""
    source = {"name": "tiny", "format": "mds", "path": str(root / "train")}
    held_out = [{"name": "held", "format": "mds", "path": str(root / "held_out")}]
    common = {"weight": 1.0, "sources": [source], "held_out": held_out}
    ssl = {
        "frames": 2,
        "global_size": 32,
        "local_size": 16,
        "dino_prototypes": 24,
        "ibot_prototypes": 24,
        "head_hidden": 32,
        "head_bottleneck": 16,
        "momentum": 0.9,
        "gram": True,
    }
    captioning = {
        "size": 32,
        "texts": 2,
        "decoder": {"layers": 1, "hidden_size": 32, "heads": 2, "mlp_size": 48},
        "tokenizer": str(root / "words.model"),
        "max_tokens": 48,
        "box_bins": 8,
        "max_generated": 8,
        "blind": {"steps": 4, "batch": 8, "check_every": 2},
    }
    clusters = {
        "size": 32,
        "embedding_size": 16,
        "negatives": 0.5,
        "banks": {"object": {"rows": 24}, "motion": {"rows": 16, "frames": 3}},
    }
    geometry = {"size": 32, "frames": 3, "widths": [8, 8, 16, 16], "features": 8, "ray_neck": 1}
    return {
        "ssl": {**common, "weight": 0.1, "batch": 5, "options": ssl},
        "geometry": {**common, "batch": 3, "micro_batches": 2, "options": geometry},
        "captioning": {**common, "batch": 5, "options": captioning},
        "clusters": {**common, "batch": 5, "options": clusters},
    }


def write_recipe(root: Path) -> Path:
    """The recipe as a file beside the data."""
    path = root / "recipe.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(recipe_text(root)))))  # a copy, which has no aliases
    return path


def read(root: Path, *overrides: str) -> Recipe:
    """The tiny recipe with dotted overrides."""
    return recipe_from(root / "recipe.yaml", overrides)
