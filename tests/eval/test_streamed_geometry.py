"""Video depth and pose: the public code's numbers, naive transcriptions, native layouts and what breaks in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.spatial.transform import Rotation

from interlace.backbone import Backbone, normalise, save
from interlace.data_recipes import DataError
from interlace.eval import recordings
from interlace.eval.album import Album
from interlace.eval.compare import sheets
from interlace.eval.depth_error import ALIGNMENTS, align, depth_error, to_size
from interlace.eval.geometry import Entry, Suite, benchmark, depth_scores, rooms, stream_geometry
from interlace.eval.heads import Budget
from interlace.eval.recordings import Recording, associate
from interlace.eval.rooms import read_rooms
from interlace.eval.streaming import FreshHeads, OwnHeads, network_size, watch
from interlace.eval.subjects import FrozenBackbone, Pixels
from interlace.eval.trajectory import angles, pose_error, similarity
from interlace.tasks.geometry import GeometryOptions
from interlace.tasks.geometry.heads import GeometryHeads

GOLDEN = Path(__file__).parents[1] / "golden"
QUICK = Budget(steps=3, batch=4, rates=(1e-3,))
OPTIONS = GeometryOptions(size=32, frames=4, widths=(8, 8, 16, 16), features=16, ray_neck=1)


def matrices(rows: np.ndarray) -> np.ndarray:
    """[T, 4, 4] of (xyz, wxyz)."""
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, 3] = rows[:, :3]
    poses[:, :3, :3] = Rotation.from_quat(rows[:, [4, 5, 6, 3]]).as_matrix()
    return poses


def path(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    turns = Rotation.from_rotvec(np.cumsum(rng.normal(0, 0.1, (count, 3)), 0)).as_quat()[:, [3, 0, 1, 2]]
    return matrices(np.concatenate((np.cumsum(rng.normal(0, 0.3, (count, 3)), 0), turns), 1))


# ---- measures


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_depth_is_cut3rs(alignment: str) -> None:
    """Weights of "scale" reach 1e8, so that another machine's order of summation moves its fourth digit."""
    golden = np.load(GOLDEN / "cut3r_video_depth.npz")
    found = depth_error(golden["pred"], golden["gt"], alignment=alignment, deepest=70, clip=70)  # type: ignore[arg-type]
    np.testing.assert_allclose(found.values(), golden[alignment], rtol=3e-4 if alignment == "scale" else 1e-6)


def test_pose_is_evos() -> None:
    golden = np.load(GOLDEN / "cut3r_pose.npz")
    found = pose_error(matrices(golden["pred_xyz_wxyz"]), matrices(golden["gt_xyz_wxyz"]))
    expected = golden["ate_rpet_rper"]
    np.testing.assert_allclose((found.ate, found.rpe_translation, found.rpe_rotation), expected, rtol=1e-9)


def test_the_robust_scale_is_that_of_most_pixels() -> None:
    truth = np.random.default_rng(0).uniform(1, 5, 1000)
    guess = truth / 3
    guess[:200] /= 10  # a fifth is wrong
    assert align(guess, truth, "scale")[0] == pytest.approx(3, rel=1e-3)


def test_depth_errors_of_a_naive_loop() -> None:
    rng = np.random.default_rng(1)
    truth = rng.uniform(0.5, 90, (2, 4, 5))
    truth[0, 0] = 0
    truth[1, 1, 1] = np.inf
    guess = truth.clip(0.5, 90) * rng.uniform(0.6, 1.6, truth.shape)
    rows = [
        (min(float(g), 70.0), float(t))
        for g, t in zip(guess.flat, truth.flat, strict=True)
        if np.isfinite(t) and 0 < t < 70
    ]
    found = depth_error(guess, truth, alignment="metric", deepest=70, clip=70)
    assert found.pixels == len(rows)
    assert found.abs_rel == pytest.approx(sum(abs(g - t) / t for g, t in rows) / len(rows))
    assert found.delta_1 == pytest.approx(sum(max(g / t, t / g) < 1.25 for g, t in rows) / len(rows))


def test_depth_that_cannot_be_measured() -> None:
    ones = np.ones((1, 2, 2))
    with pytest.raises(ValueError, match="no pixel has a valid depth"):
        depth_error(ones, 0 * ones)
    with pytest.raises(ValueError, match="not finite everywhere"):
        depth_error(np.nan * ones, ones)
    with pytest.raises(ValueError, match="not of one shape"):
        depth_error(ones[:, :1], ones)


def test_sequences_weigh_by_their_pixels() -> None:
    near = depth_error(np.full((1, 2, 2), 1.1), np.ones((1, 2, 2)), alignment="metric")
    far = depth_error(np.full((3, 2, 2), 1.5), np.ones((3, 2, 2)), alignment="metric")
    first = depth_scores(["a", "b"], [near, far])[0]
    assert first.sums.sum() / first.counts.sum() == pytest.approx((4 * 0.1 + 12 * 0.5) / 16)


def test_any_similarity_is_undone() -> None:
    truth = path(30)
    turn = Rotation.from_euler("xyz", (1, 2, 0.4)).as_matrix()
    moved = truth.copy()
    moved[:, :3, :3] = turn @ truth[:, :3, :3]
    moved[:, :3, 3] = 0.37 * truth[:, :3, 3] @ turn.T + (3, -8, 1)
    found = pose_error(moved, truth)
    assert (found.ate, found.rpe_translation, found.rpe_rotation) == pytest.approx((0, 0, 0), abs=1e-6)
    rotation, translation, scale = similarity(truth[:, :3, 3], moved[:, :3, 3])
    assert scale == pytest.approx(0.37)
    np.testing.assert_allclose(rotation, turn, atol=1e-9)
    np.testing.assert_allclose(translation, (3, -8, 1), atol=1e-9)


def test_a_mirrored_path_is_not_undone_by_a_reflection() -> None:
    truth = path(20)
    mirrored = truth.copy()
    mirrored[:, 0, 3] *= -1
    assert np.linalg.det(similarity(mirrored[:, :3, 3], truth[:, :3, 3])[0]) == pytest.approx(1)
    assert pose_error(mirrored, truth).ate > 0.1


def test_a_guess_that_stands_still_is_as_far_as_the_path_is_wide() -> None:
    truth = path(20)
    still = np.tile(np.eye(4), (20, 1, 1))
    spread = np.sqrt(((truth[:, :3, 3] - truth[:, :3, 3].mean(0)) ** 2).sum(1).mean())
    assert pose_error(still, truth).ate == pytest.approx(spread)


def test_relative_errors_of_a_naive_loop() -> None:
    truth, guess = path(12), path(12, seed=1)
    rotation, translation, scale = similarity(guess[:, :3, 3], truth[:, :3, 3])
    aligned = [np.eye(4) for _ in guess]
    for mine, pose in zip(aligned, guess, strict=True):
        mine[:3, :3], mine[:3, 3] = rotation @ pose[:3, :3], scale * rotation @ pose[:3, 3] + translation
    steps = [
        np.linalg.inv(np.linalg.inv(truth[t]) @ truth[t + 1]) @ np.linalg.inv(aligned[t]) @ aligned[t + 1]
        for t in range(11)
    ]
    found = pose_error(guess, truth)
    assert found.rpe_translation == pytest.approx(np.sqrt(np.mean([np.sum(step[:3, 3] ** 2) for step in steps])))
    degrees = [np.degrees(Rotation.from_matrix(step[:3, :3]).magnitude()) for step in steps]
    assert found.rpe_rotation == pytest.approx(np.sqrt(np.mean(np.square(degrees))))
    assert angles(np.eye(3)) == 0


def test_poses_that_cannot_be_measured() -> None:
    truth = path(5)
    broken = truth.copy()
    broken[3, 0, 0] = np.nan
    with pytest.raises(ValueError, match="predicted pose of frame 3 is not finite"):
        pose_error(broken, truth)
    with pytest.raises(ValueError, match="true pose of frame 3 is not finite"):
        pose_error(truth, broken)
    with pytest.raises(ValueError, match="must both be"):
        pose_error(truth[:4], truth)
    with pytest.raises(ValueError, match="1 frame has no motion"):
        pose_error(truth[:1], truth[:1])


def test_resizing_is_cubic_and_stays_positive() -> None:
    cv = torch.nn.functional.interpolate(torch.tensor([[[[1.0, 2], [3, 4]]]]), (4, 4), mode="bicubic")[0, 0]
    np.testing.assert_allclose(to_size(np.array([[1.0, 2], [3, 4]]), (4, 4)), cv, rtol=1e-6)
    assert to_size(np.array([[0.001, 50.0, 0.001, 50]]), (1, 16)).min() > 0
    assert network_size(436, 1024, 512, 16) == (224, 512)
    assert network_size(1000, 10, 512, 16) == (512, 16)


# ---- native layouts


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (16, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def depth_png(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint16)).save(path)


def write_sintel(root: Path, name: str, poses: np.ndarray) -> None:
    for number, pose in enumerate(poses, 1):
        stem = f"frame_{number:04d}"
        picture(root / "training" / "final" / name / f"{stem}.png", number)
        for kind in ("depth", "camdata_left"):
            (root / "training" / kind / name).mkdir(parents=True, exist_ok=True)
        tag = np.array([202021.25], "<f4").tobytes()
        depth = np.arange(16 * 32, dtype="<f4") + number
        size = np.array([32, 16], "<i4").tobytes()
        (root / "training" / "depth" / name / f"{stem}.dpt").write_bytes(tag + size + depth.tobytes())
        camera = np.eye(3).astype("<f8").tobytes() + np.linalg.inv(pose)[:3].astype("<f8").tobytes()
        (root / "training" / "camdata_left" / name / f"{stem}.cam").write_bytes(tag + camera)


def test_sintel(tmp_path: Path) -> None:
    poses = path(4)
    write_sintel(tmp_path, "alley_2", poses)
    found = recordings.read_sintel_depth(tmp_path, "alley_2")
    assert found.depth is not None
    assert found.frames.shape == (4, 16, 32, 3)
    assert found.depth[2, 1, 5] == 32 + 5 + 3
    camera = recordings.read_sintel_pose(tmp_path, "alley_2").c2w
    np.testing.assert_allclose(camera, poses, atol=1e-12)


def test_bonn_pairs_by_place_from_the_31st(tmp_path: Path) -> None:
    folder = tmp_path / "rgbd_bonn_crowd2"
    for number in range(145):
        picture(folder / "rgb" / f"{1548266470 + number / 30:.5f}.png", number, (4, 6))
        depth_png(folder / "depth" / f"{1548266470.01 + number / 30:.5f}.png", np.full((4, 6), 5000 + number))
    found = recordings.read_bonn(tmp_path, "crowd2")
    assert found.depth is not None
    assert len(found.frames) == len(found.depth) == 110
    assert found.depth[0, 0, 0] == pytest.approx(5030 / 5000)
    expected = np.random.default_rng(30).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(found.frames[0], expected)


def test_kitti_takes_the_images_that_have_a_map(tmp_path: Path) -> None:
    name = "2011_09_26_drive_0002_sync"
    for number in range(12):
        picture(tmp_path / name[:10] / name / "image_02" / "data" / f"{number:010d}.png", number, (4, 6))
    maps = tmp_path / "val" / name / "proj_depth" / "groundtruth" / "image_02"
    for number in range(5, 8):
        depth_png(maps / f"{number:010d}.png", np.array([[0, 256 * number], [512, 300]]))
    found = recordings.read_kitti(tmp_path, name)
    assert found.depth is not None
    assert found.depth[:, 0, 1].tolist() == [5, 6, 7]
    assert (found.depth[:, 0, 0] == 0).all()
    expected = np.random.default_rng(5).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(found.frames[0], expected)
    depth_png(maps / "0000000006.png", np.full((2, 2), 200))
    with pytest.raises(DataError, match=r"0000000006\.png: no value above 255"):
        recordings.read_kitti(tmp_path, name)


def write_tum(root: Path, name: str, poses: np.ndarray) -> Path:
    """30 Hz images, 100 Hz truth, the second image without a pose near it."""
    folder = root / f"rgbd_dataset_freiburg3_{name}"
    times = 1000 + np.arange(len(poses)) / 30
    for number, time in enumerate(times):
        picture(folder / "rgb" / f"{time:.6f}.png", number, (4, 6))
    listed = "".join(f"{time:.6f} rgb/{time:.6f}.png\n" for time in times)
    (folder / "rgb.txt").write_text("# color images\n" + listed)
    rows = []
    for number, (time, pose) in enumerate(zip(times, poses, strict=True)):
        near = time + (0.5 if number == 1 else 0.004)
        values = (*pose[:3, 3], *Rotation.from_matrix(pose[:3, :3]).as_quat())
        rows.append(f"{near:.6f} " + " ".join(f"{value:.9f}" for value in values))
    (folder / "groundtruth.txt").write_text("# ground truth\n" + "\n".join(rows) + "\n")
    return folder


def test_tum_associates_and_takes_every_third(tmp_path: Path) -> None:
    poses = path(11)
    write_tum(tmp_path, "sitting_xyz", poses)
    found = recordings.read_tum(tmp_path, "sitting_xyz")
    kept = [0, *range(2, 11)][::3]
    np.testing.assert_allclose(found.c2w, poses[kept], atol=1e-6)
    expected = np.random.default_rng(kept[1]).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(found.frames[1], expected)


def test_association_equals_the_greedy_one() -> None:
    rng = np.random.default_rng(0)
    a, b = np.sort(rng.uniform(0, 1, 40)), np.sort(rng.uniform(0, 1, 60))
    everything = sorted((abs(x - y), i, j) for i, x in enumerate(a) for j, y in enumerate(b) if abs(x - y) < 0.02)
    free_a, free_b, expected = set(range(40)), set(range(60)), []
    for _, i, j in everything:
        if i in free_a and j in free_b:
            free_a.remove(i)
            free_b.remove(j)
            expected.append((i, j))
    assert associate(a, b) == sorted(expected)


def write_scannet(root: Path, name: str, poses: np.ndarray) -> None:
    for number, pose in enumerate(poses):
        picture(root / name / "color" / f"{number}.jpg", number, (8, 8))
        (root / name / "pose").mkdir(parents=True, exist_ok=True)
        np.savetxt(root / name / "pose" / f"{number}.txt", pose)


def test_scannet_sorts_by_number(tmp_path: Path) -> None:
    poses = path(13)
    write_scannet(tmp_path, "scene0707_00", poses)
    found = recordings.read_scannet(tmp_path, "scene0707_00")
    np.testing.assert_allclose(found.c2w, poses[::3], atol=1e-12)


Damage = Callable[[Path], object]


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda r: (r / "depth/alley_2/frame_0002.dpt").unlink(), r"frame_0002\.dpt: no such file"),
        (lambda r: (r / "depth/alley_2/frame_0002.dpt").write_bytes(b"12345678"), "Sintel's tag"),
        (lambda r: _cut(r / "depth/alley_2/frame_0003.dpt"), r"frame_0003\.dpt: \d+ bytes do not hold 32 x 16 depths"),
        (lambda r: _sized(r / "depth/alley_2/frame_0003.dpt", -2, -3), r"\d+ bytes do not hold -2 x -3 depths"),
        (lambda r: (r / "final/alley_2/frame_0001.png").write_bytes(b"x"), r"frame_0001\.png: not an image"),
        (lambda r: picture(r / "final/alley_2/frame_0003.png", 0, (8, 8)), r"frame_0003\.png: \(8, 8\) pixels"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, damage: Damage, line: str) -> None:
    write_sintel(tmp_path, "alley_2", path(3))
    damage(tmp_path / "training")
    with pytest.raises(DataError, match=line):
        recordings.read_sintel_depth(tmp_path, "alley_2")


def _sized(file: Path, width: int, height: int) -> None:
    file.write_bytes(file.read_bytes()[:4] + np.array([width, height], "<i4").tobytes() + bytes(4 * width * height))


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])


def test_poses_that_are_not_finite_are_named(tmp_path: Path) -> None:
    poses = path(7)
    poses[3, 0, 3] = np.inf
    write_scannet(tmp_path, "scene0707_00", poses)
    with pytest.raises(DataError, match=r"3\.jpg: its pose is not finite"):
        recordings.read_scannet(tmp_path, "scene0707_00")
    (tmp_path / "scene0707_00" / "pose" / "3.txt").write_text("1 2 three")
    with pytest.raises(DataError, match=r"3\.txt: 'three' is no number"):
        recordings.read_scannet(tmp_path, "scene0707_00")
    (tmp_path / "scene0707_00" / "pose" / "3.txt").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(DataError, match=r"3\.txt: not text in UTF-8"):
        recordings.read_scannet(tmp_path, "scene0707_00")
    folder = write_tum(tmp_path, "walking_rpy", path(7))
    (folder / "rgb.txt").write_text("1 a b\n")
    with pytest.raises(DataError, match=r"rgb\.txt: row 0 has 3 columns, not 2"):
        recordings.read_tum(tmp_path, "walking_rpy")
    (folder / "groundtruth.txt").unlink()
    with pytest.raises(DataError, match=r"(rgb|groundtruth)\.txt"):
        recordings.read_tum(tmp_path, "walking_rpy")


# ---- streams


@pytest.fixture
def run_folder(tmp_path: Path, backbone: Backbone) -> Path:
    """A run with geometry heads that were never trained."""
    save(backbone, tmp_path / "run" / "backbone")
    options = {**OPTIONS.model_dump(mode="json"), "layers": [0, 1, 1, 1]}
    torch.manual_seed(1)
    heads = GeometryHeads.from_options(options, backbone.config)
    (tmp_path / "run" / "heads").mkdir()
    save_file(heads.state_dict(), tmp_path / "run" / "heads" / "geometry.safetensors")
    text = GeometryOptions(**{**OPTIONS.model_dump(), "layers": (0, 1, 1, 1)}).model_dump_json()
    (tmp_path / "run" / "heads" / "geometry.json").write_text(text)
    return tmp_path / "run"


def test_own_heads_read_the_stream_as_they_read_the_clip(run_folder: Path, backbone: Backbone) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 16, 32, 3), dtype=np.uint8)
    reader = OwnHeads(run_folder, backbone.config)
    said = watch(FrozenBackbone(backbone, "mine"), reader, Recording(frames), 32)
    pixels = normalise(torch.from_numpy(frames).permute(0, 3, 1, 2)[None])
    with torch.no_grad():
        whole = reader.heads(backbone(pixels, layers=reader.layers))
    np.testing.assert_allclose(said.depth, whole.depth[0], rtol=1e-4)
    np.testing.assert_allclose(said.c2w[:, :3, 3], whole.poses[0, :, 4:7], atol=1e-5)
    expected = Rotation.from_quat(whole.poses[0, :, :4].numpy()).as_matrix()
    np.testing.assert_allclose(said.c2w[:, :3, :3], expected, atol=1e-5)
    half = watch(FrozenBackbone(backbone, "mine"), reader, Recording(frames, np.ones((4, 8, 16), np.float32)), 32)
    assert half.depth.shape == (4, 8, 16)


def test_heads_beside_another_folder_are_not_a_backbones_own(run_folder: Path, backbone: Backbone) -> None:
    save(backbone, run_folder / "other")
    assert OwnHeads(run_folder / "backbone", backbone.config).heads is not None
    with pytest.raises(ValueError, match=r"other: no geometry heads beside this backbone; measure it with --heads fre"):
        OwnHeads(run_folder / "other", backbone.config)


def test_own_and_fresh_heads_never_share_a_column(rooms_folder: Path, run_folder: Path, backbone: Backbone) -> None:
    training, _ = read_rooms("train", folder=rooms_folder)
    held_out, _ = read_rooms("held_out", folder=rooms_folder)
    mine = FrozenBackbone(backbone, "mine")
    own = OwnHeads(run_folder, backbone.config)
    results = []
    for kind in ("depth", "pose"):
        suite = rooms(kind, held_out)  # type: ignore[arg-type]
        results += stream_geometry(mine, own, suite, long_side=32)
        for subject in (mine, Pixels(8)):
            results += stream_geometry(subject, FreshHeads(subject, training, QUICK, 0), suite, long_side=32)
    shown = sheets(results)
    assert [sheet.columns[1:] for sheet in shown] == [("mine",), ("mine", "raw pixels")] * 2
    assert {each.measure for each in results} == {
        *("abs_rel", "delta_1.25", "rmse", "log_rmse", "ate", "rpe_translation", "rpe_rotation_degrees")
    }
    assert {each.n for each in results} == {3}
    fewer = stream_geometry(mine, FreshHeads(mine, training[:6], QUICK, 0), rooms("pose", held_out), long_side=32)
    assert len(sheets([*results, *fewer])) == len(shown) + 1  # heads that learned from other clips stand apart


class Truthful:
    """Reads off what it was told."""

    name, layers = "truth", ()

    def __init__(self, recording: Recording) -> None:
        self.left = list(range(len(recording.frames)))
        self.recording = recording

    def settings(self) -> dict[str, object]:
        return {}

    def read(self, tokens, first, size):  # type: ignore[no-untyped-def]
        t = self.left.pop(0)
        assert self.recording.depth is not None
        assert self.recording.c2w is not None
        pose = self.recording.c2w[t]
        turn = torch.from_numpy(Rotation.from_matrix(pose[:3, :3]).as_quat())
        return torch.from_numpy(2 * self.recording.depth[t]), torch.cat((turn, torch.from_numpy(pose[:3, 3]) / 3))


def test_the_truth_at_another_scale_has_no_error(rooms_folder: Path) -> None:
    held_out, _ = read_rooms("held_out", folder=rooms_folder, rooms=1)
    recording = Recording(held_out[0].frames, held_out[0].depth, held_out[0].c2w)
    for kind in ("depth", "pose"):
        albums: dict[str, list[Album]] = {}
        found = stream_geometry(Pixels(8), Truthful(recording), rooms(kind, held_out), long_side=32, albums=albums)  # type: ignore[arg-type]
        assert found[0].value == pytest.approx(0, abs=1e-4)
        (shown,) = albums["raw pixels"][0].shown  # the same scale is undone for its picture
        assert np.abs(shown.truth).max() > 0.1
        np.testing.assert_allclose(shown.guess, shown.truth, rtol=1e-3, atol=1e-4)
        if kind == "pose":
            np.testing.assert_allclose(shown.truth[0], 0, atol=1e-9)


def test_a_sequence_that_cannot_be_read_is_left_out_by_name(tmp_path: Path) -> None:
    poses = path(4)
    write_sintel(tmp_path, "alley_2", poses)
    write_sintel(tmp_path, "cave_4", poses)
    (tmp_path / "training/camdata_left/cave_4/frame_0002.cam").write_bytes(b"")
    recording = recordings.read_sintel_pose(tmp_path, "alley_2")
    told = Truthful(Recording(recording.frames, np.ones((4, 16, 32), np.float32), recording.c2w))
    found = stream_geometry(Pixels(8), told, benchmark("pose", "sintel", tmp_path), long_side=32)
    assert (found[0].n, found[0].of) == (1, 14)
    assert "frame_0002.cam" in found[0].facts.missing["cave_4"]
    with pytest.raises(ValueError, match=r"tum: not measured for depth; allowed are rooms, sintel, bonn, kitti"):
        benchmark("depth", "tum", tmp_path)
    with pytest.raises(DataError, match="nowhere: no such folder; give the one that Sintel"):
        benchmark("pose", "sintel", tmp_path / "nowhere")


def test_a_subject_cannot_spare_itself_a_sequence() -> None:
    """A prediction that is not finite stops the measurement; a truth that is not costs the sequence."""
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    good = Recording(frames, np.ones((3, 8, 8), np.float32), path(3))

    class Broken(Truthful):
        def read(self, tokens, first, size):  # type: ignore[no-untyped-def]
            depth, pose = super().read(tokens, first, size)
            return depth * float("nan"), pose

    suite = Suite("depth", "made up", "sequence", [Entry("one", "one", lambda: good)])
    with pytest.raises(ValueError, match="raw pixels on one: the predicted depth is not finite everywhere"):
        stream_geometry(Pixels(8), Broken(good), suite, long_side=8)
    nothing = Recording(frames, np.zeros((3, 8, 8), np.float32))
    entries = [Entry("empty", "room", lambda: nothing), Entry("one", "one", lambda: good)]
    found = stream_geometry(Pixels(8), Truthful(good), Suite("depth", "x", "sequence", entries), long_side=8)
    assert dict(found[0].facts.missing) == {"empty": "no pixel has a valid depth"}
