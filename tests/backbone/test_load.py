"""Loading: by folder, run or hub id, safetensors alone, with an account of what was read."""

from __future__ import annotations

import json
import os
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from lively import frames, lively, tiny
from safetensors.torch import load_file, save_file
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from interlace.backbone import load, load_with_report, save
from interlace.backbone.evidence import fields_of


def refused(kind: type[errors.HfHubHTTPError]) -> Exception:
    """As the hub's package says it: its first line tells a number."""
    error = kind.__new__(kind)
    Exception.__init__(error, "404 Client Error. (Request ID: 1)\n\nlong story")
    return error


SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def run_folder(root: Path) -> Path:
    save(lively(tiny()), root / "backbone")
    (root / "recipe.yaml").write_text("name: tiny\n")
    return root


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_weights_may_be_read_by_whoever_reads_the_config(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        save(lively(tiny()), tmp_path)
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {mode}


def test_a_run_means_its_backbone(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    backbone, report = load_with_report(run)
    assert report.folder == run / "backbone"
    assert torch.equal(backbone(frames(1, 2)).cls, load(run / "backbone")(frames(1, 2)).cls)


def test_an_exported_vision_language_model_is_no_backbone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "interlace_vlm"}')
    with pytest.raises(ValueError, match="an exported vision-language model; name the backbone that it was trained on"):
        load(tmp_path)


def test_a_run_that_has_not_ended_says_so(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: tiny\n")
    with pytest.raises(ValueError, match=r"a run without backbone/, which is written when training ends"):
        load(tmp_path)


def test_the_report_counts_what_matched(tmp_path: Path) -> None:
    backbone = lively(tiny())
    save(backbone, tmp_path)
    _, report = load_with_report(tmp_path, drop_path=0.5)
    assert (report.made_by, report.matched) == ("interlace", len(backbone.state_dict()))
    assert (report.made, report.converted) == ((), {})
    assert report.changed == {"drop_path": (0.0, 0.5)}
    count = len(backbone.state_dict())
    assert str(report) == f"{tmp_path}: {count} tensors by interlace matched; drop_path is 0.5 instead of 0.0"


def test_the_report_says_what_was_made_and_converted(tmp_path: Path) -> None:
    DINOv3ViTModel(DINOv3ViTConfig(**SHAPE, num_register_tokens=2)).bfloat16().save_pretrained(tmp_path)
    backbone, report = load_with_report(tmp_path)
    assert report.matched == len(load_file(tmp_path / "model.safetensors"))
    assert report.converted == {"bfloat16": report.matched}
    assert len(report.made) == 2
    assert "made the camera token" in str(report)
    assert {weight.dtype for weight in backbone.parameters()} == {torch.float32}
    _, image = load_with_report(tmp_path, rope="image", camera_token=False, attention="bidirectional")
    assert image.made == ()


DISAGREEMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "depth": ({"depth": 3}, "depth is 3 in the config and 2 in the weights"),
    "width": ({"hidden_size": 64, "heads": 4}, "hidden_size is 64 in the config and 32 in the weights"),
    "mlp": ({"mlp_size": 64}, "mlp_size is 64 in the config and 48 in the weights"),
    "gate": ({"gated_mlp": True}, "gated_mlp is True in the config and False in the weights"),
    "bias": ({"query_value_bias": False}, "query_value_bias is False in the config and True in the weights"),
    "patch": ({"patch_size": 8}, "patch_size is 8 in the config and 16 in the weights"),
    "registers": ({"registers": 4}, "registers is 4 in the config and 2 in the weights"),
    "camera": ({"camera_token": False}, "camera_token is False in the config and True in the weights"),
    "slots": (
        {"attention": "bidirectional"},
        "attention is 'bidirectional' in the config and 'causal' in the weights",
    ),
}


@pytest.mark.parametrize("case", DISAGREEMENTS)
def test_a_config_that_disagrees_with_its_weights_is_refused_with_both_values(tmp_path: Path, case: str) -> None:
    changes, message = DISAGREEMENTS[case]
    save(lively(tiny()), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ValueError, match=f"the config disagrees with its weights: .*{message}"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_hidden_layers", 3, "depth is 3 in the config and 2 in the weights"),
        ("num_register_tokens", 4, "registers is 4 in the config and 2 in the weights"),
        ("patch_size", 8, "patch_size is 8 in the config and 16 in the weights"),
    ],
)
def test_a_dinov3_config_that_disagrees_is_refused_too(tmp_path: Path, field: str, value: int, message: str) -> None:
    DINOv3ViTModel(DINOv3ViTConfig(**SHAPE, num_register_tokens=2)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", lambda config: json.dumps({**config, "depth": 0}), r"config\.json: depth: found 0, allowed is"),
        ("config.json", lambda config: json.dumps({**config, "dep": 2}), r"config\.json: .*unexpected keyword .*'dep'"),
        ("config.json", lambda config: "{", r"config\.json: not JSON \("),
        ("config.json", lambda config: b"\xff\xfe\x80", r"config\.json: not JSON \("),
        ("config.json", lambda config: "[]", r"config\.json: expected a JSON object"),
        ("config.json", lambda config: '{"model_type": "dinov3_vit"}', r"config\.json: the DINOv3 config lacks drop_p"),
        (
            "config.json",
            lambda config: '{"model_type": "bert"}',
            r"config\.json: neither an Interlace backbone nor",
        ),
        ("model.safetensors", lambda config: b"\0" * 99, r"model\.safetensors: not a whole safetensors file \("),
        ("model.safetensors", lambda config: b"", r"model\.safetensors: not a whole safetensors file \("),
        (
            "model.safetensors.index.json",
            lambda config: '{"weight_map": {"a": 1}}',
            r"model\.safetensors\.index\.json: names 1; allowed",
        ),
    ],
)
def test_a_broken_folder_is_one_line_that_names_the_file(
    tmp_path: Path, file: str, content: Callable[[dict[str, Any]], str | bytes], message: str
) -> None:
    save(lively(tiny()), tmp_path)
    written = content(json.loads((tmp_path / "config.json").read_text()))
    (tmp_path / file).write_bytes(written.encode() if isinstance(written, str) else written)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(tmp_path))}/{message}[^\n]*$"):
        load(tmp_path)


def test_weights_that_do_not_fit_are_told_with_their_folder(tmp_path: Path) -> None:
    save(lively(tiny()), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["blocks.1.norm2.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"^{re.escape(str(tmp_path))}: weights do not fit .*: missing blocks\.1\.n"):
        load(tmp_path)


@pytest.mark.parametrize(
    "changes", [{}, {"gated_mlp": True, "query_value_bias": False, "registers": 0, "attention": "bidirectional"}]
)
def test_weights_tell_the_shape_they_have(changes: dict[str, Any]) -> None:
    config = tiny(**changes, patch_size=8, mlp_size=40)
    found = fields_of({name: tuple(tensor.shape) for name, tensor in lively(config).state_dict().items()})
    assert len(found) == 9
    assert {name: getattr(config, name) for name in found} == found


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "last.ckpt"])
def test_pickles_are_refused_by_name_and_never_read(tmp_path: Path, name: str) -> None:
    save(lively(tiny()), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch stolen'\ntR.")
    with pytest.raises(ValueError, match=f"{name} would have to be unpickled, which can run anything"):
        load(tmp_path)
    save(lively(tiny()), tmp_path)
    assert load(tmp_path).config == tiny()  # beside safetensors it is only left alone


def test_an_index_names_files_beside_it(tmp_path: Path) -> None:
    save(lively(tiny()), tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    for named, message in [
        ({"norm.weight": "../model.safetensors"}, r"names \.\./model\.safetensors; allowed are"),
        ({"norm.weight": "model.bin"}, r"names model\.bin; allowed are"),
        ({}, "names no files"),
    ]:
        index.write_text(json.dumps({"weight_map": named}))
        with pytest.raises(ValueError, match=message):
            load(tmp_path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing: no such folder; give a backbone's folder, a run's, or owner/name"):
        load(tmp_path / "nothing")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[dict[str, Any]]]:
    """Replace the hub's download; returns the calls of it."""

    def replace(answer: Any) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def snapshot_download(repo_id: str, **arguments: Any) -> str:
            calls.append({"repo_id": repo_id, **arguments})
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return calls

    monkeypatch.chdir(tmp_path)
    return replace


def test_a_hub_id_downloads_config_and_safetensors(tmp_path: Path, hub: Callable[[Any], list[dict[str, Any]]]) -> None:
    save(lively(tiny()), tmp_path / "snapshot")
    calls = hub(tmp_path / "snapshot")
    assert load("owner/name@v1").config == tiny()
    allowed = ["config.json", "model.safetensors.index.json", "preprocessor_config.json", "model*.safetensors"]
    allowed += ["heads/*.json", "heads/*.safetensors"]
    assert calls == [{"repo_id": "owner/name", "revision": "v1", "allow_patterns": allowed}]


def test_a_folder_of_that_name_is_no_hub_id(tmp_path: Path, hub: Callable[[Any], list[dict[str, Any]]]) -> None:
    save(lively(tiny()), tmp_path / "owner" / "name")
    calls = hub(ConnectionError("no network"))
    assert load("owner/name").config == tiny()
    with pytest.raises(ValueError, match="no such folder"):
        load(Path("owner/other"))
    assert calls == []


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            errors.LocalEntryNotFoundError("An error\nlong story"),
            "no such folder, and the hub cannot be reached; give ",
        ),
        (
            errors.OfflineModeIsEnabled("offline"),
            "no such folder, and the hub cannot be reached; give the folder, or d",
        ),
        (
            refused(errors.RepositoryNotFoundError),
            "no such folder, and no such model on the hub; if it is private, `hf",
        ),
        (
            refused(errors.GatedRepoError),
            "its terms were not accepted; do so at huggingface.co/owner/name, then `hf au",
        ),
        (refused(errors.RevisionNotFoundError), "the hub's owner/name has no revision 'v1'"),
        (
            OSError("no space left\nlong story"),
            "no such folder, and not to be had from the Hugging Face hub: no space left",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_cannot_be_downloaded_is_one_line_that_says_what_to_do(
    hub: Callable[[Any], list[dict[str, Any]]], error: Exception, line: str
) -> None:
    hub(error)
    with pytest.raises(ValueError, match=f"^owner/name@v1: {re.escape(line)}[^\n]*$") as told:
        load("owner/name@v1")
    assert len(str(told.value)) < 160
    assert "Client Error" not in str(told.value)


def test_without_the_hub_s_package_it_is_one_line(
    hub: Callable[[Any], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(OSError("not asked"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.ModuleType("huggingface_hub"))
    with pytest.raises(ValueError, match=r"^owner/name: .*: pip install huggingface_hub$"):
        load("owner/name")


def test_what_was_exported_is_read_back_strictly(tmp_path: Path) -> None:
    backbone = lively(tiny())
    save_file(
        {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}, tmp_path / "model.safetensors"
    )
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "interlace", "interlace": backbone.config.to_json()})
    )
    again, report = load_with_report(tmp_path)
    assert report.made_by == "interlace export"
    assert torch.equal(again(frames(1, 2)).cls, backbone(frames(1, 2)).cls)
    state = load_file(tmp_path / "model.safetensors")
    save_file({**state, "norm.weight": torch.zeros(32)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"left over norm\.weight$"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "interlace"}))
    with pytest.raises(ValueError, match=r"config\.json: no 'interlace' object"):
        load(tmp_path)
