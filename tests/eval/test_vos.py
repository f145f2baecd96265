"""Label propagation: DAVIS's own numbers, a naive propagation, DAVIS's layout, and what is wrong with a folder."""

from __future__ import annotations

import shutil
import struct
import zlib
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.morphology import binary_dilation, disk

from interlace.backbone import Backbone
from interlace.data_recipes import DataError
from interlace.data_recipes.worlds.render import RAYS
from interlace.eval import vos_rooms
from interlace.eval.album import Album
from interlace.eval.davis import MaskedClip, read_sequence, sequence_names, write_sequence
from interlace.eval.masks import boundary, outline, region, statistics, widened
from interlace.eval.propagation import Propagation, carry, nearby, propagate, rounded_size, to_pixels
from interlace.eval.subjects import FrozenBackbone, Pixels
from interlace.eval.vos import label_propagation, resized, score
from interlace.eval.vos_rooms import WorldSize, prepare

#: Pillow says of it neither that it is no picture nor that it is cut off, but ValueError.
HEADLESS = (
    b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 5) + b"IHDR" + bytes(5) + struct.pack(">I", zlib.crc32(b"IHDR" + bytes(5)))
)
GOLDEN = Path(__file__).parents[1] / "golden" / "davis17.npz"


def moving_square(name: str, seed: int, count: int = 5) -> MaskedClip:
    """A bright textured square that slides over noise, 48 x 64 pixels; a second, smaller one stands still."""
    rng = np.random.default_rng(seed)
    ground, square = rng.integers(0, 90, (48, 64, 3)), rng.integers(150, 256, (16, 16, 3))
    frames = np.tile(ground, (count, 1, 1, 1)).astype(np.uint8)
    masks = np.zeros((count, 48, 64), np.uint8)
    for t in range(count):
        frames[t, 16:32, 8 * t + 8 : 8 * t + 24] = square
        masks[t, 16:32, 8 * t + 8 : 8 * t + 24] = 1
        frames[t, 40:48, 0:8] = (10, 250, 10)
        masks[t, 40:48, 0:8] = 2
    return MaskedClip(name, frames, masks)


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    for seed, name in enumerate(("bear", "camel", "dog")):
        write_sequence(tmp_path, moving_square(name, seed))
    lists = tmp_path / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("dog\nbear\ncamel\n")
    return tmp_path


def test_measures_are_those_of_the_benchmark() -> None:
    golden = np.load(GOLDEN)
    truth, guess = golden["truth"], golden["pred"]
    for each in (1, 2):
        j = [region(guess[t] == each, truth[t] == each) for t in range(len(truth))]
        f = [boundary(guess[t] == each, truth[t] == each) for t in range(len(truth))]
        np.testing.assert_allclose(j, golden["J"][each - 1], atol=1e-12)
        np.testing.assert_allclose(f, golden["F"][each - 1], atol=1e-12)
    for each, found in zip((1, 2), score("clip", guess, truth), strict=True):
        for letter, part in (("J", found.j), ("F", found.f)):
            expected = golden[f"{letter}_object{each}_mean_recall_decay"]
            np.testing.assert_allclose((part.mean, part.recall, part.decay), expected, atol=1e-12)


def test_empty_masks() -> None:
    empty, full = np.zeros((9, 9), bool), np.ones((9, 9), bool)
    some = empty.copy()
    some[3:5, 3:5] = True
    assert region(empty, empty) == boundary(empty, empty) == 1
    assert region(some, empty) == boundary(some, empty) == boundary(empty, some) == 0
    assert boundary(full, full) == 1


def test_widening_is_dilation_by_a_disc() -> None:
    edge = outline(np.random.default_rng(0).random((40, 50)) > 0.97)
    np.testing.assert_array_equal(widened(edge, 3), binary_dilation(edge, disk(3)))


def test_decay_of_long_sequences_is_of_quarters() -> None:
    values = np.linspace(1, 0, 300)  # an index of eight bits would wrap here
    assert statistics(values).decay == pytest.approx(values[:76].mean() - values[224:].mean(), abs=0.01)


def test_carrying_equals_a_naive_loop() -> None:
    rng = np.random.default_rng(0)
    rows, columns, count, classes = 4, 5, 3, 3
    values = Propagation(radius=2.0, neighbours=4, temperature=0.3)
    cells = rng.normal(size=(rows * columns, 6))
    context = rng.normal(size=(count, rows * columns, 6))
    cells /= np.linalg.norm(cells, axis=-1, keepdims=True)
    context /= np.linalg.norm(context, axis=-1, keepdims=True)
    labels = rng.random((count * rows * columns, classes))
    labels /= labels.sum(1, keepdims=True)
    expected = np.zeros((rows * columns, classes))
    for i in range(rows * columns):
        found = []
        for c in range(count):
            for j in range(rows * columns):
                if (i // columns - j // columns) ** 2 + (i % columns - j % columns) ** 2 <= 4:
                    found.append((float(cells[i] @ context[c, j]), labels[c * rows * columns + j]))
        best = sorted(found, key=lambda pair: -pair[0])[:4]
        weights = np.exp([similarity / 0.3 for similarity, _ in best])
        expected[i] = sum(w * label for w, (_, label) in zip(weights / weights.sum(), best, strict=True))
    tensors = [torch.from_numpy(each) for each in (cells, context, labels)]
    np.testing.assert_allclose(carry(*tensors, nearby(rows, columns, 2.0), values).numpy(), expected, atol=1e-12)


def test_context_is_the_first_frame_and_the_last_few() -> None:
    rng = np.random.default_rng(0)
    features = [torch.from_numpy(rng.normal(size=(3, 4, 5))).float() for _ in range(6)]
    mask = torch.from_numpy(rng.integers(0, 3, (3, 4))).to(torch.uint8)
    values = Propagation(context=2, radius=3)
    cells = [torch.nn.functional.normalize(each.flatten(0, 1), dim=-1) for each in features]
    labels = [torch.nn.functional.one_hot(mask.long().flatten(), 3).float()]
    for t in range(1, 6):
        known = sorted({0, *(each for each in (t - 2, t - 1) if each > 0)})
        context, given = torch.stack([cells[k] for k in known]), torch.cat([labels[k] for k in known])
        labels.append(carry(cells[t], context, given, nearby(3, 4, 3), values))
    expected = [to_pixels(each.reshape(3, 4, 3), (3, 4)) for each in labels[1:]]
    for mine, theirs in zip(propagate(features, mask, values), expected, strict=True):
        assert torch.equal(mine, theirs)


def test_stretching_lets_a_faint_class_win_where_it_is_strongest() -> None:
    labels = torch.tensor([[[0.9, 0.1, 0.0], [0.6, 0.4, 0.0]]])
    assert to_pixels(labels, (2, 4)).tolist() == [[0, 0, 1, 1]] * 2


def test_sizes_round_up_to_the_patch() -> None:
    assert rounded_size(480, 854, 480, 16) == (480, 864)
    assert rounded_size(480, 854, 480, 14) == (490, 882)
    assert rounded_size(854, 480, 480, 16) == (864, 480)
    assert resized(np.zeros((2, 48, 64, 3), np.uint8), (24, 32)).shape == (2, 3, 24, 32)


def test_what_is_written_is_read(davis: Path) -> None:
    assert sequence_names(davis) == ["bear", "camel", "dog"]
    clip = read_sequence(davis, "camel")
    np.testing.assert_array_equal(clip.masks, moving_square("camel", 1).masks)
    assert np.abs(clip.frames.astype(int) - moving_square("camel", 1).frames).mean() < 8  # JPEG


def test_objects_that_move_are_followed(davis: Path) -> None:
    found = {each.measure: each for each in label_propagation(Pixels(8), davis, short_side=48)}
    assert list(found) == ["J&F mean", "J mean", "J recall", "J decay", "F mean", "F recall", "F decay"]
    assert found["J mean"].value > 0.9
    assert (found["J mean"].samples, found["J mean"].n, found["J mean"].of) == (6, 3, 3)
    assert found["J&F mean"].value == pytest.approx((found["J mean"].value + found["F mean"].value) / 2)
    assert "DINOv3's values" in found["J mean"].facts.protocol
    other = label_propagation(Pixels(8), davis, short_side=48, values=Propagation(radius=0.5))[0]
    assert "other values" in other.facts.protocol
    assert other.value < found["J&F mean"].value  # nothing that moves is within half a cell


def test_an_album_holds_the_masks_that_were_measured(davis: Path) -> None:
    albums: dict[str, list[Album]] = {}
    found = label_propagation(Pixels(8), davis, short_side=48, albums=albums)[0]
    (album,) = albums["raw pixels"]
    assert np.mean([each.score for each in album.shown]) == pytest.approx(found.value)  # two objects each
    for number, shown in enumerate(album.shown):
        np.testing.assert_array_equal(shown.truth, moving_square(shown.name, number).masks)
        np.testing.assert_array_equal(shown.guess[0], shown.truth[0])
        assert shown.frames.shape == (5, 48, 64, 3)


def test_a_backbone_is_streamed(davis: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every clip is one stream with room for all of it, and no frame is seen in any other way."""
    opened: list[tuple[object, ...]] = []
    stream = backbone.stream

    def spy(batch: int, height: int, width: int, **kind: object) -> object:
        opened.append((batch, height, width, kind))
        return stream(batch, height, width, **kind)  # type: ignore[arg-type]

    monkeypatch.setattr(backbone, "stream", spy)
    monkeypatch.setattr(backbone, "forward", None)
    found = label_propagation(FrozenBackbone(backbone, "mine"), davis, short_side=32)
    assert opened == [(1, 32, 48, {"max_frames": 5, "dtype": torch.float32})] * 3
    assert (found[0].n, found[0].facts.settings["short_side"]) == (3, 32)


def test_lengths_of_features_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    features = [torch.from_numpy(rng.normal(size=(3, 4, 5))).float() for _ in range(4)]
    mask = torch.from_numpy(rng.integers(0, 3, (6, 8))).to(torch.uint8)
    longer = [each * 2.0 ** torch.from_numpy(rng.integers(-3, 4, (3, 4, 1))) for each in features]  # exact
    for one, other in zip(
        propagate(features, mask, Propagation()), propagate(longer, mask, Propagation()), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda d: (d / "Annotations/480p/camel/00002.png").unlink(), r"camel/00002\.png: no such annotation"),
        (lambda d: shutil.rmtree(d / "JPEGImages/480p/camel"), r"camel: 0 frames; .* must have 3"),
        (lambda d: _mask(d, 0, np.zeros((48, 64), np.uint8)), "first mask holds no object"),
        (lambda d: _mask(d, 3, np.ones((24, 32), np.uint8)), r"00003\.jpg: frame \(48, 64\) and mask \(24, 32\)"),
        (lambda d: _mask(d, 1, np.ones((48, 64, 3), np.uint8)), "mode RGB; masks are palette PNG"),
        (lambda d: (d / "Annotations/480p/camel/00001.png").write_bytes(b"x"), r"00001\.png: broken image"),
        (lambda d: (d / "Annotations/480p/camel/00001.png").write_bytes(HEADLESS), r"00001\.png: broken image \(Trunc"),
        (lambda d: (d / "JPEGImages/480p/camel/00001.jpg").write_bytes(b"x"), r"00001\.jpg: not an image"),
    ],
)
def test_a_broken_sequence_costs_itself_and_is_named(davis: Path, damage, line: str) -> None:  # type: ignore[no-untyped-def]
    whole = label_propagation(Pixels(8), davis, short_side=48)[0]
    damage(davis)
    with pytest.raises(DataError, match=line):
        read_sequence(davis, "camel")
    found = label_propagation(Pixels(8), davis, short_side=48)[0]
    assert list(found.facts.missing) == ["camel"]
    assert (found.samples, found.n, found.of) == (4, 2, 3)
    assert list(found.groups) == ["bear", "dog"]
    assert found.facts.data_hash != whole.facts.data_hash


def _mask(root: Path, frame: int, mask: np.ndarray) -> None:
    Image.fromarray(mask).save(root / f"Annotations/480p/camel/{frame:05d}.png")


def test_a_folder_that_is_no_davis(tmp_path: Path, davis: Path) -> None:
    with pytest.raises(DataError, match="give the folder that holds JPEGImages, Annotations and ImageSets"):
        sequence_names(tmp_path / "nothing")
    (davis / "ImageSets/2017/val.txt").write_text("\n")
    with pytest.raises(DataError, match="names no sequence"):
        sequence_names(davis)
    (davis / "ImageSets/2017/val.txt").write_text("ghost\n")
    with pytest.raises(ValueError, match=r"nothing could be measured: ghost: .*0 frames"):
        label_propagation(Pixels(8), davis)


def test_void_is_background_and_odd_guesses_are_refused(davis: Path) -> None:
    mask = moving_square("camel", 1).masks[1].copy()
    mask[0] = 255
    _mask(davis, 1, mask)
    assert read_sequence(davis, "camel").masks[1, 0].max() == 0
    truth = moving_square("camel", 1).masks
    with pytest.raises(ValueError, match="object 3, the truth only 2"):
        score("camel", np.where(truth == 2, 3, truth), truth)
    assert score("camel", np.where(truth == 2, 0, truth), truth)[1].j.mean == 0


def test_propagations_that_cannot_be() -> None:
    for bad in ({"neighbours": 0}, {"temperature": 0.0}, {"context": -1}, {"radius": -1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Propagation(**bad)  # type: ignore[arg-type]


def test_the_built_in_world_is_a_davis(tmp_path: Path) -> None:
    size = WorldSize(clips=2, size=32, frames=4)
    folder = prepare(tmp_path / "world", size, backend=RAYS)
    names = sequence_names(folder)
    assert len(names) == 2
    clip = read_sequence(folder, names[0])
    assert clip.frames.shape == (4, 32, 32, 3)
    assert (clip.masks[0] == 1).sum() >= (clip.masks[0] == clip.masks[0].max()).sum() >= 0.006 * 32**2
    told: list[str] = []
    assert prepare(folder, size, backend=RAYS, say=told.append) == folder
    assert not told  # there is nothing left to draw


def test_a_built_in_world_without_its_pictures_is_drawn_again(tmp_path: Path) -> None:
    size = WorldSize(clips=1, size=32, frames=4)
    folder = prepare(tmp_path / "world", size, backend=RAYS)
    (name,) = sequence_names(folder)
    next((folder / "Annotations").rglob("00002.png")).unlink()
    assert len(read_sequence(prepare(folder, size, backend=RAYS), name).masks) == 4
    shutil.rmtree(folder / "JPEGImages")
    assert len(read_sequence(prepare(folder, size, backend=RAYS), name).frames) == 4


def test_of_two_that_want_the_built_in_world_at_once_one_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size, folder = WorldSize(clips=2, size=32, frames=4), tmp_path / "world"
    told, drawn = list[str](), list[str]()
    waits = Event()

    def say(line: str) -> None:
        told.append(line)
        waits.set()

    second = Thread(target=lambda: prepare(folder, size, backend=RAYS, say=say))

    def write(root: Path, clip: MaskedClip) -> None:
        write_sequence(root, clip)
        drawn.append(clip.name)
        if len(drawn) == 1:
            second.start()
            assert waits.wait(60)

    monkeypatch.setattr(vos_rooms, "write_sequence", write)
    assert prepare(folder, size, backend=RAYS) == folder
    second.join(60)
    assert told == [f"another process is preparing {folder}: waiting for it"]
    assert sequence_names(folder) == drawn
    assert [len(read_sequence(folder, name).frames) for name in drawn] == [4, 4]


def test_what_a_killed_drawing_left_is_removed(tmp_path: Path) -> None:
    size, folder = WorldSize(clips=1, size=32, frames=4), tmp_path / "world"
    half = tmp_path / ".world.partial" / "JPEGImages" / "480p" / "room-0"
    half.mkdir(parents=True)
    (name,) = sequence_names(prepare(folder, size, backend=RAYS))
    assert name != "room-0"
    assert not (folder / "JPEGImages" / "480p" / "room-0").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name != ".world.lock"] == ["world"]
