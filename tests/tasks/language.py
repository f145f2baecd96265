"""A tokenizer, a task and samples for the tests of captioning."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch

from interlace.backbone import Backbone, BackboneConfig
from interlace.data_recipes import Sample, Text
from interlace.tasks.captioning import Captioning, CaptioningOptions
from interlace.tasks.interface import TaskContext

BACKBONE = BackboneConfig(hidden_size=32, depth=2, heads=2, mlp_size=64, patch_size=8, registers=1, layer_scale=1.0)
SHAPE = {"layers": 2, "hidden_size": 32, "heads": 2, "key_value_heads": 1, "mlp_size": 48}
COLOURS = ("red", "green", "blue", "orange", "white", "black", "pink", "purple")
THINGS = ("box", "ball", "mug", "chair", "lamp", "barrel")


def write_tokenizer(folder: Path) -> Path:
    """A SentencePiece model that can write captions of coloured things and numbers."""
    lines = [f"a {c} {t} left of a {d} {t}" for c in COLOURS for d in COLOURS for t in THINGS]
    lines += ["Describe the image.", "Read the sign.", "Where is it?", "0 1 2 3 4 5 6 7 8 9", "where is the"]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=110,
        hard_vocab_limit=False,
        pad_id=3,
        minloglevel=2,
        split_digits=True,
        character_coverage=1.0,  # or the rare digits would be unknown
    )
    path = folder / "text.model"
    path.write_bytes(model.getvalue())
    return path


def options(model: Path, **changes: Any) -> CaptioningOptions:
    return CaptioningOptions.model_validate(
        {"size": 16, "decoder": SHAPE, "tokenizer": str(model), "box_bins": 32, **changes}
    )


def build(model: Path, **changes: Any) -> tuple[Captioning, Backbone]:
    """A task and a backbone with weights large enough that images matter."""
    torch.manual_seed(0)
    task, backbone = Captioning(options(model, **changes), TaskContext(BACKBONE, seed=3)), Backbone(BACKBONE)
    with torch.no_grad():
        for parameter in (*task.parameters(), *backbone.parameters()):
            if parameter.ndim > 1:
                parameter.mul_(4)
    return task, backbone


def text(kind: str, prompt: str, answer: str, frame: int = 0, boxes: Any = ()) -> Text:
    return Text(
        kind=kind, prompt=prompt, answer=answer, frame=frame, boxes=np.asarray(boxes, np.float32).reshape(-1, 4)
    )


def sample(index: int, texts: list[Text], length: int = 1) -> Sample:
    rng = np.random.default_rng(index)
    frames = rng.integers(0, 256, (length, 20, 24, 3), dtype=np.uint8)
    return Sample(key=f"test/{index}", source="tests", frames=frames, times=np.arange(length) / 10.0, texts=texts)
