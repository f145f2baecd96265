"""Pictures of results say what the results say."""

from __future__ import annotations

import numpy as np

from interlace.eval.dense_probe import Seen
from interlace.eval.result import Facts, Result, Scores, result
from interlace.launchers.result_pictures import chart, paint_classes, paint_depths, samples


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


def test_samples_are_beside_their_truth_in_its_colours() -> None:
    truth = np.array([[0, 1], [21, 255]], np.uint8)
    one, other = Seen(), Seen()
    for guess, seen in ((truth, one), (truth[::-1], other)):
        seen.rows.append((np.zeros((3, 2, 2), np.uint8), truth, guess))
    figure = samples({"A": one, "B": other}, [f"class {number}" for number in range(30)])
    shown = [np.asarray(axis.images[0].get_array()) for axis in figure.axes]
    assert [axis.get_title() for axis in figure.axes] == ["image", "truth", "A", "B"]
    np.testing.assert_array_equal(shown[1], paint_classes(truth))
    np.testing.assert_array_equal(shown[2], shown[1])
    np.testing.assert_array_equal(shown[3], shown[1][::-1])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["class 0", "class 1", "class 21"]


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
