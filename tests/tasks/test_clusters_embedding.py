"""What of a sample is seen, and what of that is compared with centres."""

from __future__ import annotations

import numpy as np
import torch
from tiny_clusters import BACKBONE, build, sample

from interlace.backbone import BackboneNoise, normalise


def test_an_embedding_is_the_mean_of_cls_normed_and_projected() -> None:
    task, backbone = build()
    with torch.no_grad():
        for parameter in task.head.parameters():
            parameter.normal_()
    views = torch.randint(0, 256, (2, 3, 3, 16, 16), dtype=torch.uint8)
    noise = BackboneNoise.draw(BACKBONE, [np.random.default_rng(seed) for seed in (0, 1)])
    with torch.no_grad():
        found = task.embed(backbone, views, noise)
        cls = backbone(normalise(views), noise=noise).cls
    (scale, shift), (weight, bias) = ([p.detach() for p in task.head[i].parameters()] for i in (0, 1))
    for one, frames in zip(found, cls, strict=True):
        mean = (frames[0] + frames[1] + frames[2]) / 3
        centred = mean - mean.mean()
        normed = centred / (centred.square().mean() + 1e-5).sqrt() * scale + shift
        torch.testing.assert_close(one, weight @ normed + bias)


def test_a_view_is_a_crop_of_the_asked_share_and_shape() -> None:
    """Red counts columns and green counts rows: their ranges are the sides of what is seen."""
    image = sample(0, object=[3])
    image.frames = np.zeros((1, 80, 100, 3), np.uint8)
    image.frames[..., 0] = np.arange(100)
    image.frames[..., 1] = np.arange(80)[:, None]
    task, _ = build(size=40, crop_area=(0.2, 0.4), crop_aspect=(0.5, 0.8))
    windows = [task.item(image, np.random.default_rng(n))["object"]["frames"][0, :2].astype(float) for n in range(60)]
    widths, heights = np.array([np.ptp(window, axis=(1, 2)) for window in windows]).T + 1.5  # half a cell at each end
    shares, shapes = widths * heights / 8000, widths / heights
    assert 0.18 < shares.min() < 0.23
    assert 0.37 < shares.max() < 0.42
    assert 0.47 < shapes.min() < 0.54
    assert 0.74 < shapes.max() < 0.84
    assert len({tuple(window[:, 0, 0]) for window in windows}) > 40
    mirrored = np.mean([window[0, 0, 0] > window[0, 0, -1] for window in windows])
    assert 0.25 < mirrored < 0.75
