"""What the language tasks on a frozen backbone have in common."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_vla
import tiny_vlm
import torch
from language import SHAPE, write_tokenizer
from tiny_vlm import BACKBONE, write_template_tokenizer
from torch import Tensor
from torch.nn.functional import avg_pool2d

from interlace.backbone import Backbone, FrozenBackbone
from interlace.tasks.interface import Progress
from interlace.tasks.vlm import Vlm
from interlace.tasks.vlm.positions import position_code

MAKERS = {"vlm": tiny_vlm.build, "vla": tiny_vla.build}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("words"))


@pytest.mark.parametrize("name", MAKERS)
def test_parts_are_all_that_is_trained(words: Path, name: str) -> None:
    build: Any = MAKERS[name]
    task, _ = build(words)
    assert {key.split(".")[0] for key, _ in task.named_parameters()} == set(task.parts)
    assert all(set(parts) <= set(task.parts) for parts in task.begins_with.values())


def kept_for_backward(task: Any, backbone: Backbone) -> int:
    """Bytes of all tensors that the loss of a batch keeps until its gradients are computed."""
    makers: Any = {"vlm": tiny_vlm.sample, "vla": tiny_vla.sample}
    rng = np.random.default_rng(0)
    batch = task.collate([task.item(makers[task.name](number), rng) for number in range(2)])
    kept: dict[int, Tensor] = {}  # by where it lies, as several kernels keep the same one; held, so that none moves in

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        task.losses(backbone, batch, teacher=None, progress=Progress(0, 10, 0))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("name", MAKERS)
def test_a_training_step_keeps_nothing_of_the_frozen_backbone(words: Path, name: str) -> None:
    """Four times as many blocks, and not a byte more; were they trained, each would keep its activations."""
    build: Any = MAKERS[name]
    task, shallow = build(words)
    deep = FrozenBackbone(replace(shallow.config, depth=4 * shallow.config.depth))
    assert kept_for_backward(task, deep) == kept_for_backward(task, shallow)
    task.demand_frozen = lambda backbone: None
    weights = sum(parameter.nbytes for parameter in deep.parameters())
    assert kept_for_backward(task, Backbone(deep.config)) > kept_for_backward(task, deep) + 2 * weights


def test_a_tokenizer_is_known_by_its_tokens_wherever_it_lies(words: Path, tmp_path: Path) -> None:
    shutil.copy(words, tmp_path / "moved.model")
    template = write_template_tokenizer(tmp_path / "template")
    shutil.copytree(template, tmp_path / "moved")
    found = [
        tiny_vlm.build(path)[0].fingerprints()["tokenizer"]
        for path in (words, tmp_path / "moved.model", template, tmp_path / "moved")
    ]
    assert found[0] == found[1] != found[2] == found[3]
    assert tiny_vla.build(words)[0].fingerprints()["tokenizer"] == found[0]


# ---- where a patch is


def naive_code(row: float, column: float, width: int) -> list[float]:
    """Of a place in parts of the picture: waves of 4 pictures to a quarter of one, their ratio constant."""
    count = width // 4
    waves = [4.0 * (0.25 / 4.0) ** (index / (count - 1)) for index in range(count)]
    code = []
    for place in (row, column):
        code += [math.sin(2 * math.pi * place / wave) for wave in waves]
        code += [math.cos(2 * math.pi * place / wave) for wave in waves]
    return code


def test_the_code_is_sines_of_row_and_column() -> None:
    code = position_code(torch.zeros(5, 3, 6, 16))
    assert code.shape == (3, 6, 16)
    for row in range(3):
        for column in range(6):
            expected = torch.tensor(naive_code((row + 0.5) / 3, (column + 0.5) / 6, 16))
            torch.testing.assert_close(code[row, column], expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="tokens of 6 numbers; 4 must divide it"):
        position_code(torch.zeros(1, 2, 2, 6))


@pytest.mark.parametrize("size", [None, (48, 56)])
def test_a_picture_s_tokens_say_their_place(words: Path, size: tuple[int, int] | None) -> None:
    """Of a video's frames before they are pooled, of an image in its own tile; a newline has no place."""
    told, untold = (
        tiny_vlm.build(words, pool=2, grids=[(2, 2)], patch_positions=asked)[0].sight for asked in (True, False)
    )
    views = 2 if size is None else 5
    grid, newline = torch.randn(views, 4, 4, 12), torch.zeros(12)
    added = told.tokens(grid, size, newline) - untold.tokens(grid, size, newline)
    code = position_code(grid)
    if size is None:
        frame = avg_pool2d(code.movedim(2, 0), 2).movedim(0, 2)
        expected = torch.cat((frame, torch.zeros(2, 1, 12)), dim=1).flatten(0, 1).repeat(2, 1)
    else:
        expected = untold.tokens(code.expand(views, -1, -1, -1), size, newline)
    torch.testing.assert_close(added, expected, rtol=0, atol=1e-5)
    assert added.abs().max() > 0.1


def test_a_policy_s_tokens_say_their_place(words: Path) -> None:
    told, untold = (tiny_vla.build(words, patch_positions=asked)[0] for asked in (True, False))
    rows, patches = [told.row("push the red box")], torch.randn(1, 4, 4, 32)
    plain = untold.to_tokens
    untold.to_tokens = lambda seen: ([grid + position_code(grid) for grid in plain(seen)[0]], plain(seen)[1])  # type: ignore[method-assign]
    with torch.no_grad():
        assert torch.equal(told.act(rows, patches)[0], untold.act(rows, patches)[0])
        untold.to_tokens = plain  # type: ignore[method-assign]
        assert not torch.allclose(told.act(rows, patches)[0], untold.act(rows, patches)[0], atol=1e-3)


def test_a_width_without_room_for_a_place_is_refused_before_work_starts(words: Path) -> None:
    narrow = {**SHAPE, "hidden_size": 30, "heads": 1, "head_size": 16}
    asked = tiny_vlm.options(words, llm=narrow, patch_positions=True)
    assert Vlm.check(asked, BACKBONE) == [
        ("patch_positions", "allowed with an llm whose hidden_size 4 divides; here it is 30")
    ]
    assert Vlm.check(tiny_vlm.options(words, llm=narrow), BACKBONE) == []
