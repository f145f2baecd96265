"""A frozen backbone is the loaded one, to the bit, before, during and after training."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import frozen_cases as cases
import pytest
import torch
from harness import CaseFailed, Ranks
from tiny_run import read

from interlace.backbone import Backbone, FrozenBackbone, NotFrozen, load, save
from interlace.backbone.digest import digest
from interlace.backbone.frozen import load_reference
from interlace.data_recipes.recipe import RecipeErrors

ALONE = ["tasks.ssl=null", "tasks.geometry=null", "tasks.clusters=null", "tasks.captioning.held_out=[]"]


@pytest.fixture(scope="module")
def init(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(11)
    folder = tmp_path_factory.mktemp("backbone") / "frozen"
    save(Backbone(read(data).backbone.config), folder)
    return folder


def on(init: Path, *more: str) -> list[str]:
    return [
        *ALONE,
        "engine.steps=2",
        "engine.cosine_every=0",
        "engine.workers=0",
        "backbone.frozen=true",
        f"backbone.init={init}",
        *more,
    ]


@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (2, "bf16"), (3, "fp32")])
def test_features_in_training_are_the_loaders(
    two_ranks: Ranks, data: Path, init: Path, tmp_path: Path, stage: int, precision: str
) -> None:
    overrides = on(init, f"engine.zero.stage={stage}", f"engine.precision={precision}")
    found = two_ranks.run(cases.run_on_frozen, root=str(data), run=str(tmp_path / "run"), overrides=overrides)
    for each in found:
        assert each["said"] == "nothing"
        assert each["noisy"], "the task must draw noise, or leaving it out shows nothing"
        assert each["equal"]
        assert not each["has_gradient"]
        assert not each["training"]
    names = [name for name in found[0]["tensors"] if "backbone." in name]
    assert not names, "a checkpoint holds the hash of a frozen backbone in place of its weights"
    assert found[0]["state"]["frozen_backbone"] == digest(load(init))
    assert not (tmp_path / "run" / "backbone").exists()
    with pytest.raises(ValueError, match="a run on a frozen backbone, which it does not hold"):
        load(tmp_path / "run")
    assert digest(load_reference(tmp_path / "run" / "backbone.json")) == digest(load(init))


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_one_altered_weight_is_caught(two_ranks: Ranks, data: Path, init: Path, tmp_path: Path, stage: int) -> None:
    overrides = on(init, f"engine.zero.stage={stage}")
    name = "blocks.1.attention.query.bias"
    found = two_ranks.run(cases.run_on_frozen, root=str(data), run=str(tmp_path), overrides=overrides, alter=name)
    for each in found:  # every rank, though the last alone changed it
        assert each["said"].startswith(f"the frozen backbone is not what was loaded, after training: {name} changed")
    assert not (tmp_path / "backbone.json").exists()
    assert not (tmp_path / "heads").exists()


def test_a_run_goes_on_from_another_on_the_same_backbone_alone(
    one_rank: Ranks, data: Path, init: Path, tmp_path: Path
) -> None:
    first, second, other = tmp_path / "first", tmp_path / "second", tmp_path / "other"
    one_rank.run(cases.run_on_frozen, root=str(data), run=str(first), overrides=on(init))
    chained = on(init, f"start_from={first}", "engine.lr=1e-30")
    found = one_rank.run(cases.run_on_frozen, root=str(data), run=str(second), overrides=chained)[0]
    heads = [run / "heads" / "captioning.safetensors" for run in (first, second)]
    assert heads[0].read_bytes() == heads[1].read_bytes()
    assert found["state"]["step"] == 2
    save(Backbone(read(data).backbone.config), other)
    for changed, message in (
        ([f"backbone.init={other}"], "another frozen backbone than backbone.init names"),
        (["backbone.frozen=false", "backbone.init=null"], "the backbone is frozen there and trained here"),
    ):
        overrides = [*on(init, f"start_from={first}"), *changed]
        with pytest.raises(CaseFailed, match=message):
            one_rank.run(refused, root=str(data), run=str(tmp_path / message[:3]), overrides=overrides)


def refused(rank: int, world: int, root: str, run: str, overrides: list[str]) -> None:
    from interlace.pretrain import train

    train.pretrain(read(Path(root), *overrides), Path(run))


def test_a_reference_is_held_to_its_hash(data: Path, init: Path, tmp_path: Path) -> None:
    from interlace.backbone.frozen import write_reference

    config = read(data).backbone.config
    path = tmp_path / "backbone.json"
    write_reference(path, str(init), config, digest(load(init)))
    assert isinstance(load_reference(path), FrozenBackbone)
    torch.manual_seed(12)
    save(Backbone(config), tmp_path / "other")
    with pytest.raises(NotFrozen, match="another hash"):
        load_reference(path, str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"gone: no such folder; say where the backbone is that"):
        load_reference(path, str(tmp_path / "gone"))
    write_reference(path, str(tmp_path / "gone"), config, digest(load(init)))
    with pytest.raises(ValueError, match=r"backbone\.json: its backbone is no longer in .*gone; say where it is"):
        load_reference(path)


def test_frozen_is_frozen_whatever_surrounds_it(init: Path) -> None:
    plain, frozen = load(init).eval(), FrozenBackbone.of(load(init))
    frames = torch.randn(1, 2, 3, 16, 24)
    with torch.no_grad():
        expected = plain(frames).patches
    with torch.autocast("cpu", torch.bfloat16):
        found = frozen.train()(frames).patches
        with frozen.stream(1, 16, 24, max_frames=2) as stream:
            streamed = stream(frames).patches
    assert torch.equal(found, expected)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert streamed.dtype == torch.float32
    assert torch.allclose(streamed, expected, atol=1e-5)
    assert not frozen.training
    assert not any(p.requires_grad for p in frozen.parameters())
    assert asdict(replace(frozen.config)) == asdict(plain.config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["backbone.frozen=true"], "backbone.frozen: found true; a frozen backbone needs weights: set backbone.init"),
        (["engine.cosine_every=2"], "engine.cosine_every: found 2; allowed 0: backbone.frozen is true"),
    ],
)
def test_what_a_frozen_backbone_cannot_have(data: Path, init: Path, overrides: list[str], message: str) -> None:
    given = overrides if "frozen" in overrides[0] else [*on(init), *overrides]
    with pytest.raises(RecipeErrors) as errors:
        read(data, *given)
    assert message in str(errors.value)


def test_the_digest_knows_a_frozen_backbone_and_older_ones_stay(data: Path, init: Path) -> None:
    frozen, trained = read(data, *on(init)), read(data, *on(init), "backbone.frozen=false")
    assert trained.digest() != frozen.digest()
    assert json.loads(json.dumps(frozen.resolved()))["backbone"]["frozen"] is True
