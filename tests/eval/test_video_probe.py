"""Attentive probes: V-JEPA 2's module and views, native lists, broken videos by name, and what there is to learn."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import VJEPA2Config
from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2AttentivePooler

from interlace.backbone import Backbone
from interlace.data_recipes import DataError
from interlace.eval import video_probe
from interlace.eval.actions import Actions, Listed, VideoItems, Views, clip_indices, crops_of, read_k400, read_ssv2
from interlace.eval.attentive import AttentiveProbe, Trial, Trials, head_count
from interlace.eval.feed import batches, training_order
from interlace.eval.rooms import PATHS, path_classes, read_rooms
from interlace.eval.subjects import FrozenBackbone, Pixels
from interlace.eval.video_probe import VideoBudget, probe_rooms, probe_videos, room_clips, tokens_of

TINY = Views(segments=2, crops=3, frames=2, stride=2, size=16)


def stripes(across: bool) -> np.ndarray:
    """A frame of light and dark stripes."""
    rows, columns = np.indices((32, 48))
    return np.repeat((((columns if across else rows) // 4 % 2) * 200 + 20)[..., None], 3, -1).astype(np.uint8)


def write_video(path: Path, frames: list[np.ndarray]) -> None:
    height, width = frames[0].shape[:2]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9" if path.suffix == ".webm" else "libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def k400(tmp_path: Path) -> Path:
    root = tmp_path / "k400"
    rows = {
        "train": [
            ("b across", "aaaaaaaaaaa", 0, 10),
            ("a along", "-bbbbbbbbbb", 3, 13),
            ("b across", "ccccccccccc", 0, 9),
        ],
        "val": [
            ("b across", "ddddddddddd", 0, 10),
            ("a along", "eeeeeeeeeee", 5, 15),
            ("a along", "fffffffffff", 0, 1),
        ],
    }
    for split, listed in rows.items():
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        with (root / "annotations" / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
            writer.writerows([*row, split] for row in [*listed, listed[0]])
        for label, name, start, end in listed:
            frames = [stripes(label == "b across")] * 10
            write_video(root / split / f"{name}_{start:06d}_{end:06d}.mp4", frames)
    (root / "val" / "fffffffffff_000000_000001.mp4").unlink()
    broken = root / "val" / "eeeeeeeeeee_000005_000015.mp4"
    broken.write_bytes(broken.read_bytes()[:300])
    return root


def test_the_probe_is_v_jepa_2s() -> None:
    torch.manual_seed(0)
    config = VJEPA2Config(hidden_size=32, num_attention_heads=16, num_pooler_layers=3, mlp_ratio=4, layer_norm_eps=1e-5)
    config._attn_implementation = "eager"
    theirs, ours = VJEPA2AttentivePooler(config).double().eval(), AttentiveProbe(32, 5).double()
    with torch.no_grad():
        for each in (*ours.parameters(), *theirs.parameters()):
            each.copy_(torch.randn_like(each) * 0.3)
    pairs = {"norm1": "layer_norm1", "norm2": "layer_norm2", "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    state = theirs.state_dict()
    with torch.no_grad():
        ours.query.copy_(state["query_tokens"])
        for name, parameter in [*ours.blocks.named_parameters(), *ours.cross.named_parameters("cross")]:
            first, rest = name.split(".", 1)
            kind = "self_attn" if first.isdigit() else "cross_attn"
            place = f"self_attention_layers.{first}" if first.isdigit() else "cross_attention_layer"
            part, leaf = rest.rsplit(".", 1)
            there = pairs.get(part) or f"{kind}.{names[part]}"
            parameter.copy_(state[f"{place}.{there}.{leaf}"])
    tokens = torch.randn(2, 7, 32, dtype=torch.float64)
    expected = ours.classifier(theirs(tokens))
    torch.testing.assert_close(ours(tokens), expected, rtol=1e-5, atol=1e-5)  # theirs has a softmax in float32


def test_heads_divide_the_width() -> None:
    assert [head_count(width) for width in (1024, 384, 72, 30, 7)] == [16, 16, 12, 15, 7]


def test_clips_of_a_long_video_lie_in_its_segments_and_of_a_short_one_overlap() -> None:
    views = Views(segments=2, crops=1, frames=4, stride=2)
    assert clip_indices(20, views).tolist() == [[1, 3, 5, 7], [11, 13, 15, 17]]
    assert clip_indices(12, views).tolist() == [[0, 2, 4, 6], [4, 6, 8, 10]]
    assert clip_indices(3, views).tolist() == [[0, 2, 2, 2]] * 2
    drawn = np.stack([clip_indices(20, views, np.random.default_rng(seed)) for seed in range(60)])
    assert set(drawn[:, 0, 0]) == {0, 1, 2}
    assert set(drawn[:, 1, 0]) == {10, 11, 12}
    assert np.array_equal(np.unique(np.diff(drawn, axis=-1)), [2])


def test_crops_go_from_end_to_end_of_the_long_side() -> None:
    assert crops_of(32, 48, 3) == [(0, 0, 32, 32), (8, 0, 40, 32), (16, 0, 48, 32)]
    assert crops_of(48, 32, 2) == [(0, 0, 32, 32), (0, 16, 32, 48)]
    assert crops_of(32, 48, 1) == [(8, 0, 40, 32)]


def test_views_hold_the_frames_that_they_say(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", [np.full((32, 48, 3), 20 * number, np.uint8) for number in range(12)])
    items = VideoItems([Listed("a", tmp_path / "a.mp4", 3)], TINY)
    seen, label = items.read(0, None)
    assert (tuple(seen.shape), seen.dtype, label) == ((3, 2, 2, 3, 16, 16), torch.uint8, 3)
    levels = seen.float().mean((0, 3, 4, 5))
    np.testing.assert_allclose(levels, np.array(clip_indices(12, TINY)) * 20, atol=3)
    cropped, _ = items.read(0, np.random.default_rng(0))
    assert tuple(cropped.shape) == (1, 2, 2, 3, 16, 16)


def test_k400_is_read_by_its_lists(k400: Path) -> None:
    found = read_k400(k400)
    assert found.classes == ("a along", "b across")
    assert [each.label for each in found.train] == [1, 0, 1]  # and the row that is there twice counts once
    assert [each.path is None for each in found.test] == [False, False, True]
    better = k400 / "replacement" / "replacement_for_corrupted_k400" / "eeeeeeeeeee_000005_000015.mp4"
    write_video(better, [stripes(False)] * 10)
    assert read_k400(k400).test[1].path == better
    (k400 / "annotations" / "val.csv").write_text("label,youtube_id,time_start,time_end\nc,zzzzzzzzzzz,0,10\n")
    with pytest.raises(DataError, match=r"class 'c' of val.csv is not in train.csv"):
        read_k400(k400)
    (k400 / "annotations" / "val.csv").write_text("path label\n")
    with pytest.raises(DataError, match="names no video"):
        read_k400(k400)
    with pytest.raises(DataError, match="no such file; give the folder that holds annotations"):
        read_k400(k400 / "annotations")


def test_ssv2_is_read_by_its_lists(tmp_path: Path) -> None:
    (tmp_path / "something-something-v2-labels.json").write_text(
        json.dumps({"Moving something up": "1", "Holding something": "0"})
    )
    for split, ids in (("train", ("7", "8")), ("validation", ("9",))):
        rows = [{"id": each, "label": "moving a cup up", "template": "Moving [something] up"} for each in ids]
        (tmp_path / f"something-something-v2-{split}.json").write_text(json.dumps(rows))
    write_video(tmp_path / "20bn-something-something-v2" / "7.webm", [np.full((32, 48, 3), 90, np.uint8)] * 6)
    found = read_ssv2(tmp_path)
    assert found.classes == ("Holding something", "Moving something up")
    assert [(each.name, each.label, each.path is not None) for each in found.train] == [("7", 1, True), ("8", 1, False)]
    seen, _ = VideoItems(found.train, TINY).read(0, None)
    assert abs(float(seen.float().mean()) - 90) < 3
    (tmp_path / "something-something-v2-validation.json").write_text('[{"id": "9", "template": "Eating"}]')
    with pytest.raises(DataError, match="validation: a video without id or known template"):
        read_ssv2(tmp_path)
    (tmp_path / "something-something-v2-labels.json").write_text('{"Holding something": "0", "Eating": "2"}')
    with pytest.raises(DataError, match="not numbered from 0"):
        read_ssv2(tmp_path)


def test_segments_are_concatenated_or_stand_alone(backbone: Backbone) -> None:
    subject = FrozenBackbone(backbone, "mine")
    views = torch.randint(0, 256, (3, 2, 2, 3, 16, 16), dtype=torch.uint8)
    together, alone = tokens_of(subject, views, "concatenated"), tokens_of(subject, views, "flat")
    assert (tuple(together.shape), tuple(alone.shape)) == ((3, 16, 32), (6, 8, 32))
    for crop in range(3):
        for segment in range(2):
            expected = subject.clips(views[crop, segment][None]).patches.flatten(1, 3)[0]  # a stream of its own
            torch.testing.assert_close(together[crop, 8 * segment : 8 * segment + 8], expected)
            torch.testing.assert_close(alone[2 * crop + segment], expected)


def test_learning_in_parts_is_learning_at_once_and_decay_spares_biases() -> None:
    tokens, classes = torch.randn(6, 4, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    whole, parts = (Trials(8, 3, [Trial(1e-2, 0.5)], 10, 0) for _ in range(2))
    whole.learn([(tokens, classes)], 6)
    parts.learn([(tokens[:4], classes[:4]), (tokens[4:], classes[4:])], 6)
    for one, other in zip(whole.probes[0].parameters(), parts.probes[0].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    groups = whole.optimizers[0].param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert {each.ndim for each in groups[1]["params"]} == {1}


def test_probes_that_share_a_forward_are_those_that_had_it_alone() -> None:
    tokens, classes = torch.randn(4, 3, 8), torch.tensor([0, 1, 0, 1])
    both = Trials(8, 2, [Trial(1e-2, 0.1), Trial(1e-3, 0.1)], 5, 0)
    alone = Trials(8, 2, [Trial(1e-3, 0.1)], 5, 0)
    for trials in (both, alone):
        for _ in range(3):
            trials.learn([(tokens, classes)], 4)
    torch.testing.assert_close(both.shares(tokens)[1], alone.shares(tokens)[0])
    assert not torch.allclose(both.shares(tokens)[0], both.shares(tokens)[1])


@pytest.mark.parametrize("combine", ["concatenated", "flat"])
def test_two_kinds_of_videos_are_told_apart_and_broken_ones_named(combine: video_probe.Combine, k400: Path) -> None:
    (k400 / "train" / "ccccccccccc_000000_000009.mp4").unlink()
    budget = VideoBudget(trials=(Trial(1e-30, 0.1), Trial(3e-3, 0.1)), epochs=30, batch=2, at_once=1)
    actions = read_k400(k400)
    asked = [*actions.test, *(Listed(f"again {each.name}", each.path, each.label) for each in actions.train[:2])]
    lines: list[str] = []
    (found,) = probe_videos(
        Pixels(8), Actions("K", actions.classes, actions.train, asked), TINY, budget, combine=combine, say=lines.append
    )
    assert (found.measure, found.value, found.n, found.of) == ("top-1", 1.0, 3, 5)
    assert "broken" in found.facts.missing["val/eeeeeeeeeee_000005_000015"]
    assert "no such video" in found.facts.missing["val/fffffffffff_000000_000001"]
    assert found.facts.settings["left_out_of_training"] == 1
    assert "picked on val" in found.facts.protocol
    assert found.facts.found["kept"] == "rate 0.003, decay 0.1"
    assert any(line.startswith("left out train/ccccccccccc") for line in lines)


def test_softmax_is_averaged_over_crops(k400: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    shares = Trials.shares

    def spy(self: Trials, tokens: Tensor) -> Tensor:
        seen.append(shares(self, tokens))
        return seen[-1]

    monkeypatch.setattr(Trials, "shares", spy)
    sides = np.concatenate((stripes(True)[:, :20], stripes(False)[:, 20:]), 1)
    write_video(k400 / "val" / "ddddddddddd_000000_000010.mp4", [sides] * 10)
    actions = read_k400(k400)
    trials = Trials(192, 2, [Trial(1e-3, 0.1)], 5, 0)
    found, _, names, _, _ = video_probe._tested(Pixels(8), actions, TINY, trials, "concatenated", 0)
    assert tuple(seen[0].shape) == (1, 3, 2)
    assert names == ["val/ddddddddddd_000000_000010"]
    assert not torch.allclose(seen[0][0, 0], seen[0][0, 2])
    np.testing.assert_allclose(found[0, 0], seen[0][0].numpy().mean(0))


def test_nothing_that_can_be_read_is_an_error(k400: Path) -> None:
    actions = read_k400(k400)
    none = [Listed("gone", None, 0)]
    budget = VideoBudget(trials=(Trial(1e-3, 0.1),), epochs=1, batch=2)
    with pytest.raises(ValueError, match="no training video could be read: gone: gone: no such video"):
        probe_videos(Pixels(8), Actions("K", actions.classes, none, actions.test), TINY, budget)
    with pytest.raises(ValueError, match="no test video could be read: gone"):
        probe_videos(Pixels(8), Actions("K", actions.classes, actions.train, none), TINY, budget)


class Numbers:
    names = ("0", "1", "2", "3")

    def read(self, index: int, rng: np.random.Generator | None) -> float:
        if index == 2:
            raise DataError("2: broken")
        return 0.0 if rng is None else float(rng.random())


def test_items_do_not_depend_on_workers_and_broken_ones_are_left_out() -> None:
    order = training_order(4, 10, 0)
    assert sorted(order[:4]) == sorted(order[4:8]) == [0, 1, 2, 3]
    assert not np.array_equal(order[:4], order[4:8])
    left_out: dict[str, str] = {}
    here = list(batches(Numbers(), order, 3, left_out, seed=0))
    assert left_out == {"2": "2: broken"}
    assert sorted({index for batch in here for index, _ in batch}) == [0, 1, 3]
    assert len({value for batch in here for _, value in batch}) == sum(map(len, here))
    assert here == list(batches(Numbers(), order, 3, {}, seed=0, workers=1))


def test_camera_paths_are_those_of_the_stored_clips(rooms_folder: Path) -> None:
    samples, reader = read_rooms("train", folder=rooms_folder)
    kinds = path_classes(samples, reader)
    assert len(set(kinds)) > 1
    for sample, kind in zip(samples, kinds, strict=True):
        assert sample.c2w is not None
        moved = np.linalg.norm(sample.c2w[-1, :3, 3] - sample.c2w[0, :3, 3])
        level = np.linalg.norm(sample.c2w[-1, :2, 3] - sample.c2w[0, :2, 3])
        assert (moved < 0.3) == (PATHS[kind] == "pan")
        assert (moved > max(0.3, 1.5 * level)) == (PATHS[kind] == "crane")
    assert samples[0].c2w is not None
    samples[0].c2w[0, 0, 3] += 0.1
    with pytest.raises(DataError, match=r"room-0000000/scene-0: its camera is not the one"):
        path_classes(samples, reader)


def test_rooms_pick_the_probe_on_held_back_rooms(rooms_folder: Path, backbone: Backbone) -> None:
    clips = room_clips(rooms_folder)
    for subject in (FrozenBackbone(backbone, "mine"), Pixels(8)):
        (found,) = probe_rooms(subject, clips, steps=2, batch=4, trials=(Trial(1e-3, 0.01), Trial(1e-4, 0.01)))
        assert (found.measure, found.n) == ("camera_path", 3)
        assert "picked on held-back rooms" in found.facts.protocol
    for kind in range(len(PATHS)):
        clips.test_paths[:] = kind  # what results come from decides nothing
        (other,) = probe_rooms(Pixels(8), clips, steps=2, batch=4, trials=(Trial(1e-3, 0.01), Trial(1e-4, 0.01)))
        assert other.facts.found == found.facts.found
