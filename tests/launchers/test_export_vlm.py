"""``interlace export`` of a vision-language model: where there is no Interlace it says what ``interlace chat`` says."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from interlace.backbone import save
from interlace.backbone.digest import digest
from interlace.backbone.frozen import write_reference
from interlace.data_recipes import Sample
from interlace.data_recipes.video import Video
from interlace.data_recipes.worlds.tokenizer import train_tokenizer
from interlace.launchers.cli import app
from interlace.launchers.export import export_run
from interlace.launchers.export_vlm import stated_licence
from interlace.tasks.captioning.tokenizer import read_tokenizer
from interlace.tasks.vlm import Vlm, reading
from interlace.tasks.vlm.export.tokenizer import write_tokenizer
from interlace.tasks.vlm.llm import embed, generate
from interlace.tasks.vlm.saved import load_vlm

sys.path[:0] = [str(Path(__file__).parents[1] / each) for each in ("tasks", "data_recipes", "backbone")]

import language  # noqa: E402
from clean_room import NEWER, build_room, imported, newer_transformers, run_in  # noqa: E402
from clips import make_video  # noqa: E402
from tiny_vlm import build, write_template_tokenizer  # noqa: E402

QUESTION = "what colour is the box?"
CLOSE = 1e-4


def write_run(run: Path, task: Vlm, backbone: Any, home: Path, *, start_from: Path | None = None) -> Path:
    """A run of task vlm that has ended, with what is read of it; its backbone lies in ``home``."""
    (run / "heads").mkdir(parents=True)
    save_file({name: value.clone() for name, value in task.state_dict().items()}, run / "heads" / "vlm.safetensors")
    (run / "heads" / "vlm.json").write_text(task.options.model_dump_json())
    save(backbone, home)
    write_reference(run / "backbone.json", str(home), backbone.config, digest(backbone))
    engine = {"steps": 10, "optimizer": "adamw", "lr": 1e-3, "warmup": 1, "weight_decay": 0.0, "precision": "fp32"}
    source = {"name": "rooms", "format": "llava", "path": "/somewhere/private/rooms.json", "weight": 1.0}
    options = json.loads(task.options.model_dump_json())
    recipe = {
        "name": "talks",
        "seed": 3,
        "start_from": str(start_from) if start_from else None,
        "backbone": {"init": str(home), "frozen": True},
        "engine": engine,
        "tasks": {"vlm": {"weight": 1.0, "batch": 4, "options": options, "sources": [source]}},
    }
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    row = {"task": "vlm", "measure": "accuracy_colour", "better": "higher", "blind": 0.3, "low": 0.05, "high": 0.1}
    lines = [{**row, "n": 12, "step": step, "value": value} for step, value in ((0, 0.25), (10, 0.75))]
    (run / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def write_llm(folder: Path) -> Path:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    write_template_tokenizer(folder)
    torch.manual_seed(1)
    config = Qwen2Config(
        vocab_size=330, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=False,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: research-only\n---\n# a model\n")
    (folder / "LICENSE").write_text("the llm's terms\n")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``template`` (a Qwen2 of its own folder, tiles) and ``plain`` (SentencePiece, tied embeddings), each a run and
    exported by the command; a photograph, a clip."""
    root = tmp_path_factory.mktemp("vlm")
    llm = write_llm(root / "llm")
    train_tokenizer(["what colour is the red box?", "left of the blue ball, far away"] * 3, root / "text.model")
    grids = {"llm": str(llm), "grids": [(1, 2), (2, 1)], "max_tiles": 1}
    for name, tokenizer, more in (("template", llm, grids), ("plain", root / "text.model", {})):
        task, backbone = build(tokenizer, max_generated=12, max_frames=4, **more)
        write_run(root / "runs" / name, task, backbone, root / f"{name}_backbone")
        asked = ["export", str(root / "runs" / name), "--to", str(root / name), "--licence", "mit"]
        done = CliRunner().invoke(app, asked)
        assert (done.exit_code, done.exception) == (0, None), done.output
        assert f"exported: {root / name}" in done.output
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 70, 3)).astype(np.uint8)).save(root / "photo.png")
    (root / "clip.mp4").write_bytes(make_video(31, fps=5))
    return root


def visual(root: Path, kind: str) -> Path | None:
    return {"image": root / "photo.png", "video": root / "clip.mp4", "words": None}[kind]


@torch.no_grad()
def expected(root: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What the command ``chat`` says of each, its tokens, and the logits of the first; and what it looked at."""
    picture, no_picture = reading.read_image(root / "photo.png"), reading.nothing()
    film = Video(root / "clip.mp4", "clip")
    whole = Sample(key="clip", source="test", frames=film.read(), times=film.times)
    tensors = {"picture": picture.frames[0], "frames": whole.frames, "times": whole.times}
    found: dict[str, Any] = {}
    for name in ("template", "plain"):
        task, backbone = load_vlm(root / "runs" / name)
        for kind in ("image", "video", "words"):
            path = visual(root, kind)
            flag = [] if path is None else [f"--{kind}", str(path)]
            said = CliRunner().invoke(app, ["chat", str(root / "runs" / name), QUESTION, *flag])
            assert (said.exit_code, said.exception) == (0, None)
            sample = {"image": picture, "video": whole, "words": no_picture}[kind]
            seen = task.look(backbone, sample, len(sample.frames) - 1)
            row = task.chat.row([(QUESTION, None)], visual=len(seen) > 0)
            tokens = generate(task.llm, [row], [seen], task.chat.tokenizer, task.options.max_generated)
            found[f"{name}.{kind}"] = (said.stdout.removesuffix("\n"), tokens[0])
            logits = task.llm(inputs_embeds=embed(task.llm, [row], [seen])[0][None]).logits[0, -1]
            tensors[f"{name}.{kind}"] = logits.numpy()
    return found, {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in tensors.items()}


def check(root: Path, room: Path, cache: Path) -> dict[str, Any]:
    """Use the exports in a room: all is as ``chat`` says."""
    said, tensors = expected(root)
    save_file(tensors, cache.parent / "inputs")
    code = (Path(__file__).parent / "exported_vlm_use.py").read_text()
    done = run_in(room, code, cache.parent / "inputs", root / "template", root / "plain", cache=cache)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["there"] == []
    for name in ("template", "plain"):
        own, task = found[name], load_vlm(root / "runs" / name)[0]
        assert (own["class"], own["dtype"], own["training"]) == ("InterlaceVlm", "torch.float32", False)
        assert own["ready"] == "InterlaceVlmProcessor"
        for kind in ("image", "video", "words"):
            answer, tokens = said[f"{name}.{kind}"]
            end = task.chat.tokenizer.eos
            assert [token for token in own[kind]["tokens"] if token != end] == tokens, (name, kind)
            if "\ufffd" not in answer:  # of bytes that are no text each decoder makes its own
                assert (own[kind]["answer"] or "(it says nothing)") == answer
            assert own[kind]["apart"] <= CLOSE
        assert own["image"]["tokens"] != own["words"]["tokens"], "the picture must matter"
        assert own["together"] == [own["video"]["answer"], own["words"]["answer"]]
        assert own["listed"] == [own["image"]["answer"]]
        row = task.chat.row([("how many?", "three"), (QUESTION, None)], visual=True).tokens
        assert [token for token in own["turns"] if token >= 0] == [token for token in row if token >= 0]
        assert own["short"] == 2
        assert own["again"]
    told = found["told"]
    assert told["places"].endswith("visual tokens; give all that the processor made")
    assert told["long"].startswith(
        "processor: a video of 31 frames, of which at most 4 are looked at; give their times"
    )
    assert told["times"] == "processor: times [1]: must be 31 ascending seconds"
    assert told["both"] == "processor: give images or videos, one of them"
    assert told["pixels"].startswith("processor: ndarray uint8 [31, ")
    assert told["text"].startswith("processor: text must be a question, a conversation [")
    assert told["counts"] == "processor: 2 texts, 1 images or videos and 2 times"
    return found


def test_used_without_interlace(root: Path, tmp_path: Path) -> None:
    """torch, this environment's transformers, safetensors and Pillow alone: the tokens that ``chat`` gives."""
    check(root, build_room(tmp_path / "room"), tmp_path / "cache")


@pytest.mark.slow
def test_used_without_interlace_under_transformers_5(root: Path, tmp_path: Path) -> None:
    found = check(root, build_room(tmp_path / "room", over=newer_transformers(tmp_path)), tmp_path / "cache")
    assert found["transformers"] == NEWER


@pytest.mark.parametrize("name", ["template", "plain"])
def test_an_export_is_read_back(root: Path, name: str) -> None:
    """Weight by weight, and what ``chat`` says of it is what it says of the run."""
    (task, eyes), (again, seen_by) = load_vlm(root / "runs" / name), load_vlm(root / name)
    assert digest(again) == digest(task)
    assert (digest(seen_by), seen_by.config) == (digest(eyes), eyes.config)
    assert again.sight == task.sight
    assert len({file.stat().st_mode for file in (root / name).iterdir() if file.is_file()}) == 1
    assert not again.training
    asked = [("how many?", "three"), (QUESTION, None)]
    assert again.chat.row(asked, visual=True) == task.chat.row(asked, visual=True)
    for kind in ("image", "video", "words"):
        path = visual(root, kind)
        flag = [] if path is None else [f"--{kind}", str(path)]
        own, other = (
            CliRunner().invoke(app, ["chat", str(model), QUESTION, *flag])
            for model in (root / name, root / "runs" / name)
        )
        assert (own.exit_code, own.exception) == (0, None)
        if "\ufffd" not in other.stdout:  # of bytes that are no text each decoder makes its own
            assert own.stdout == other.stdout


def test_options_that_are_no_longer_known_are_named(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "runs" / "plain", tmp_path / "run")
    said = tmp_path / "run" / "heads" / "vlm.json"
    said.write_text(json.dumps({**json.loads(said.read_text()), "old": 1}))
    with pytest.raises(ValueError, match=r"vlm\.json: not the options of a vlm: old: Extra inputs are not permitted"):
        load_vlm(tmp_path / "run")


def test_an_export_that_is_not_whole_is_not_read(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"plain: an exported model holds its own backbone; leave other out"):
        load_vlm(root / "plain", "other")
    for number, (file, told) in enumerate(
        (
            ("generation_config.json", r"generation_config\.json: no such file"),
            ("model.safetensors", r"model\.safetensors: no such file"),
        )
    ):
        folder = tmp_path / str(number)
        shutil.copytree(root / "plain", folder)
        (folder / file).unlink()
        with pytest.raises(ValueError, match=told):
            load_vlm(folder)
    whole = load_file(root / "plain" / "model.safetensors")
    for name in ("newline", "projector.0.bias", "llm.model.norm.weight", "backbone.norm.bias"):
        rest = {key: value for key, value in whole.items() if key != name}
        save_file(rest, tmp_path / "0" / "model.safetensors")
        shutil.copyfile(root / "plain" / "generation_config.json", tmp_path / "0" / "generation_config.json")
        with pytest.raises(
            ValueError, match=f"0: weights do not fit the config: missing {name.removeprefix('backbone.')}"
        ):
            load_vlm(tmp_path / "0")


def test_the_code_imports_what_a_user_has(root: Path) -> None:
    allowed = {"torch", "transformers", "safetensors", "numpy", "PIL", *sys.stdlib_module_names}
    assert imported(root / "template") <= allowed


def test_the_card_tells_of_the_run_and_both_licences(root: Path) -> None:
    card = (root / "template" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert (front["license"], front["license_name"]) == ("other", "mit-and-research-only")
    assert front["pipeline_tag"] == "image-text-to-text"
    for line in (
        "# talks",
        "Language model: qwen2, 2 layers, ",
        " parameters, begun from llm.",
        "or cut into grids of 1x2, 2x1 tiles",
        "| vlm | rooms | 100.0% | llava |",
        "| vlm | accuracy_colour ↑ | 0.250 | 0.750 | 0.300 | +0.050 to +0.100 | 12 |",
        "Backbone and projector: mit. Language model: research-only. Code: Apache-2.0.",
    ):
        assert line in card, line
    assert "private" not in card
    assert str(root) not in card
    assert (root / "template" / "LANGUAGE_MODEL_LICENSE").read_text() == "the llm's terms\n"
    assert str(root) not in (root / "template" / "config.json").read_text()
    plain = yaml.safe_load((root / "plain" / "README.md").read_text().split("---")[1])
    assert plain["license"] == "mit", "the run made its language model itself"


def test_no_licence_no_export(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="say under which licence the weights are given"):
        export_run(root / "runs" / "plain", tmp_path / "out", None)
    silent = write_llm(tmp_path / "silent")
    (silent / "README.md").write_text("# a model\n")
    assert stated_licence(silent) == "that of LANGUAGE_MODEL_LICENSE"
    (silent / "LICENSE").unlink()
    with pytest.raises(ValueError, match="silent: the language model began from it, and it states no licence"):
        stated_licence(silent)
    (silent / "README.md").write_text("---\n[\n---\n")
    with pytest.raises(ValueError, match=r"README\.md: the fields at its top are not YAML"):
        stated_licence(silent)
    assert not (tmp_path / "out").exists()


def test_a_backbone_from_dinov3_keeps_its_licence_in_a_vlm_too(root: Path, tmp_path: Path) -> None:
    """The backbone's own run began from a DINOv3 folder."""
    (tmp_path / "dinov3").mkdir()
    (tmp_path / "dinov3" / "config.json").write_text('{"model_type": "dinov3_vit"}')
    (tmp_path / "dinov3" / "LICENSE.md").write_text("the terms\n")
    before = {"name": "before", "backbone": {"init": str(tmp_path / "dinov3")}, "tasks": {}, "start_from": None}
    task, backbone = load_vlm(root / "runs" / "plain")
    run = write_run(tmp_path / "run", task, backbone, tmp_path / "before" / "backbone")
    (tmp_path / "before" / "recipe.yaml").write_text(yaml.safe_dump(before))
    with pytest.raises(ValueError, match=r"derive from DINOv3 \(.*\) and keep DINOv3's licence; leave --licence out"):
        export_run(run, tmp_path / "out", "mit")
    assert export_run(run, tmp_path / "out", None).licence == "dinov3-license"
    assert (tmp_path / "out" / "LICENSE.md").read_text() == "the terms\n"


def test_other_runs_on_a_frozen_backbone_are_refused(root: Path, tmp_path: Path) -> None:
    task, backbone = load_vlm(root / "runs" / "plain")
    run = write_run(tmp_path / "run", task, backbone, tmp_path / "backbone")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["tasks"] = {"vla": recipe["tasks"]["vlm"]}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(ValueError, match="run: trained vla on a frozen backbone; exported are backbones and runs of"):
        export_run(run, tmp_path / "out", "mit")


def test_a_tokenizer_that_would_change_is_refused(tmp_path: Path) -> None:
    """One that is not BPE, and one that cannot write every letter."""
    lines = iter(["what colour is the red box", "left of the blue ball"] * 4)
    trained = {"model_prefix": str(tmp_path / "narrow"), "model_type": "bpe", "vocab_size": 60, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, hard_vocab_limit=False, **trained)
    for file in (language.write_tokenizer(tmp_path), tmp_path / "narrow.model"):
        with pytest.raises(ValueError, match=r"SentencePiece model that\s+is exported must be BPE with byte_fallback"):
            write_tokenizer(read_tokenizer(str(file)), tmp_path)
