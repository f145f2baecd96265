"""Lets the CUDA build of torchvision be imported beside a CPU build of torch.

PyPI has no CPU build of torchvision. Its CUDA build fails at import with ``operator torchvision::nms does not
exist``, and with it mosaicml-streaming and every vision class of transformers. Declaring the operators' schemas
before that import is enough: transforms, models and datasets then work; the operators themselves have no kernel
and raise when called. torch calls :func:`autoload` in every process through the entry point ``torch.backends``.
"""

from __future__ import annotations

import torch

_BOXES_CHW = "SymInt batch_size, SymInt channels, SymInt height, SymInt width"
_POOLED = "SymInt pooled_height, SymInt pooled_width"
_CONV = (
    "SymInt stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, "
    "SymInt groups, SymInt offset_groups, bool use_mask"
)
_ROI = f"Tensor rois, float spatial_scale, {_POOLED}"

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    f"roi_align(Tensor input, {_ROI}, int sampling_ratio, bool aligned) -> Tensor",
    f"_roi_align_backward(Tensor grad, {_ROI}, {_BOXES_CHW}, int sampling_ratio, bool aligned) -> Tensor",
    f"roi_pool(Tensor input, {_ROI}) -> (Tensor, Tensor)",
    f"_roi_pool_backward(Tensor grad, Tensor rois, Tensor argmax, float spatial_scale, {_POOLED}, {_BOXES_CHW})"
    " -> Tensor",
    f"ps_roi_align(Tensor input, {_ROI}, int sampling_ratio) -> (Tensor, Tensor)",
    "_ps_roi_align_backward(Tensor grad, Tensor rois, Tensor channel_mapping, float spatial_scale, "
    f"{_POOLED}, int sampling_ratio, {_BOXES_CHW}) -> Tensor",
    f"ps_roi_pool(Tensor input, {_ROI}) -> (Tensor, Tensor)",
    "_ps_roi_pool_backward(Tensor grad, Tensor rois, Tensor channel_mapping, float spatial_scale, "
    f"{_POOLED}, {_BOXES_CHW}) -> Tensor",
    f"deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, {_CONV}) -> Tensor",
    f"_deform_conv2d_backward(Tensor grad, Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, "
    f"{_CONV}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)

_library: torch.library.Library | None = None


def autoload() -> None:
    """Declare torchvision's operator schemas if this torch has no CUDA. Called by ``import torch``."""
    global _library  # the declarations live as long as the Library object
    if torch.version.cuda is None and _library is None:
        _library = torch.library.Library("torchvision", "DEF")
        for schema in SCHEMAS:
            _library.define(schema)
