from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_clusters
import torch
from PIL import Image
from pydantic import ValidationError
from tiny_clusters import BACKBONE, PROGRESS, ROWS, build, items, naive, sample, samples, total

from interlace.data_recipes import DataError
from interlace.tasks.clusters import Clusters
from interlace.tasks.clusters.bank import BLOCK, CentreBank, initial_rows
from interlace.tasks.clusters.losses import _LogSumExpOverRanks, score, unit
from interlace.tasks.clusters.measures import count_centres, nearest_centres, recall
from interlace.tasks.frames import choose_frames, resize
from interlace.tasks.interface import Progress, TaskContext
from interlace.tasks.ssl.pictures import neighbours_grid

LOSSES = list(tiny_clusters.LOSSES)


def parameters(task: Clusters, backbone: Any) -> list[Any]:
    return [*backbone.parameters(), *task.parameters(), *(bank.local for bank in task.banks.values())]


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_the_pairs(loss: str) -> None:
    """Values, counts and all gradients against one pair at a time in float64."""
    task, backbone = build(loss)
    batch = task.collate(items(task, samples()))
    terms = task.losses(backbone, batch, teacher=None, progress=PROGRESS)
    wanted = {}
    for name, part in batch.items():
        embeddings = task.embed(backbone, part["frames"], part["noise"])
        positives = [[k for k in row if k >= 0] for row in part["positives"].tolist()]
        drawn = task.banks[name].negatives(0.3, PROGRESS).tolist()
        assert len(drawn) == round(0.3 * ROWS[name])
        assert set(drawn) & {k for row in positives for k in row}
        logit = task.logits[name] if task.logits else None
        for kind, found in naive(loss, embeddings, positives, task.banks[name].local, drawn, logit).items():
            wanted[f"{name}_{kind}"] = found
    assert list(terms) == list(wanted)
    for name, (value, count) in wanted.items():
        assert int(terms[name].count) == count > 0
        assert terms[name].sum.item() == pytest.approx(value.item(), rel=1e-10)
        got = torch.autograd.grad(terms[name].sum, parameters(task, backbone), retain_graph=True, allow_unused=True)
        expected = torch.autograd.grad(value, parameters(task, backbone), retain_graph=True, allow_unused=True)
        for one, other in zip(got, expected, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_weights_of_terms() -> None:
    task, backbone = build("sigmoid")
    batch = task.collate(items(task, samples()))
    weights = {n: t.weight for n, t in task.losses(backbone, batch, teacher=None, progress=PROGRESS).items()}
    assert weights == {
        "object_positive": 2.0,
        "object_negative": 0.5,
        "motion_positive": 1.0,
        "motion_negative": 0.25,
    }


def test_equation_9_is_a_choice_of_weights() -> None:
    """Without normalisation, its one expectation over pairs is two means, weighed by their shares of the pairs."""
    task, backbone = build("plain")
    batch = task.collate(items(task, samples()))
    terms = task.losses(backbone, batch, teacher=None, progress=PROGRESS)
    positive, negative = terms["object_positive"], terms["object_negative"]
    p, n = int(positive.count), int(negative.count)
    mean = p / (p + n) * (positive.sum / p) + n / (p + n) * (negative.sum / n)
    part = batch["object"]
    logits = task.embed(backbone, part["frames"], part["noise"]) @ task.banks["object"].local.T
    y = torch.zeros_like(logits)
    y[:, task.banks["object"].negatives(0.3, PROGRESS)] = -1
    for row, mine in zip(y, part["positives"].tolist(), strict=True):
        row[[k for k in mine if k >= 0]] = 1
    wanted = (1 + (-y * logits).exp()).log()[y != 0].mean()
    assert mean.item() == pytest.approx(wanted.item(), rel=1e-10)


def test_a_positive_is_nobodys_own_negative() -> None:
    positives = torch.tensor([[4, 9, -1], [2, -1, -1], [7, 8, 9]])
    pairs = score(torch.randn(3, 5), positives, torch.randn(10, 5), 0, torch.tensor([2, 4, 7, 9]), normalise=True)
    assert pairs.apart.tolist() == [
        [True, False, True, False],
        [False, True, True, True],
        [True, True, False, False],
    ]
    assert pairs.owner.tolist() == [0, 0, 1, 2, 2, 2]
    assert not score(
        torch.randn(1, 5), positives[:1], torch.randn(10, 5), 0, torch.arange(0), normalise=True
    ).apart.numel()


def test_centres_do_not_depend_on_the_ranks() -> None:
    rows = 2 * BLOCK + 77
    whole = CentreBank("object", rows, 3, TaskContext(BACKBONE, seed=4))
    assert whole.local.shape == (rows, 3)
    assert whole.local.requires_grad
    assert whole.local.is_leaf
    assert 0.0098 < float(whole.local.detach().std()) < 0.0102
    assert not torch.equal(whole.local[:5], whole.local[BLOCK : BLOCK + 5])
    for world in (2, 3, 5):
        parts = [
            CentreBank("object", rows, 3, TaskContext(BACKBONE, seed=4, rank=r, world=world)) for r in range(world)
        ]
        assert torch.equal(torch.cat([part.local for part in parts]), whole.local)
        assert [part.start for part in parts] == [r * rows // world for r in range(world)]
        for progress in (PROGRESS, Progress(step=8, steps=100, seed=5)):
            drawn = torch.cat([part.negatives(0.1, progress) + part.start for part in parts])
            assert torch.equal(drawn, whole.negatives(0.1, progress))
    other = CentreBank("motion", rows, 3, TaskContext(BACKBONE, seed=4))
    assert not torch.equal(other.local, whole.local)
    assert initial_rows(4, "object", 5, 5, 3, torch.device("cpu")).shape == (0, 3)


def test_a_papers_bank_can_be_counted() -> None:
    context = TaskContext(BACKBONE, seed=4, device=torch.device("meta"))
    bank = CentreBank("object", 2_000_000, 512, context)
    assert bank.local.is_meta
    assert bank.local.shape == (2_000_000, 512)


def test_negatives_are_a_fresh_share_of_all_rows() -> None:
    bank = CentreBank("object", 200, 3, TaskContext(BACKBONE, seed=4))
    counts = np.zeros(200)
    for step in range(300):
        drawn = bank.negatives(0.1, Progress(step=step, steps=300, seed=0)).numpy()
        assert len(np.unique(drawn)) == 20
        assert (np.diff(drawn) > 0).all()
        counts[drawn] += 1
    assert counts.min() > 10
    assert counts.max() < 55
    keys = [Progress(step=1, steps=9, seed=1, micro=m) for m in (0, 1)] + [Progress(step=1, steps=9, seed=2)]
    assert len({tuple(bank.negatives(0.1, key).tolist()) for key in keys}) == 3
    assert len(bank.negatives(1.0, keys[0])) == 200
    assert len(bank.negatives(1e-9, keys[0])) == 1


def test_items_follow_the_banks() -> None:
    task, _ = build(crop_area=(1.0, 1.0), crop_aspect=(1.2, 1.2), flip=0.0)
    image, clip, both, neither, _ = samples()
    assert [sorted(task.item(one, np.random.default_rng(0))) for one in (image, clip, both, neither)] == [
        ["object"],
        ["motion"],
        ["motion", "object"],
        [],
    ]
    rng = np.random.default_rng(3)
    view = task.item(clip, rng)["motion"]
    chosen = choose_frames(5, 3, np.random.default_rng(3))
    assert np.array_equal(view["frames"], resize(clip.frames[chosen], (16, 16)))
    mirrored, _ = build(crop_area=(1.0, 1.0), crop_aspect=(1.2, 1.2), flip=1.0)
    assert np.array_equal(
        mirrored.item(clip, np.random.default_rng(3))["motion"]["frames"],
        resize(clip.frames[chosen], (16, 16), flip=True),
    )
    many = sample(9, object=[*range(12), 5, 5])
    seen = [task.item(many, np.random.default_rng(i))["object"]["positives"] for i in range(40)]
    assert all(len(set(one.tolist())) == 4 for one in seen)
    assert set(np.concatenate(seen).tolist()) == set(range(12))


def test_only_frames_of_the_view_are_decoded() -> None:
    task, _ = build(crop_area=(1.0, 1.0), crop_aspect=(1.2, 1.2), flip=0.0)
    clip, rng = sample(1, 12, motion=[0], object=[1]), np.random.default_rng(3)
    chosen = task.frame_indices(clip.times, rng)
    assert (chosen // 4).tolist() == [0, 1, 2]
    views = task.item(replace(clip, frames=clip.frames[chosen], times=clip.times[chosen]), rng)
    assert np.array_equal(views["motion"]["frames"], resize(clip.frames[chosen], (16, 16)))
    assert any(np.array_equal(views["object"]["frames"], resize(clip.frames[[i]], (16, 16))) for i in chosen)
    assert task.frame_indices(np.zeros(3), rng) is None


def test_batches_hold_the_samples_of_each_bank() -> None:
    task, _ = build()
    batch = task.collate(items(task, samples()))
    assert batch["object"]["frames"].shape == (3, 1, 3, 16, 16)
    assert batch["motion"]["frames"].shape == (2, 3, 3, 16, 16)
    assert batch["motion"]["frames"].dtype == torch.uint8
    assert sorted(batch["motion"]["positives"][0].tolist()) == [-1, -1, 0, 8]
    assert len(batch["motion"]["noise"]) == 2
    again = task.collate(items(task, samples()))
    assert torch.equal(batch["object"]["frames"], again["object"]["frames"])
    assert torch.equal(batch["object"]["positives"], again["object"]["positives"])


def test_unknown_centres_are_named() -> None:
    task, _ = build()
    for rows in ([37], [-1, 3]):
        broken = sample(9, object=rows)
        for use in (task.accept, lambda one: task.item(one, np.random.default_rng(0))):
            with pytest.raises(DataError, match=r"tests test/9: object clusters .* in a bank of 37 rows"):
                use(broken)
    task.accept(sample(9, object=[3]))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", ["nothing", "no motion", "one sample", "twins", "all positive", "padded"])
def test_degenerate_batches_are_finite(loss: str, case: str) -> None:
    image = sample(0, object=[3, 36, 0, 11])
    chosen = {
        "nothing": [],
        "no motion": [image, sample(4, object=[18])],
        "one sample": [image],
        "twins": [image, image, image],
        "all positive": [sample(1, 4, motion=[*range(9)])],
        "padded": [sample(3), sample(5)],
    }[case]
    task, backbone = build(loss, positives=10, negatives=1.0)
    terms = task.losses(backbone, task.collate(items(task, chosen)), teacher=None, progress=PROGRESS)
    for name, term in terms.items():
        assert term.sum.isfinite()
        assert term.sum.item() >= 0
        if not len(chosen) or name.split("_")[0] not in {bank for one in chosen for bank in one.clusters}:
            assert (term.sum.item(), int(term.count)) == (0, 0)
    if case == "all positive":  # no negative is left for this sample
        last = terms["motion_softmax" if loss == "cosface" else "motion_negative"]
        assert last.sum.item() == 0
    total(terms).backward()
    for parameter in parameters(task, backbone):
        # Zeros, not None: a rank without samples runs the modules that the others run.
        if parameter is not backbone.embedding.mask_token and parameter.grad is not None:
            assert parameter.grad.isfinite().all()
    assert backbone.embedding.patch.weight.grad is not None
    assert all(parameter.grad is not None for parameter in task.parameters())
    assert all(bank.local.grad is not None for bank in task.banks.values())
    assert all(value.isfinite() for value in task.signals().values())


def test_no_negatives_anywhere_have_no_gradient() -> None:
    x = torch.tensor([float("-inf"), 0.5], requires_grad=True)
    total = _LogSumExpOverRanks.apply(x)
    total.sum().backward()
    assert total.tolist() == [float("-inf"), 0.5]
    assert x.grad.tolist() == [0, 1]


def test_signals_tell_a_collapse() -> None:
    task, backbone = build()
    task.losses(backbone, task.collate(items(task, samples())), teacher=None, progress=PROGRESS)
    assert float(task.signals()["object_embedding_std"]) > 0.01
    twins = task.collate(items(task, [samples()[0]] * 3))
    task.losses(backbone, twins, teacher=None, progress=PROGRESS)
    assert float(task.signals()["object_embedding_std"]) < 1e-6


def test_autocast_scores_in_float32() -> None:
    task, backbone = build("cosface")
    task, backbone = task.float(), backbone.float()
    for bank in task.banks.values():
        bank.local = bank.local.detach().float().requires_grad_()
    batch = task.collate(items(task, samples()))
    exact = task.losses(backbone, batch, teacher=None, progress=PROGRESS)
    with torch.autocast("cpu", torch.bfloat16):
        half = task.losses(backbone, batch, teacher=None, progress=PROGRESS)
    for name, term in half.items():
        assert term.sum.dtype == torch.float32
        assert term.sum.item() == pytest.approx(exact[name].sum.item(), rel=0.02)


def test_loader_workers_are_sent_no_centres() -> None:
    task, _ = build()
    sent = pickle.loads(pickle.dumps(task))
    assert not any(isinstance(value, torch.Tensor) for bank in sent.banks.values() for value in vars(bank).values())
    one, other = (each.item(samples()[0], np.random.default_rng(0)) for each in (task, sent))
    assert all(np.array_equal(one[name]["frames"], other[name]["frames"]) for name in one)


def test_sharded_matrices_are_no_parameters() -> None:
    task, _ = build()
    assert {name for name, _ in task.named_parameters()} == {
        "head.0.weight",
        "head.0.bias",
        "head.1.weight",
        "head.1.bias",
        "logits.object.log_scale",
        "logits.object.bias",
        "logits.motion.log_scale",
        "logits.motion.bias",
    }
    assert [(one.name, one.start, one.rows) for one in task.sharded()] == [("object", 0, 37), ("motion", 0, 9)]
    assert all(one.local is task.banks[one.name].local for one in task.sharded())
    assert not list(build("cosface")[0].logits.parameters())


def test_nearest_centres_are_the_largest_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = CentreBank("object", 23, 5, TaskContext(BACKBONE, seed=4))
    embeddings = torch.randn(4, 5)
    centres = bank.local.detach()
    with torch.no_grad():
        for together in (100, 4):
            monkeypatch.setattr("interlace.tasks.clusters.measures.SCORED_TOGETHER", together)
            plain = nearest_centres(embeddings, bank, 6, normalise=False)
            assert np.array_equal(plain, (embeddings @ centres.T).argsort(dim=1, descending=True)[:, :6])
            turned = nearest_centres(embeddings, bank, 6, normalise=True)
            cosines = embeddings @ (centres / centres.norm(dim=1, keepdim=True)).T
            assert np.array_equal(turned, cosines.argsort(dim=1, descending=True)[:, :6])
            assert not np.array_equal(plain, turned)
            assert nearest_centres(embeddings, bank, 99, normalise=True).shape == (4, 23)


def test_recall_and_frequencies() -> None:
    assert recall(np.array([4, 2, 7, 1]), np.array([7, 4])) == 0.5
    assert recall(np.array([4]), np.array([4, 9, 1])) == pytest.approx(1 / 3)
    assert recall(np.array([], np.int64), np.array([4])) == 0
    positives = [np.array([5, 1]), np.array([5, 3, 1]), np.array([], np.int64), np.array([5])]
    assert count_centres(positives).most_frequent.tolist() == [5, 1, 3]
    assert count_centres([]).most_frequent.tolist() == []


def test_evaluate_finds_the_right_centres() -> None:
    """Centres placed on the embeddings of samples 0 and 2 are found by them, and not by a swapped sample."""
    task, backbone = build("sigmoid")
    task, backbone = task.float(), backbone.float()
    held_out = [sample(0, object=[3, 8]), sample(1, 4, motion=[1]), sample(2, 2, object=[5]), sample(3, 4, motion=[2])]
    held_out += [sample(4, object=[30])]
    with torch.no_grad():
        mine = [held_out[i] for i in (0, 2, 4)]
        embeddings = task._embed_whole(backbone, mine, "object")
        middle = resize(held_out[2].frames[1:2], (16, 16))
        torch.testing.assert_close(embeddings[1:2], task.embed(backbone, torch.from_numpy(middle)[None]))
        bank = task.banks["object"].local.detach().float()
        bank[[3, 8]], bank[5] = embeddings[0] * 0.1, embeddings[1] * 7
        bank[30] = -embeddings[2]
        task.banks["object"].local = bank
        task.banks["motion"].local = task.banks["motion"].local.detach().float()
        blind = task.fit_blind([sample(7, object=[8, 1]), sample(8, object=[8])])
        objects, motion = task.evaluate(backbone, held_out, blind)
    assert (objects.name, objects.better, motion.name) == ("recall_object", "higher", "recall_motion")
    np.testing.assert_array_equal(objects.values, [1, np.nan, 1, np.nan, 0])
    shown = [(embeddings[partner] @ unit(bank).T).argsort(descending=True) for partner in (1, 2, 0)]
    wanted = [len({3, 8} & set(shown[0][:2].tolist())) / 2, float(shown[1][0] == 5), float(shown[2][0] == 30)]
    np.testing.assert_array_equal(objects.swapped, [wanted[0], np.nan, wanted[1], np.nan, wanted[2]])
    assert wanted != [1, 1, 0]
    np.testing.assert_array_equal(objects.fixed, [0.5, np.nan, 0, np.nan, 0])
    assert np.isnan(motion.values).tolist() == [True, False, True, False, True]
    np.testing.assert_array_equal(motion.fixed, [np.nan, 0, np.nan, 0, np.nan])
    with torch.no_grad():
        assert [one.name for one in task.evaluate(backbone, mine, blind)] == ["recall_object"]
    task.check_held_out(held_out)
    with pytest.raises(DataError, match=r"'test/4' is the one held-out sample of bank object that can be used"):
        task.check_held_out(held_out[1:2] + held_out[3:])


def test_pictures(tmp_path: Path) -> None:
    task, backbone = build()
    task, backbone = task.float(), backbone.float()
    with torch.no_grad():
        paths = task.pictures(backbone, samples(), tmp_path / "new", "end")
    assert [path.name for path in paths] == ["end_clusters_object.png", "end_clusters_motion.png"]
    rows = neighbours_grid([[np.zeros((3, 8, 8), np.uint8)] * 3] * 3)
    assert Image.open(paths[0]).size == rows.size


def test_options_are_checked() -> None:
    assert Clusters.check(tiny_clusters.options(), BACKBONE) == []
    wrong = Clusters.check(tiny_clusters.options(size=20), BACKBONE)
    assert wrong == [("size", "allowed is a multiple of backbone.patch_size = 8")]
    assert Clusters.tokens_per_sample(tiny_clusters.options(), BACKBONE) == (1 + 3) * (1 + 1 + 1 + 4)
    for changes in (
        {"banks": {}},
        {"negatives": 0.0},
        {"crop_area": (0.9, 0.5)},
        {"crop_aspect": (0.0, 1.0)},
        {"loss": {"kind": "cosface", "bias": 1.0}},
        {"loss": {"kind": "arcface"}},
    ):
        with pytest.raises(ValidationError):
            tiny_clusters.options(**changes)
