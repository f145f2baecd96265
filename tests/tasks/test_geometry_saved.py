"""Trained geometry heads without their task: the same numbers, from a folder that is read strictly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from interlace.backbone import Backbone, BackboneConfig
from interlace.tasks.geometry import Geometry, GeometryOptions
from interlace.tasks.geometry.heads import GeometryHeads
from interlace.tasks.geometry.saved import load_heads, read_options
from interlace.tasks.interface import TaskContext

CONFIG = BackboneConfig(hidden_size=32, depth=6, heads=2, mlp_size=32, patch_size=8, layer_scale=0.5)


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Geometry, Path]:
    """A task and the folder that a run writes of it."""
    torch.manual_seed(0)
    options = GeometryOptions(size=(32, 48), widths=(8, 8, 16, 16), features=8, ray_neck=3)
    task = Geometry(options, TaskContext(CONFIG, 0)).eval()
    save_file(task.state_dict(), tmp_path / "geometry.safetensors")
    (tmp_path / "geometry.json").write_text(options.model_dump_json())
    return task, tmp_path


def test_heads_read_what_the_task_reads(trained: tuple[Geometry, Path]) -> None:
    task, folder = trained
    heads = load_heads(folder, CONFIG)
    assert heads.layers == task.layers == (2, 3, 4, 5)
    assert not heads.training
    with torch.no_grad():
        features = Backbone(CONFIG)(torch.randn(2, 3, 3, 32, 48), layers=heads.layers)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found, expected = heads(features), task.read(features)
    for name in ("depth", "confidence", "rays", "poses"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == torch.float32


def test_features_without_what_heads_need_are_refused(trained: tuple[Geometry, Path]) -> None:
    heads = load_heads(trained[1], CONFIG)
    with pytest.raises(ValueError, match=r"features lack blocks \[3, 4, 5\]; call the backbone with layers=\[2, 3, 4"):
        heads(Backbone(CONFIG)(torch.randn(1, 1, 3, 16, 16), layers=[2]))


def test_options_name_the_layers(trained: tuple[Geometry, Path]) -> None:
    options = read_options(trained[1], CONFIG)
    assert options["layers"] == [2, 3, 4, 5]
    GeometryHeads.from_options(options, CONFIG).load_state_dict(load_file(trained[1] / "geometry.safetensors"))


def test_a_broken_folder_is_one_line(trained: tuple[Geometry, Path]) -> None:
    _, folder = trained
    weights, options = folder / "geometry.safetensors", folder / "geometry.json"
    state, text = load_file(weights), options.read_text()
    save_file({**state, "dpt.extra": torch.zeros(1)}, weights)
    with pytest.raises(ValueError, match=r"geometry\.safetensors: weights do not fit .*left over dpt\.extra$"):
        load_heads(folder, CONFIG)
    save_file({name: tensor for name, tensor in state.items() if name != "camera.fov.bias"}, weights)
    with pytest.raises(ValueError, match=r"missing camera\.fov\.bias$"):
        load_heads(folder, CONFIG)
    save_file({**state, "camera.fov.bias": torch.zeros(3)}, weights)
    with pytest.raises(ValueError, match=r"of another shape camera\.fov\.bias$"):
        load_heads(folder, CONFIG)
    weights.write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"geometry\.safetensors: not a whole safetensors file"):
        load_heads(folder, CONFIG)
    weights.unlink()
    with pytest.raises(ValueError, match=r"geometry\.safetensors: no such file"):
        load_heads(folder, CONFIG)
    options.write_text(text.replace('"features":8', '"features":"many"'))
    with pytest.raises(ValueError, match=r"^\S+geometry\.json: not a geometry head's options \([^\n]*features[^\n]*$"):
        load_heads(folder, CONFIG)
    options.unlink()
    with pytest.raises(ValueError, match=r"geometry\.json: no such file"):
        load_heads(folder, CONFIG)
