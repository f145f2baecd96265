"""``interlace export``: what goes out, under which licence, and what the card tells."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from interlace.backbone import Backbone, BackboneConfig, load, save
from interlace.launchers import cli
from interlace.launchers.export import export_run, origin_of, trained_size
from interlace.launchers.model_card import public
from interlace.launchers.watching import load_geometry
from interlace.tasks.geometry import Geometry, GeometryOptions
from interlace.tasks.geometry.saved import load_heads
from interlace.tasks.interface import TaskContext

CONFIG = BackboneConfig(hidden_size=32, depth=2, heads=2, mlp_size=32, patch_size=8)
ROW = {"task": "geometry", "measure": "abs_rel", "better": "lower", "blind": 0.3, "low": 0.05, "high": 0.1, "n": 12}


def make_run(
    root: Path,
    *,
    config: BackboneConfig = CONFIG,
    init: Path | None = None,
    start_from: Path | None = None,
    rows: bool = True,
) -> Path:
    """A run that has ended, with what an export reads."""
    torch.manual_seed(0)
    save(Backbone(config), root / "backbone")
    sources = [
        {"name": name, "format": "mds", "path": f"/somewhere/private/{name}", "weight": weight}
        for name, weight in (("rooms", 1.0), ("streets", 3.0))
    ]
    engine = {"steps": 1000, "optimizer": "adam", "lr": 1e-3, "warmup": 10, "weight_decay": 0.0, "precision": "fp32"}
    task = {"weight": 1.0, "batch": 4, "micro_batches": 2, "options": {"size": [48, 32]}, "sources": sources}
    recipe = {
        "name": "small",
        "seed": 3,
        "start_from": str(start_from) if start_from else None,
        "backbone": {"preset": None, "init": str(init) if init else None},
        "engine": engine,
        "tasks": {"geometry": task, "ssl": {**task, "options": {"global_size": 24}}},
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    if rows:
        lines = [{**ROW, "step": step, "value": value} for step, value in ((0, 0.5), (1000, 0.2))]
        (root / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def add_heads(run: Path) -> Geometry:
    options = GeometryOptions(size=32, widths=(8, 8, 8, 8), features=8, ray_neck=1)
    task = Geometry(options, TaskContext(CONFIG, 0)).eval()
    (run / "heads").mkdir()
    save_file(task.state_dict(), run / "heads" / "geometry.safetensors")
    (run / "heads" / "geometry.json").write_text(options.model_dump_json())
    return task


def dinov3(folder: Path) -> Path:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    DINOv3ViTModel(DINOv3ViTConfig(**shape, patch_size=8, num_register_tokens=4)).save_pretrained(folder)
    return folder


def front(folder: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((folder / "README.md").read_text().split("---")[1]))


def test_an_export_holds_backbone_heads_and_card(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    task = add_heads(run)
    done = export_run(run, tmp_path / "out", "CC-BY-4.0")
    assert (done.licence, done.heads, done.notes) == ("CC-BY-4.0", ("geometry",), ())
    again = load(tmp_path / "out")
    assert all(torch.equal(again.state_dict()[name], w) for name, w in load(run).state_dict().items())
    heads = load_heads(tmp_path / "out" / "heads", again.config)
    with torch.no_grad():
        features = again(torch.randn(1, 2, 3, 32, 32), layers=heads.layers)
        assert torch.equal(heads(features).depth, task.read(features).depth)
        watched = load_geometry(str(tmp_path / "out"), again)
        assert watched is not None
        assert torch.equal(watched[0](features).depth, task.read(features).depth)
    fields = json.loads((tmp_path / "out" / "config.json").read_text())
    assert fields["heads"] == {"geometry": "heads.GeometryHeads"}
    assert fields["licence"] == "CC-BY-4.0"
    processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert (processor["size"], processor["patch_size"]) == ({"shortest_edge": 32}, 8)
    assert (tmp_path / "out").stat().st_mode & 0o777 == run.stat().st_mode & 0o777
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert len({file.stat().st_mode & 0o777 for file in files}) == 1, "all may be read by whoever reads one"


def test_the_card_tells_of_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    export_run(run, tmp_path / "out", "my own terms, v1")
    card = (tmp_path / "out" / "README.md").read_text()
    head = front(tmp_path / "out")
    assert (head["license"], head["license_name"]) == ("other", "my-own-terms-v1")
    assert head["library_name"] == "transformers"
    for line in (
        "Initial weights: drawn at random. 1,000 steps of adam, rate 0.001,",
        "| geometry | 1 | 8 |",
        "| geometry | rooms | 25.0% | mds |  | user's own |",
        "| geometry | streets | 75.0% | mds |  | user's own |",
        "| geometry | abs_rel ↓ | 0.500 | 0.200 | 0.300 | +0.050 to +0.100 | 12 |",
        "Weights: my own terms, v1. Code: Apache-2.0.",
        "    path: streets",
        "there is no `output_attentions`.",
        "`do_resize` and `do_rescale` are those of training, and other values are refused.",
        "`model.save_pretrained(OTHER)` saves the model, `processor.save_pretrained(OTHER)` the processor;",
    ):
        assert line in card
    assert "private" not in card
    assert "load_heads" not in card


def test_data_that_are_there_tell_their_licence_and_rate(toy_run: tuple[Path, str], tmp_path: Path) -> None:
    export_run(toy_run[0], tmp_path / "out", "mit")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| captioning | clips | 100.0% | mds | 4 | CC0-1.0 |" in card
    assert str(toy_run[0].parent) not in card
    rows = [json.loads(line) for line in (toy_run[0] / "eval.jsonl").read_text().splitlines()]
    last = next(row for row in reversed(rows) if row["measure"] == "abs_rel")
    assert f"| {last['value']:.3f} | {last['blind']:.3f} |" in card
    assert load(tmp_path / "out").config == load(toy_run[0]).config
    assert (tmp_path / "out" / "heads" / "geometry.safetensors").is_file()


def test_a_run_that_measured_nothing_says_so(tmp_path: Path) -> None:
    export_run(make_run(tmp_path / "run", rows=False), tmp_path / "out", "mit")
    assert "The run measured nothing on held-out data." in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("licence", [None, "", "  "])
def test_weights_without_a_licence_stay_home(tmp_path: Path, licence: str | None) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(ValueError, match="say under which licence the weights are given: --licence TEXT"):
        export_run(run, tmp_path / "out", licence)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["init", "start_from", "init of the run before", "an export before"])
def test_what_derives_from_dinov3_keeps_its_licence(tmp_path: Path, how: str) -> None:
    image = dinov3(tmp_path / "dinov3-small")
    (image / "LICENSE.md").write_text("the terms\n")
    if how == "init":
        run = make_run(tmp_path / "run", init=image)
    elif how == "start_from":
        run = make_run(tmp_path / "run", start_from=make_run(tmp_path / "before", init=image))
    elif how == "init of the run before":
        run = make_run(tmp_path / "run", init=make_run(tmp_path / "before", init=image) / "backbone")
    else:
        export_run(make_run(tmp_path / "before", init=image), tmp_path / "exported", None)
        run = make_run(tmp_path / "run", init=tmp_path / "exported")
    with pytest.raises(ValueError, match=r"derive from DINOv3 \(.*\) and keep DINOv3's licence; leave --licence out"):
        export_run(run, tmp_path / "out", "apache-2.0")
    assert not (tmp_path / "out").exists()
    for licence in (None, "DINOv3"):
        done = export_run(run, tmp_path / f"out-{licence}", licence)
        assert done.licence == "dinov3-license"
        assert front(done.folder)["license_name"] == "dinov3-license"
        assert (done.folder / "LICENSE.md").read_text() == "the terms\n"
        assert json.loads((done.folder / "config.json").read_text())["licence"] == "dinov3-license"


def test_a_missing_text_of_dinov3_s_licence_is_asked_for(tmp_path: Path) -> None:
    done = export_run(make_run(tmp_path / "run", init=dinov3(tmp_path / "d")), tmp_path / "out", None)
    assert done.notes == ("DINOv3's licence asks for a copy of its text beside the weights: put it there",)


def test_an_origin_that_is_gone_is_no_reason_to_forget_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", init=tmp_path / "gone")
    with pytest.raises(ValueError, match=r"gone: the weights began from it and it is gone"):
        export_run(run, tmp_path / "out", "mit")
    save(Backbone(CONFIG), tmp_path / "byhand")
    assert origin_of(make_run(tmp_path / "run", init=tmp_path / "byhand")).told.startswith("the folder byhand, which")
    circle = make_run(tmp_path / "circle", start_from=tmp_path / "circle")
    with pytest.raises(ValueError, match="begins from itself"):
        export_run(circle, tmp_path / "out", "mit")


def test_a_dinov3_goes_out_as_transformers_own(tmp_path: Path) -> None:
    config = BackboneConfig(
        hidden_size=32,
        depth=2,
        heads=2,
        mlp_size=32,
        patch_size=8,
        attention="bidirectional",
        rope="image",
        camera_token=False,
    )
    export_run(make_run(tmp_path / "run", config=config), tmp_path / "out", "mit")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "dinov3_vit"
    model = DINOv3ViTModel.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(model.norm.weight, load_file(tmp_path / "run/backbone/model.safetensors")["norm.weight"])
    assert "trust_remote_code" not in (tmp_path / "out" / "README.md").read_text()


def test_the_processor_gets_the_largest_size_of_training() -> None:
    recipe = {"tasks": {"a": {"options": {"global_size": 224}}, "b": {"options": {"size": [256, 320]}}, "c": {}}}
    assert trained_size(recipe) == 256
    assert trained_size({"tasks": {"c": {"options": {}}}}) is None


def test_paths_are_cut_to_their_last_part() -> None:
    private = {"path": "/a/b/rooms", "list": ["~/x/y", "plain/text", 3, None], "deep": {"up": "../../z"}}
    assert public(private) == {"path": "rooms", "list": ["y", "plain/text", 3, None], "deep": {"up": "z"}}


def test_a_broken_run_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)

    def told(run: str, to: str = "out", *more: str) -> str:
        monkeypatch.setattr(sys, "argv", ["interlace", "export", run, "--to", to, *more])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 2
        return str(capsys.readouterr().err)

    mit = ("--licence", "mit")
    assert told("nowhere", "out", *mit) == (
        "interlace: nowhere holds no run: it has no recipe.yaml; give the folder that --run named\n"
    )
    run = make_run(tmp_path / "run")
    assert told("run") == (
        "interlace: run: say under which licence the weights are given: --licence TEXT, for example apache-2.0\n"
    )
    assert told("run", "run", *mit) == (
        "interlace: run: already there and not empty; remove it or export to another folder\n"
    )
    rows = (run / "eval.jsonl").read_text()
    (run / "eval.jsonl").write_text(rows + '{"step": 10')
    assert told("run", "out", *mit) == (
        "interlace: run/eval.jsonl:3: not a whole row, as a run leaves it that is killed while it writes; go on with "
        "--resume, or remove the line\n"
    )
    (run / "eval.jsonl").write_text(rows)
    add_heads(run)
    (run / "heads" / "geometry.safetensors").unlink()
    assert told("run", "out", *mit).startswith("interlace: run/heads/geometry.safetensors: no such file")
    (run / "backbone" / "config.json").unlink()
    assert told("run", "out", *mit).startswith("interlace: run/backbone/config.json: no such file")
    for text, line in (("[", "not YAML"), ("tasks: 3", "not a run's recipe")):
        (run / "recipe.yaml").write_text(text)
        assert told("run", "out", *mit).startswith(f"interlace: run/recipe.yaml: {line}")
    assert not (tmp_path / "out").exists()
    unfinished = make_run(tmp_path / "unfinished")
    for file in (unfinished / "backbone").iterdir():
        file.unlink()
    (unfinished / "backbone").rmdir()
    assert told("unfinished", "out", *mit) == (
        "interlace: unfinished: no backbone/, which is written when training ends; go on with --resume\n"
    )
