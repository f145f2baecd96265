"""What of a view is compared with centres."""

from __future__ import annotations

import numpy as np
import torch
from tiny_clusters import BACKBONE, build

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
