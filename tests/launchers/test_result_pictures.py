"""Pictures of results say what the results say."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from interlace.eval.album import Album, Shown
from interlace.eval.compare import collect, collect_pictures
from interlace.eval.result import Facts, Result, Scores, result, write
from interlace.eval.vlm import Answer, guessing
from interlace.launchers.result_pictures import chart, depth_ends, paint_classes, paint_depths
from interlace.launchers.results_page import write_page
from interlace.launchers.sample_pictures import RIGHT, WRONG, draw_albums, overlay


def scored(subject: str, values: list[float], found: dict[str, object] | None = None) -> Result:
    facts = Facts(
        protocol="linear/classes (x)",
        data="D",
        unit="image",
        subject=subject,
        backbone_hash="",
        data_hash="",
        found=found or {},
    )
    return result(Scores.of("top-1", "higher", [f"{k}" for k in range(len(values))], values), facts)


def test_a_chart_shows_values_intervals_and_rates() -> None:
    tuned = {"kept": "rate 0.1", "on val": {"0.01": 0.25, "0.1": 0.75}}
    a, b = scored("A", [0, 1, 1, 1], tuned), scored("B", [0, 0, 1, 0], tuned)
    values, rates = chart([a, b]).axes[:2]
    assert values.get_title(loc="left") == "linear/classes\ntop-1 ↑"
    assert [text.get_text() for text in values.get_yticklabels()] == ["A", "B"]
    drawn = [np.asarray(line.get_xdata()).tolist() for line in values.lines]
    assert drawn == [list(a.interval), [0.75], list(b.interval), [0.25]]
    assert rates.get_title(loc="left") == "top-1: every rate on val"
    assert [list(line.get_ydata()) for line in rates.lines] == [[0.25, 0.75]] * 2
    assert len(chart([scored("A", [0.0, 1.0])]).axes) == 1


def policy(measure: str, values: list[float], protocol: str, unit: str = "episode") -> Result:
    facts = Facts(protocol=protocol, data="D", unit=unit, subject="P", backbone_hash="", data_hash="")
    return result(Scores.of(measure, "higher", [f"{k}" for k in range(len(values))], values), facts)


def test_measures_of_one_kind_share_their_axis_and_its_zero_is_marked() -> None:
    gains = [policy("all, above A", [-1, -1, 0], "policy/above"), policy("all, above B", [1, 1, 0.5], "policy/above")]
    lengths = policy("length, above A", [4.0, 5], "policy/above", "chain")
    axes = chart([*gains, lengths, policy("all", [0.25, 0.5], "policy/success"), scored("A", [0.25, 0.5])]).axes
    first, second, chains, share, other = (axis.get_xlim() for axis in axes[:5])
    assert first == second
    assert first[0] < -1 < 1 < first[1] < 2
    assert chains[0] < 0 < 5 < chains[1]
    assert share[0] < 0 < 1 < share[1] < 1.1
    assert other[0] > 0.2
    zeros = [[line for line in axis.lines if list(line.get_xdata()) == [0, 0]] for axis in axes[:5]]
    assert [len(found) for found in zeros] == [1, 1, 1, 1, 0]


def test_guessing_is_marked_where_answers_are_balanced() -> None:
    asked = [("sign", "what does it say?", word) for word in ("GO", "P", "ZOO")]
    asked += [("nearer", f"which is nearer, the {one} or the mug?", one) for one in ("red box", "chair", "cone")]
    asked += [("moved", "does the nozzle move?", word) for word in ("yes", "no")]
    answers = [Answer("k", *one, "") for one in asked]
    np.testing.assert_allclose(guessing(answers), [1 / 3] * 3 + [1 / 2] * 5)
    axis = chart([scored("A", [0.0, 1.0], {"guessing": 0.333})]).axes[0]
    assert axis.get_xlabel() == "dashed: guessing, 0.333"
    assert [0.333, 0.333] in [list(line.get_xdata()) for line in axis.lines]
    assert chart([scored("A", [0.0, 1.0])]).axes[0].get_xlabel() == ""


def test_classes_have_colours_of_their_own_and_the_ignored_is_white() -> None:
    colours = paint_classes(np.arange(40)[None])[0]
    assert len({tuple(colour) for colour in colours}) == 40
    assert paint_classes(np.array([[255]])).tolist() == [[[255, 255, 255]]]


def test_depths_share_the_scale_of_the_truth() -> None:
    truth, guess = np.array([[0, 1.0, 2, 3]]), np.array([[9, 2.0, 2, 0.5]])
    known, seen = paint_depths([truth, guess])
    assert known[0, 0].tolist() == [255, 255, 255]
    assert seen[0, 1].tolist() == known[0, 2].tolist()
    assert seen[0, 0].tolist() == known[0, 3].tolist()  # past the end
    assert known[0, 1, 2] > known[0, 1, 0]  # near is blue
    assert known[0, 3, 0] > known[0, 3, 2]


def test_a_truth_that_knows_no_depth_is_white() -> None:
    guess = np.array([[1.0, 2, 3]])
    empty, seen = paint_depths([np.zeros((1, 3)), guess])
    assert (empty == 255).all()
    assert seen[0, 0, 2] > seen[0, 0, 0]  # near is blue
    assert seen[0, 2, 0] > seen[0, 2, 2]
    assert (paint_depths([np.zeros((1, 3))] * 2)[1] == 255).all()


FRAME = np.full((1, 4, 6, 3), 200, np.uint8)
#: What is told of the number k, by kind: the truth and a guess.
TOLD = {
    "classes": lambda k: (np.int64(k % 2), np.int64(0)),
    "segmentation": lambda k: (np.full((4, 6), k, np.uint8), np.full((4, 6), k + 1, np.uint8)),
    "depth": lambda k: (np.arange(24.0).reshape(4, 6) + k, np.arange(24.0).reshape(4, 6) * 1.1 + k),
    "pose": lambda k: (np.full((3, 3), k, float), np.full((3, 3), k + 0.5)),
    "propagation": lambda k: (np.full((1, 4, 6), k, np.uint8), np.zeros((1, 4, 6), np.uint8)),
}


def told(kind: str, better: str = "lower") -> Album:
    """Samples 0 to 6 of scores 0, .1 ... in another order."""
    shown = [Shown(f"data/room-{k}", k / 10, FRAME, *TOLD[kind](k)) for k in (3, 0, 6, 1, 5, 2, 4)]
    return Album(kind, f"the {kind}", "error", better, ("even", "odd", *"abcdef"), shown)  # type: ignore[arg-type]


def test_samples_shown_are_the_best_the_middle_and_the_worst_and_the_caption_says_so() -> None:
    albums = {name: [told(kind) for kind in TOLD] for name in ("mine", "raw pixels")}
    pictures = {each.name: each for each in draw_albums(albums)}
    assert list(pictures) == list(TOLD)
    for kind, picture in pictures.items():
        said = "The best, the middle and the worst of 7 samples by mine's error; the others are shown the same."
        assert picture.caption.startswith(f"The {kind}. {said}")
    truths = [line[1] for line in np.array(pictures["segmentation"].figure.axes).reshape(3, 4)]
    for axis, k in zip(truths, (0, 3, 6), strict=True):
        np.testing.assert_array_equal(axis.images[0].get_array(), paint_classes(TOLD["segmentation"](k)[0]))
    depth = np.array(pictures["depth"].figure.axes).reshape(3, 6)
    error = "its error\nblack 0, yellow 50%+"
    assert [axis.get_title() for axis in depth[0]] == ["frame", "truth", "mine", error, "raw pixels", error]
    ends = ["blue {:.1f}, red {:.1f} metres".format(*depth_ends([TOLD["depth"](k)[0]])) for k in (0, 3, 6)]
    assert [line[1].get_xlabel() for line in depth] == ends
    assert [line[0].get_ylabel() for line in depth] == [
        f"{w}: 0.{k}00\nroom-{k}" for w, k in (("best", 0), ("middle", 3), ("worst", 6))
    ]
    paths = pictures["pose"].figure.axes[3:]
    for axis, k in zip(paths, (0, 3, 6), strict=True):
        assert [line.get_xdata()[0] for line in axis.lines[::2]] == [k, k + 0.5, k + 0.5]
        assert (axis.get_xlabel(), axis.get_ylabel()) == ("right, metres", "forward, metres")
    assert len(pictures["propagation"].figure.axes) == 3 * (1 + 2)  # a line for the truth and for each


def test_right_names_are_blue_and_wrong_ones_orange() -> None:
    (picture,) = draw_albums({"mine": [told("classes")]})
    texts = [(text.get_text(), text.get_color()) for axis in picture.figure.axes for text in axis.texts]
    assert texts[:4] == [
        ("truth: even", "black"),
        ("✓ mine: even", RIGHT),
        ("truth: odd", "black"),
        ("✗ mine: even", WRONG),
    ]
    assert [axis.get_title() for axis in picture.figure.axes] == [
        "best: 0.00",
        "best: 0.10",
        "middle: 0.20",
        "middle: 0.30",
        "worst: 0.50",
        "worst: 0.60",
    ]


def test_answers_stay_above_the_row_below() -> None:
    square = [Shown(f"data/room-{k}", k / 10, np.zeros((1, 8, 8, 3), np.uint8), *TOLD["classes"](k)) for k in range(7)]
    labels = [Album("classes", label, "error", "lower", ("even", "odd"), square) for label in ("floor", "walls")]
    (picture,) = draw_albums(dict.fromkeys(("mine", "untrained", "raw pixels"), labels))
    picture.figure.draw_without_rendering()
    above, below = np.array(picture.figure.axes).reshape(2, -1)
    for axis, under in zip(above, below, strict=True):
        assert len(axis.texts) == 4
        lowest = min(text.get_window_extent().y0 for text in axis.texts)
        assert lowest > under.title.get_window_extent().y1


def test_masks_lie_over_grey_frames() -> None:
    ids = np.array([[0, 1], [2, 1]], np.uint8)
    found = overlay(np.full((2, 2, 3), 100, np.uint8), ids).astype(int)
    assert len(set(found[0, 0])) == 1
    assert found[0, 1].tolist() == found[1, 1].tolist() != found[1, 0].tolist()


def test_a_page_holds_every_picture_with_its_caption_and_needs_no_network(tmp_path: Path) -> None:
    for name, caption in (("a", "first & last"), ("b", "middle")):
        (tmp_path / f"{name}-depth.png").write_bytes(f"png of {name}".encode())
        row = {"file": f"{name}-depth.png", "name": "depth", "title": "Depth", "caption": caption}
        write([scored(name.upper(), [0.0, 1.0])], tmp_path / f"{name}.json", [row, {**row, "file": "moved.png"}])
    places = [tmp_path / "a.json", tmp_path / "b.json", tmp_path]
    page = write_page("A, B", collect(places), collect_pictures(places), tmp_path / "page" / "both.html").read_text()
    assert page.count("<figure>") == 2  # each file once, and none that is not there
    assert "<b>A.</b> first &amp; last" in page
    assert "<b>B.</b> middle" in page
    assert "0.500 [0.000, 1.000]; no different by" in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/png;base64,") == 3
