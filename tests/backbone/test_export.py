"""An exported folder: used where there is no Interlace, under both releases of transformers, equal to the backbone."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from clean_room import NEWER, build_room, imported, newer_transformers, run_in
from lively import lively, naive, tiny
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from interlace.backbone import Backbone, load, load_with_report, normalise
from interlace.backbone.export import Heads, flatten, modeling_interlace, new_folder, write_model
from interlace.backbone.export.configuration_interlace import InterlaceConfig
from interlace.backbone.export.image_processing_interlace import InterlaceImageProcessor
from interlace.backbone.preprocess import fit
from interlace.tasks.frames import resize
from interlace.tasks.geometry.heads import GeometryHeads

ROOT = Path(__file__).resolve().parents[2]
OPTIONS: dict[str, Any] = {"layers": [0, 0, 1, 1], "widths": [8] * 4, "features": 8, "ray_neck": 1}
CLOSE = 1e-5
LONG = 200
MODEL = "interlace.backbone.export.modeling_interlace"


def uint8(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def heads_of(backbone: Backbone) -> GeometryHeads:
    torch.manual_seed(3)
    return GeometryHeads.from_options(OPTIONS, backbone.config).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``model``, ``plain`` (a DINOv3 image model), ``broken`` (a weight is missing) and ``inputs``."""
    root = tmp_path_factory.mktemp("exported")
    backbone = lively(tiny())
    heads = heads_of(backbone)
    with new_folder(root / "model") as folder:
        write_model(backbone, folder, licence="mit", size=32, heads={"geometry": Heads(heads, OPTIONS)})
    plain = lively(tiny(rope="image", camera_token=False, attention="bidirectional"))
    with new_folder(root / "plain") as folder:
        write_model(plain, folder, licence="mit", size=32)
    shutil.copytree(root / "model", root / "broken")
    state = load_file(root / "broken" / "model.safetensors")
    del state["backbone.blocks.1.norm2.bias"]
    save_file(state, root / "broken" / "model.safetensors", metadata={"format": "pt"})
    save_file({name: value.contiguous() for name, value in expected(backbone, plain, heads).items()}, root / "inputs")
    return root


@torch.no_grad()
def expected(backbone: Backbone, plain: Backbone, heads: nn.Module) -> dict[str, Tensor]:
    """Frames and pictures, and what is to come of them."""
    frames, picture = uint8(2, 4, 3, 32, 48), uint8(3, 70, 90, seed=1)
    pixels = normalise(frames)
    features = backbone(pixels, layers=OPTIONS["layers"])
    geometry = heads(features)
    assert features.camera is not None
    prefix = [features.cls[:, :, None], features.camera[:, :, None], features.registers]
    long = uint8(1, LONG, 3, 16, 32, seed=2)
    tokens, _ = naive(backbone, normalise(long))
    skip = backbone.config.prefix_tokens
    return {
        "frames": frames,
        "pixels": pixels,
        "tokens": torch.cat([*prefix, features.patches.flatten(2, 3)], 2),
        "layer": features.layers[0],
        "embedded": backbone.embedding(pixels, (0,), None).unflatten(1, (4, -1)),
        "stream": features.patches,
        "depth": geometry.depth,
        "poses": geometry.poses,
        "long": long,
        "long_patches": tokens[:, :, skip:].unflatten(2, (1, 2)),
        "long_camera": tokens[:, :, 1],
        "picture": picture,
        "picture_pixels": normalise(torch.from_numpy(resize(picture.permute(1, 2, 0)[None].numpy(), (32, 48)))),
        "small_pixels": normalise(torch.from_numpy(resize(picture.permute(1, 2, 0)[None].numpy(), (16, 16)))),
        "plain": plain(pixels[:, :1]).cls[:, 0],
    }


def use(exported: Path, room: Path, cache: Path) -> dict[str, Any]:
    """What exported_use.py finds in a room."""
    code = (Path(__file__).parent / "exported_use.py").read_text()
    arguments = [exported / name for name in ("model", "plain", "broken", "inputs")]
    done = run_in(room, code, *arguments, cache=cache)
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def check(found: dict[str, Any]) -> None:
    assert found["there"] == []
    assert (found["training"], found["dtype"], found["hidden_size"]) == (False, "torch.float32", 32)
    assert len(found["apart"]) == 21
    assert max(found["apart"].values()) <= CLOSE, found["apart"]
    assert (found["states"], found["pair"]) == (3, "tuple")
    assert found["long"] == LONG
    assert found["processors"] == ["InterlaceImageProcessor"] * 2
    assert found["sizes"] == [[1, 3, 32, 64], [1, 3, 3, 32, 48]]
    assert found["plain"].startswith("transformers.models.dinov3_vit.")
    told = found["told"]
    assert told["weights"].endswith("weights do not fit the config: missing: backbone.blocks.1.norm2.bias")
    assert told["heads"].endswith("no 'captioning' heads were exported with this backbone; there are: geometry")
    assert told["lost"].endswith("again: no heads/geometry.json, which its config.json promises")
    assert told["promised"] == told["lost"]
    assert told["gone"].endswith("moved: no heads/geometry.json, which its config.json promises")
    assert told["pushed"] == "save_pretrained: push_to_hub leaves the heads behind; call model.push_to_hub(NAME)"
    assert not found["saved"]
    assert told["attentions"].startswith("output_attentions: attention is computed without its matrix")
    assert told["mean"].startswith("processor: image_mean [0.5, 0.5, 0.5]: the backbone was trained with [0.485, 0.456")
    assert told["dtype"].startswith("frames: expected uint8 or float [B, T, 3, H, W], or photographs [B, 3, H, W]")
    assert re.match(r"processor: 2 inputs become .*: give them one by one, or size=", told["sizes"])
    assert told["nothing"] == "processor: give images or videos, one of them"
    assert told["channels"].startswith("processor: ndarray uint8 [3, 32, 32]: allowed are Pillow images, uint8 arrays")


def test_used_without_interlace(exported: Path, tmp_path: Path) -> None:
    """torch, transformers of this environment, safetensors and Pillow alone: equal to the backbone, also 200 frames."""
    found = use(exported, build_room(tmp_path / "room"), tmp_path / "cache")
    check(found)


@pytest.mark.slow
def test_used_without_interlace_under_transformers_5(exported: Path, tmp_path: Path) -> None:
    found = use(exported, build_room(tmp_path / "room", over=newer_transformers(tmp_path)), tmp_path / "cache")
    assert found["transformers"] == NEWER
    check(found)


def test_the_backbone_loads_back(exported: Path) -> None:
    again, report = load_with_report(exported / "model")
    assert again.config == tiny()
    assert report.made_by == "interlace export"
    for name, tensor in lively(tiny()).state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    image = load(exported / "plain", rope="image", camera_token=False, attention="bidirectional")
    frames = normalise(uint8(1, 1, 3, 32, 48))
    whole = lively(tiny(rope="image", camera_token=False, attention="bidirectional"))
    assert torch.equal(image(frames).cls, whole(frames).cls)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_an_export_with_a_file_missing_is_one_line(exported: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(exported / "model", tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    with pytest.raises(ValueError, match=rf"^\S+{name}: no such file[^\n]*$"):
        load(tmp_path / "model")


def test_the_code_is_the_project_s_own(exported: Path) -> None:
    """Every line but the imports from the project, the first and those at the end are those of the source."""
    ours = re.compile(r"^\s*from (\.|interlace)")
    for name, text in flatten([MODEL]).items():
        assert (exported / "model" / name).read_text() == text
        first, *lines = text.splitlines()
        origin = re.match(r"# interlace\.([\w.]+) of Interlace \S+\. SPDX-License-Identifier: Apache-2\.0$", first)
        assert origin is not None
        source = (ROOT / f"{origin[1].replace('.', '/')}.py").read_text().splitlines()
        copied = lines[: len(source)]
        assert [line for line in copied if not ours.match(line)] == [line for line in source if not ours.match(line)]
        rest = [line for line in lines[len(source) :] if line]
        assert not rest or rest[0].startswith("if False:  #")
        assert all(re.fullmatch(r"    from \.\w+ import \*", line) for line in rest[1:])


def test_the_code_imports_what_a_user_has(exported: Path) -> None:
    """transformers refuses a model whose code names a package that is missing, wherever in the file it does."""
    allowed = {"torch", "transformers", "safetensors", "numpy", "PIL", *sys.stdlib_module_names}
    assert imported(exported / "model") <= allowed


def test_the_model_and_its_heads_need_no_pillow(tmp_path: Path) -> None:
    """Pillow is for the processor alone; transformers refuses code that names a package which is not there."""
    for name, text in flatten([MODEL, GeometryHeads.__module__]).items():
        (tmp_path / name).write_text(text)
    assert imported(tmp_path) <= {"torch", "transformers", "safetensors", "numpy", *sys.stdlib_module_names}


def test_no_buffer_could_arrive_as_garbage() -> None:
    """transformers 5 makes a model on the meta device and fills what the weights' file has, and nothing else."""
    backbone = lively(tiny())
    assert list(backbone.buffers()) == []
    assert list(heads_of(backbone).buffers()) == []


def test_an_image_model_is_written_plainly(exported: Path) -> None:
    fields = json.loads((exported / "plain" / "config.json").read_text())
    assert fields["model_type"] == "dinov3_vit"
    assert "auto_map" not in fields
    assert sorted(file.name for file in (exported / "plain").iterdir()) == [
        *("config.json", "image_processing_interlace.py", "model.safetensors", "preprocess.py"),
        "preprocessor_config.json",
    ]
    plain = lively(tiny(attention="bidirectional", rope="image", camera_token=False))
    with pytest.raises(ValueError, match="has no place for heads: geometry"):
        write_model(plain, exported, licence="mit", size=None, heads={"geometry": Heads(nn.Linear(1, 1), {})})


def test_a_stream_without_a_camera_is_no_image_model(tmp_path: Path) -> None:
    """transformers' DINOv3 has no past, and no registers of later frames."""
    write_model(lively(tiny(rope="image", camera_token=False)), tmp_path, licence="mit", size=None)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "interlace"


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:

    def fail(target: Path) -> None:
        with new_folder(target) as folder:
            (folder / "config.json").write_text("{}")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "model").mkdir()
    with new_folder(tmp_path / "model") as folder:
        (folder / "config.json").write_text("{}")
        assert list((tmp_path / "model").iterdir()) == []
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "config.json"]
    with pytest.raises(ValueError, match="model: already there and not empty"), new_folder(tmp_path / "model"):
        pass
    assert (tmp_path / "model" / "config.json").read_text() == "{}"


def test_the_current_folder_may_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with new_folder(Path()) as folder:
        (folder / "config.json").write_text("{}")
    assert [path.name for path in tmp_path.rglob("*")] == ["here", "config.json"]


def test_heads_of_a_model_on_the_hub_are_those_of_its_revision(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's functions are asked for one revision, and answered from a folder."""
    asked: list[tuple[str, str]] = []

    def file(source: str, name: str, revision: str) -> str:
        asked.append((name, revision))
        return str(exported / "model" / name)

    def made_by(reference: str, source: str, revision: str) -> type[GeometryHeads]:
        asked.append((reference, revision))
        return GeometryHeads

    monkeypatch.setattr(modeling_interlace, "cached_file", file)
    monkeypatch.setattr(modeling_interlace, "get_class_from_dynamic_module", made_by)
    fields = json.loads((exported / "model" / "config.json").read_text())
    model = modeling_interlace.InterlaceModel(InterlaceConfig(interlace=fields["interlace"], heads=fields["heads"]))
    model.config._commit_hash = "4f2c"
    model.load_heads("geometry")
    assert {revision for _, revision in asked} == {"4f2c"}
    assert [name for name, _ in asked] == ["heads/geometry.json", "heads/geometry.safetensors", "heads.GeometryHeads"]


def model_of(backbone: Backbone) -> Any:
    """As transformers makes an exported backbone, whose forward it does not type."""
    model = modeling_interlace.InterlaceModel(InterlaceConfig(interlace=backbone.config.to_json()))
    model.backbone.load_state_dict(backbone.state_dict())
    return model


def test_hidden_states_are_the_tokens_of_the_embedding_and_of_every_block() -> None:
    """Asked for at the call or by the config, of clips and photographs, also under checkpoints; otherwise not kept."""
    backbone = lively(tiny(activation_checkpointing=True))
    model, clip = model_of(backbone), normalise(uint8(2, 3, 3, 32, 48))
    features = backbone(clip, layers=[0, 1])
    output = model(clip, output_hidden_states=True)
    assert len(output.hidden_states) == 3
    assert torch.equal(output.hidden_states[0].flatten(1, 2), backbone.embedding(clip, (0,), None))
    for index, state in enumerate(output.hidden_states[1:]):
        assert torch.equal(state[:, :, backbone.config.prefix_tokens :], features.layers[index].flatten(2, 3))
    assert torch.equal(backbone.norm(output.hidden_states[-1]), output.last_hidden_state)
    output.hidden_states[-1].sum().backward()
    assert model.backbone.embedding.cls_token.grad is not None
    assert model(clip).hidden_states is None
    assert not any(module._forward_hooks for module in model.modules())
    model.config.output_hidden_states = True
    photograph = model(clip[:, 0])
    assert [state.shape for state in photograph.hidden_states] == [photograph.last_hidden_state.shape] * 3
    assert model(clip, output_hidden_states=False).hidden_states is None


def test_two_threads_keep_their_hidden_states_apart() -> None:
    """The second asks inside of the first's forward, between two blocks."""
    model, picture = model_of(lively(tiny())), uint8(1, 3, 32, 48)
    inside: list[int] = []

    def ask_too(module: nn.Module, given: object, state: Tensor) -> None:
        if not inside:
            inside.append(0)
            other = Thread(target=lambda: inside.append(len(model(picture, output_hidden_states=True).hidden_states)))
            other.start()
            other.join()

    model.backbone.blocks[0].register_forward_hook(ask_too)
    assert len(model(picture, output_hidden_states=True).hidden_states) == 3
    assert inside[1:] == [3]


def test_a_tuple_has_the_fields_that_are_there() -> None:
    model, picture = model_of(lively(tiny())), uint8(1, 3, 32, 48)
    named = model(picture, layers=[1], output_hidden_states=True)
    found = model(picture, layers=[1], output_hidden_states=True, return_dict=False)
    assert isinstance(found, tuple)
    for index, field in enumerate(("last_hidden_state", "pooler_output")):
        assert torch.equal(found[index], named[field])
    assert len(found[2]) == 3
    assert torch.equal(found[-1][1], named.layers[1])
    model.config.return_dict = False
    assert isinstance(model(picture), tuple)
    assert model(picture, return_dict=True).keys() >= {"last_hidden_state", "pooler_output"}


def test_attention_that_nobody_computes_is_refused() -> None:
    model, picture = model_of(lively(tiny())), uint8(1, 3, 32, 48)
    with pytest.raises(ValueError, match=r"^output_attentions: .* without its matrix; leave it out$"):
        model(picture, output_attentions=True)
    model.config._output_attentions = True  # as from_pretrained(..., output_attentions=True) does
    with pytest.raises(ValueError, match="output_attentions"):
        model(picture)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(1, 1, 3, 32, 48, dtype=torch.int64), torch.zeros(3, 32, 48)], ids=["int64", "no batch"]
)
def test_frames_that_do_not_fit_are_told_without_interlace(wrong: Tensor) -> None:
    model = model_of(lively(tiny()))
    line = r"^frames: expected uint8 or float \[B, T, 3, H, W\], or photographs [^\n]*; the processor makes them$"
    with pytest.raises(ValueError, match=line):
        model(wrong)
    if wrong.ndim == 5:
        with model.stream(1, 32, 48, window=2) as stream, pytest.raises(ValueError, match=line):
            stream(wrong)


def test_the_processor_takes_a_size_as_transformers_do() -> None:
    processor, picture = InterlaceImageProcessor(patch_size=8), uint8(3, 40, 60)
    whole = processor(picture, size={"shortest_edge": 16})["pixel_values"]
    assert whole.shape == (1, 3, 16, 24)
    assert torch.equal(processor(picture, size=16)["pixel_values"], whole)
    assert torch.equal(InterlaceImageProcessor(size=16, patch_size=8)(picture)["pixel_values"], whole)
    for wrong in (0, "16", {"height": 16}, {"shortest_edge": -8}, {"height": 16, "width": 1.5}):
        with pytest.raises(ValueError, match=r"^processor: size .*: allowed are shortest_edge, or height and width"):
            processor(picture, size=wrong)


@pytest.mark.parametrize(
    "told", [{"image_mean": [0.5] * 3}, {"image_std": (1, 1, 1)}, {"do_resize": False}, {"resample": 3}], ids=str
)
def test_a_processor_that_would_do_otherwise_than_training_is_refused(
    exported: Path, tmp_path: Path, told: dict[str, Any]
) -> None:
    """In its file, at loading or afterwards; what is there to be read may be said again."""
    file = tmp_path / "preprocessor_config.json"
    fields = json.loads((exported / "model" / file.name).read_text())
    assert (fields["image_mean"], fields["image_std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    file.write_text(json.dumps(fields))
    processor = InterlaceImageProcessor.from_pretrained(tmp_path)
    ((name, value),) = told.items()
    line = rf"^processor: {name} .*: the backbone was trained with .*; leave {name} out$"
    with pytest.raises(ValueError, match=line):
        InterlaceImageProcessor.from_pretrained(tmp_path, **told)
    with pytest.raises(ValueError, match=line):
        setattr(processor, name, value)
    file.write_text(json.dumps({**fields, **told}))
    with pytest.raises(ValueError, match=line):
        InterlaceImageProcessor.from_pretrained(tmp_path)
    processor.image_mean = np.array([0.485, 0.456, 0.406])
    assert list(processor.image_mean) == [0.485, 0.456, 0.406]


def test_code_names_modules_not_packages() -> None:
    with pytest.raises(ValueError, match=r"interlace\.tasks\.geometry\.saved imports from interlace\.backbone, a pack"):
        flatten(["interlace.tasks.geometry.saved"])


@pytest.mark.parametrize(
    ("size", "shape"),
    [(None, (64, 96)), (32, (32, 48)), (42, (48, 64)), ((32, 64), (32, 64)), (1, (16, 16))],
)
def test_fit_brings_frames_to_whole_patches_as_training_does(
    size: int | tuple[int, int] | None, shape: tuple[int, int]
) -> None:
    frames = uint8(2, 3, 3, 70, 94)
    found = fit(frames, size, 16)
    assert found.dtype == torch.uint8
    assert found.shape == (2, 3, 3, *shape)
    trained = resize(frames[1].permute(0, 2, 3, 1).numpy(), shape)
    assert torch.equal(found[1], torch.from_numpy(trained))


def test_fit_refuses_what_has_no_whole_patches() -> None:
    with pytest.raises(ValueError, match="size 32 x 40: both sides must be multiples of patch_size = 16"):
        fit(uint8(3, 64, 64), (32, 40), 16)
    with pytest.raises(ValueError, match=r"fit: expected uint8 frames \[..., 3, H, W\], found torch.float32"):
        fit(torch.zeros(3, 32, 32), None, 16)
