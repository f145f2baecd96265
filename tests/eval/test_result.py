"""Results: frozen backbones only, whole units resampled, what is left out is named, protocols stay apart."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from interlace.data_recipes.statistics import interval
from interlace.eval.compare import collect, gain, sheets
from interlace.eval.frozen import DataHash, NotFrozen, digest, frozen
from interlace.eval.result import Facts, Result, Scores, read, result, write


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("state", torch.zeros(2))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def facts(**changes: object) -> Facts:
    base = Facts(
        protocol="probe/knn", data="rooms", unit="scene", subject="A", backbone_hash="a" * 64, data_hash="d" * 64
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def scored(values: list[float], units: list[str] | None = None, **changes: object) -> Result:
    units = units or [f"scene-{k}" for k in range(len(values))]
    return result(Scores.of("accuracy", "higher", units, values), facts(**changes))


@pytest.mark.parametrize("which", ["linear.weight", "linear.bias", "state", "scratch"])
def test_one_altered_number_refuses_the_result(which: str) -> None:
    module = Small()
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with pytest.raises(NotFrozen, match=rf"mine: {which} changed"), frozen(module, "mine"), torch.no_grad():
        tensors[which].flatten()[0] += 1e-7


def test_what_is_measured_is_what_was_loaded() -> None:
    module = Small()
    loaded = digest(module)
    with frozen(module, "mine", loaded) as found:
        assert found == loaded
    with torch.no_grad():
        module.linear.weight[0, 0] += 1
    with pytest.raises(NotFrozen, match="not those that were loaded"), frozen(module, "mine", loaded):
        pass


def test_inside_there_are_no_gradients_and_afterwards_all_is_as_before() -> None:
    module = Small().train()
    with frozen(module, "mine"):
        assert not module.linear.weight.requires_grad
        assert not module.training
    assert module.linear.weight.requires_grad
    assert module.training


def test_the_hash_of_data_is_of_content_and_not_of_order() -> None:
    a, b = np.arange(4), np.arange(4.0)
    one, two, three = DataHash(), DataHash(), DataHash()
    one.add("a", a, None), one.add("b", b)
    two.add("b", b), two.add("a", a, None)
    three.add("a", a, None), three.add("b", b + 1e-9)
    assert one.hexdigest() == two.hexdigest() != three.hexdigest()
    with pytest.raises(ValueError, match="'a' is there twice"):
        one.add("a", a)


def test_units_are_summed_and_resampled_whole() -> None:
    rng = np.random.default_rng(0)
    values, units = rng.random(40), [f"u{k % 7}" for k in range(40)]
    found = scored(list(values), units)
    assert found.value == pytest.approx(values.mean())
    assert found.interval == pytest.approx(interval(values, units))
    assert (found.samples, found.n, found.of) == (40, 7, 7)


def test_units_that_are_all_alike_have_no_interval() -> None:
    assert scored([1.0] * 5).text == "1.000 (all 5 scenes alike)"
    assert scored([1.0]).text == "1.000 (one scene)"
    assert re.fullmatch(r"0\.500 \[0\.\d{3}, \d\.\d{3}\]", scored([1.0, 0.0, 0.5, 0.5]).text)
    better = gain([(scored([1.0] * 5), scored([0.25] * 5))])
    assert (better.text, better.verdict) == ("+0.750 (all alike)", "better")
    alone = gain([(scored([1.0]), scored([0.5]))])
    assert (alone.text, alone.verdict) == ("+0.500 (of one alone)", "unknown")


def test_weights_are_pixels_and_columns_are_classes() -> None:
    weighted = result(Scores.of("abs_rel", "lower", ["a", "b"], [0.1, 0.4], [100, 300]), facts())
    assert weighted.value == pytest.approx((10 + 120) / 400)
    sums, counts = np.array([[3, 0], [1, 4]]), np.array([[6, 2], [2, 6]])
    iou = result(Scores("miou", "higher", ["a", "b"], sums, counts), facts())
    assert iou.value == pytest.approx((4 / 8 + 4 / 8) / 2)


def test_nothing_that_is_not_finite_gets_in() -> None:
    with pytest.raises(ValueError, match="accuracy is not finite in scene-1;"):
        scored([1.0, float("nan"), 0.0])
    with pytest.raises(ValueError, match=r"nothing could be measured: x: broken$"):
        result(Scores.of("accuracy", "higher", [], []), facts(missing={"x": "broken"}))
    with pytest.raises(ValueError, match=r"nothing could be measured: x: broken \(and 2 more left out\)$"):
        result(Scores.of("accuracy", "higher", [], []), facts(missing=dict.fromkeys("xyz", "broken")))


def test_what_is_left_out_counts_by_unit() -> None:
    """One clip of scene-1 was measured; of scene-9, whose two clips are broken, and of what has no key, nothing was."""
    missing = dict.fromkeys(("rooms/scene-1/b", "rooms/scene-9/a", "rooms/scene-9/b", "#7"), "broken")
    found = scored([0.0, 1.0], ["rooms/scene-1", "rooms/scene-2"], missing=missing)
    assert (found.n, found.of) == (2, 4)
    image = scored(
        [0.0], ["val/n01/a.jpg"], unit="image", missing=dict.fromkeys(("val/n01/b.jpg", "val/n01/c.jpg"), "")
    )
    assert (image.n, image.of) == (1, 3)


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    found = scored([0.0, 1.0, 1.0], missing={"clip 9": "no mask"}, settings={"k": 20}, seed=3)
    path = write([found], tmp_path / "results" / "knn.json")
    assert read(path) == [found]
    assert read(path)[0].of == 4
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="no results of"):
        read(tmp_path / "other.json")
    assert collect([tmp_path]) == [found]  # a run keeps them in results/
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="holds no results"):
        collect([empty])
    with pytest.raises(ValueError, match="no such file or folder"):
        collect([tmp_path / "nothing"])


@pytest.mark.parametrize(
    "other", [{"protocol": "probe/linear"}, {"data": "davis"}, {"data_hash": "e" * 64}, {"settings": {"k": 5}}]
)
def test_what_cannot_be_compared_never_shares_a_sheet(other: dict[str, object]) -> None:
    a, b = scored([0.0, 1.0]), scored([1.0, 1.0], subject="B", **other)
    assert [sheet.columns for sheet in sheets([a, b])] == [("", "A"), ("", "B")]


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(1)
    base = rng.random(60)
    more = rng.normal(0.05, 0.02, 60)
    a, b = scored(list(base)), scored(list(base + more), subject="B")
    (sheet,) = sheets([a, b])
    low, high = interval(more, [f"scene-{k}" for k in range(60)])
    assert f"better by {more.mean():+.3f} [{low:+.3f}, {high:+.3f}]" in sheet.rows[0][2]
    assert "better by" not in sheet.rows[0][1]
    (alone,) = sheets([a, scored([1.0, 0.5], subject="B")])
    assert " by " not in alone.rows[0][2]


def in_pairs(mine: np.ndarray, other: np.ndarray) -> list[tuple[Result, Result]]:
    """Values [seeds, units] of A and B."""
    return [
        (scored(list(a), seed=seed), scored(list(b), seed=seed, subject="B"))
        for seed, (a, b) in enumerate(zip(mine, other, strict=True))
    ]


def test_the_gain_of_several_seeds_is_their_mean_and_units_are_drawn_once_for_all() -> None:
    rng = np.random.default_rng(2)
    other = rng.random((3, 50)) + 0.2
    mine = other + rng.normal(-0.2, 0.5, 50)  # every seed differs alike, so that only units are left to chance
    pairs = in_pairs(mine, other)
    found = gain(pairs)
    assert found.value == pytest.approx((mine - other).mean())
    assert (found.low, found.high) == pytest.approx(interval((mine - other)[0], [f"scene-{k}" for k in range(50)]))
    assert found.verdict == "worse"
    lower = [(replace(a, better="lower"), replace(b, better="lower")) for a, b in pairs]
    assert gain(lower).value == pytest.approx(-found.value)
    assert gain(lower).verdict == "better"
    assert gain([(pairs[0][0], pairs[0][0])]).verdict == "no different"


def test_what_one_training_does_by_chance_is_in_the_interval() -> None:
    """Every unit alike within a seed: left to chance is which trainings were drawn, all choices of which are tried."""
    other = np.random.default_rng(3).random((5, 40))
    above = np.array([0.0, 0.1, 0.0, 0.6, 0.05])
    found = gain(in_pairs(other + above[:, None], other))
    means = [np.mean(each) for each in itertools.product(above, repeat=5)]
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)


@pytest.mark.parametrize(("units", "data"), [(None, "e" * 64), (["x", "y"], "d" * 64)])
def test_what_was_not_measured_alike_is_not_paired(units: list[str] | None, data: str) -> None:
    a, b = scored([0.0, 1.0]), scored([1.0, 1.0], units, subject="B", data_hash=data)
    with pytest.raises(ValueError, match="B and A were not measured alike"):
        gain([(a, b)])


def test_columns_of_one_name_are_told_apart_and_what_is_missing_is_said() -> None:
    a = scored([0.0, 1.0], missing={"clip 7": "no depth"})
    b, c = scored([1.0, 1.0], backbone_hash="b" * 64), scored([1.0, 1.0], backbone_hash="b" * 64, seed=1)
    (sheet,) = sheets([a, b, c, b])
    assert sheet.columns == ("", "A aaaaaaaa seed 0", "A bbbbbbbb seed 0", "A bbbbbbbb seed 1")
    text = sheet.markdown()
    assert "2 of 3 scenes, 2 samples" in text
    assert "Left out of A aaaaaaaa seed 0: clip 7: no depth" in text
