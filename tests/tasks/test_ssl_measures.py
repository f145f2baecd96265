"""Held-out nearest neighbours against scikit-learn, their blind guesses, and the pictures."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
import tiny_ssl
import torch
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from interlace.data_recipes import Sample
from interlace.data_recipes.feed import Feed
from interlace.tasks.lettering import BLUE, LINE, MARGIN
from interlace.tasks.ssl.measures import (
    TEMPERATURE,
    Bank,
    cls_features,
    directions,
    effective_rank,
    feature_std,
    probe,
    vote,
)
from interlace.tasks.ssl.pictures import APART, CELL, GAP, evenly, neighbours_grid, principal_colours


def samples(first: int, count: int) -> list[Sample]:
    """Images and clips of three lengths; class 0 is twice as common as 1 and 2."""
    return [tiny_ssl.sample(n, (1, 2, 5)[n % 3], label=(0, 1, 0, 2)[n % 4]) for n in range(first, first + count)]


def test_vote_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    reference, query = rng.standard_normal((60, 8)), rng.standard_normal((40, 8))
    reference, query = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (reference, query))
    labels = rng.integers(0, 4, 60)
    theirs = KNeighborsClassifier(
        7, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / TEMPERATURE)
    )
    expected = theirs.fit(reference, labels).predict(query)
    assert np.array_equal(vote(torch.tensor(reference).float(), labels, torch.tensor(query).float(), 7), expected)


def test_vote_with_fewer_samples_than_neighbours() -> None:
    found = vote(torch.eye(2), np.array([3, 1]), torch.tensor([[1.0, 0.1], [0.1, 1.0]]), 20)
    assert found.tolist() == [3, 1]


def test_evaluate_beside_its_blind_guesses() -> None:
    task, backbone, _ = tiny_ssl.build()
    train, held_out = samples(0, 60), samples(100, 30)
    with torch.no_grad():
        measures = task.evaluate(backbone, held_out, task.fit_blind(train))
    assert [measure.name for measure in measures] == ["knn", "knn_pixels"]
    truth = np.array([sample.labels["tint"] for sample in held_out])
    for measure in measures:
        assert measure.better == "higher"
        assert np.array_equal(measure.fixed, truth == 0)
        assert set(np.unique(measure.values)) <= {0.0, 1.0}
        # the tint is plain to see: both see it, and the swapped ones see another sample's
        assert measure.values.mean() > 0.9
        assert np.array_equal(measure.swapped[measure.values == 1], (np.roll(truth, 15) == truth)[measure.values == 1])


def test_samples_are_guessed_whatever_they_stand_beside() -> None:
    task, backbone, _ = tiny_ssl.build()
    bank, held_out = task.fit_blind(samples(0, 40)), samples(100, 12)
    with torch.no_grad():
        together = task.evaluate(backbone, held_out, bank)
        alone = [task.evaluate(backbone, [sample], bank) for sample in held_out]
    for place, measures in enumerate(alone):
        for measure, whole in zip(measures, together, strict=True):
            assert measure.values[0] == whole.values[place]
            assert measure.swapped[0] == measure.fixed[0]  # there is no other sample


def test_samples_without_the_label_do_not_count() -> None:
    task, backbone, _ = tiny_ssl.build()
    bank = task.fit_blind([*samples(0, 20), tiny_ssl.sample(50, 1)])
    assert len(bank.clips) == 20
    held_out = [tiny_ssl.sample(200, 1), *samples(100, 4), tiny_ssl.sample(201, 5)]
    with torch.no_grad():
        measures = task.evaluate(backbone, held_out, bank)
        assert task.evaluate(backbone, [tiny_ssl.sample(200, 1)], bank) == []
        assert task.evaluate(backbone, held_out, task.fit_blind([tiny_ssl.sample(50, 1)])) == []
    for measure in measures:
        for column in (measure.values, measure.fixed, measure.swapped):
            assert np.isnan(column).tolist() == [True, False, False, False, False, True]


class Labelled:
    """A source of six images with labels."""

    fields = frozenset({"frames", "labels"})
    shard_sizes = (6,)

    def __len__(self) -> int:
        return 6

    def read(self, index: int, fields: Collection[str] | None = None, choose: object = None) -> Sample:
        return tiny_ssl.sample(index, 1, label=index % 3 if fields is None or "labels" in fields else None)


def test_labels_reach_the_bank_though_training_needs_none() -> None:
    task, _, _ = tiny_ssl.build()
    feed = Feed("ssl", task, {"made": Labelled()}, {"made": 1.0}, batch=2, micro_batches=1, seed=0)
    bank = task.fit_blind([feed.sample(n)[0] for n in range(6)])
    assert sorted(bank.labels["tint"]) == [0, 0, 1, 1, 2, 2]
    assert feed.micro_batch(0, 0).batch["image"]["count"] == 2


def test_a_sample_counts_by_the_share_of_its_labels_that_are_right() -> None:
    """Shape is 1 wherever it is known, which the vote and the fixed guess find; the tint is as with one label."""
    task, backbone, _ = tiny_ssl.build()
    train, held_out = samples(0, 20), samples(100, 6)
    with torch.no_grad():
        tint = task.evaluate(backbone, held_out, task.fit_blind(train))
        for sample in train[::2] + held_out[::2]:
            sample.labels["shape"] = 1
        both = task.evaluate(backbone, held_out, task.fit_blind(train))
    for one, two in zip(tint, both, strict=True):
        for column in ("values", "fixed", "swapped"):
            assert getattr(two, column)[::2] == pytest.approx((getattr(one, column)[::2] + 1) / 2)
        assert np.array_equal(two.values[1::2], one.values[1::2])


def test_only_the_labels_named_are_voted_on() -> None:
    train = samples(0, 8)
    train[0].labels["shape"] = 1
    assert list(Bank.of(train, tiny_ssl.options(labels=("tint",))).labels) == ["tint"]
    with pytest.raises(
        ValueError, match=r"tasks.ssl.options.labels: no sample drawn has 'hue', they have \['shape', 'tint'\]"
    ):
        Bank.of(train, tiny_ssl.options(labels=("hue",)))


def test_probe_takes_the_middle_square_and_spread_frames() -> None:
    sample = tiny_ssl.sample(0, 8)
    sample.frames = np.zeros((8, 32, 48, 3), np.uint8)
    sample.frames[:, :, 8:40] = np.arange(8)[:, None, None, None]
    found = probe(sample, tiny_ssl.options())
    assert found.shape == (2, 3, 32, 32)
    assert (found == np.array([2, 6])[:, None, None, None]).all()


def test_cls_features_do_not_depend_on_the_grouping() -> None:
    task, backbone, _ = tiny_ssl.build()
    clips = Bank.of(samples(0, 9), task.options).clips
    with torch.no_grad():
        together = cls_features(backbone, clips)
        alone = torch.cat([cls_features(backbone, [clip]) for clip in clips])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_directions_are_from_the_banks_mean() -> None:
    reference, query = torch.randn(5, 3) + 10, torch.randn(2, 3) + 10
    ours = directions(reference, query)
    for found, rows in zip(ours, (reference, query), strict=True):
        expected = rows - reference.mean(0)
        torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True))


def test_feature_std_is_one_for_isotropic_and_zero_for_equal_features() -> None:
    generator = torch.Generator().manual_seed(0)
    assert feature_std(torch.randn(4000, 32, generator=generator)).item() == pytest.approx(1, abs=0.02)
    assert feature_std(torch.ones(10, 32)).item() == pytest.approx(0, abs=1e-6)


def test_effective_rank_counts_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 5, generator=generator)).Q
    sides = torch.cat([torch.eye(5), -torch.eye(5)])
    assert effective_rank(sides @ basis.T).item() == pytest.approx(5, abs=1e-3)
    assert effective_rank(torch.ones(10, 32)).item() == pytest.approx(1)


# Pictures

#: Pixels of the words above the queries and their neighbours.
HEAD = LINE + 2 * MARGIN


def test_pictures_are_drawn_and_named(tmp_path: Path) -> None:
    task, backbone, _ = tiny_ssl.build()
    with torch.no_grad():
        drawn = task.pictures(backbone, samples(0, 7), tmp_path / "new", "start")
    assert [path.name for path in drawn] == [
        "start_pca_0.png",
        "start_pca_1.png",
        "start_pca_2.png",
        "start_neighbours.png",
    ]
    side = CELL + GAP
    assert [Image.open(path).size for path in drawn] == [
        (side * 2 - GAP, side * 2 - GAP),
        (side * 5 - GAP, side * 2 - GAP),
        (side * 2 - GAP, side * 2 - GAP),
        (CELL + APART + side * 5 - GAP, HEAD + side * 6 - GAP),
    ]
    first = np.asarray(Image.open(drawn[0]))
    assert first[side:].std() > 10  # the components have colours


def test_the_query_is_marked_and_no_neighbour_is() -> None:
    grey = np.full((3, 8, 8), 128, np.uint8)
    sheet = np.asarray(neighbours_grid([[grey] * 3] * 2))
    marked = (sheet == BLUE).all(-1)
    for row in range(2):
        top = HEAD + row * (CELL + GAP)
        assert marked[top, :CELL].all()
        assert marked[top : top + CELL, 0].all()
    assert not marked[:, CELL:].any()
    assert (sheet[:HEAD, :CELL] < 100).any()  # a heading


def test_one_image_alone_can_be_drawn(tmp_path: Path) -> None:
    task, backbone, _ = tiny_ssl.build()
    with torch.no_grad():
        drawn = task.pictures(backbone, [tiny_ssl.sample(0, 1)], tmp_path, "end")
    assert [path.name for path in drawn] == ["end_pca_0.png"]


def test_principal_colours_follow_the_largest_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 16, generator=generator) * 0.01
    rows[:, 4] += torch.linspace(-1, 1, 200)
    rows[:, 9] += 0.2 * torch.sin(torch.linspace(0, 20, 200))
    colours = principal_colours(rows)
    assert colours.shape == (200, 3)
    assert colours.min() == 0
    assert colours.max() == 1
    assert torch.corrcoef(torch.stack([colours[:, 0], rows[:, 4]]))[0, 1] > 0.99
    assert torch.corrcoef(torch.stack([colours[:, 1], rows[:, 9]]))[0, 1] > 0.95


@pytest.mark.parametrize("rows", [torch.ones(6, 4), torch.ones(1, 4), torch.zeros(3, 2)])
def test_principal_colours_of_equal_rows_are_grey(rows: torch.Tensor) -> None:
    assert torch.equal(principal_colours(rows), torch.full((len(rows), 3), 0.5))


def test_evenly() -> None:
    assert evenly(10, 3) == [0, 3, 6]
    assert evenly(2, 3) == [0, 1]
    assert evenly(0, 3) == []
