"""The formats a source may have: what they offer, and under which terms.

``mds``, ``webdataset`` and ``llava`` are the containers that training reads. The others are the native releases of
the datasets that the shipped recipes name, each as its provider packs it.
"""

from __future__ import annotations

from dataclasses import dataclass

from .sample import FIELDS


@dataclass(frozen=True)
class FormatSpec:
    """``fields``: those of :data:`interlace.data_recipes.sample.FIELDS` that a source of this format can offer.

    ``description``: what lies in the source's folder. ``licence``: the terms its provider states; "user's own" for
    containers. Terms change and are the user's to read before downloading. ``still``: every sample is one image.
    """

    fields: frozenset[str]
    description: str
    licence: str
    still: bool = False


_FRAMES = frozenset({"frames"})
_TEXTS = frozenset({"frames", "texts"})
_CAMERA = frozenset({"frames", "camera"})
_DEPTH = frozenset({"frames", "depth", "camera"})
_LABELS = frozenset({"frames", "labels"})
_CLUSTERS = frozenset({"frames", "clusters"})
_EPISODES = frozenset({"frames", "episode"})

FORMATS: dict[str, FormatSpec] = {
    # Containers. What an `mds` folder offers is in its dataset.json; this is what it may offer at most.
    "mds": FormatSpec(frozenset(FIELDS), "MDS shards with a dataset.json, as `interlace prepare` writes", "user's own"),
    "llava": FormatSpec(_TEXTS, "LLaVA conversations: .json, .jsonl or .parquet, pictures beside them", "user's own"),
    "webdataset": FormatSpec(_TEXTS, "tar shards of images or videos with .txt or .json beside them", "user's own"),
    # Images.
    "datacomp": FormatSpec(
        _TEXTS, "img2dataset tars with uid JSON", "CC BY 4.0 index; images their owners'", still=True
    ),
    "imagenet21k": FormatSpec(_LABELS, "one folder of .JPEG a WordNet id", "ImageNet terms of access", still=True),
    # Video.
    "kinetics": FormatSpec(_LABELS, "mp4 clips and csv lists (400, 600, 700)", "CC BY 4.0 lists; videos their owners'"),
    "ssv2": FormatSpec(_LABELS, "Something-Something V2: webm clips and JSON templates", "Qualcomm research licence"),
    "pe_video": FormatSpec(_TEXTS, "PE-Video: tars of mp4 and json", "CC BY-NC 4.0"),
    # Scenes with geometry.
    "co3dv2": FormatSpec(_DEPTH, "jgz annotations, JPEG, half-float PNG depth, up to scale", "CC BY-NC 4.0"),
    "wildrgbd": FormatSpec(_DEPTH, "PNG colour and depth, metadata JSON, cam_poses.txt", "MIT"),
    "blendedmvs": FormatSpec(_DEPTH, "MVSNet cam.txt, PFM depth, JPG, up to scale", "CC BY 4.0"),
    "megadepth": FormatSpec(
        _DEPTH, "COLMAP sparse models, HDF5 depth, JPG, up to scale", "CC BY 4.0; images their owners'"
    ),
    "mvs_synth": FormatSpec(_DEPTH, "PNG, EXR depth, JSON poses", "research only"),
    "pointodyssey": FormatSpec(_DEPTH, "JPG, 16-bit PNG depth, anno.npz", "CC BY-NC-SA 4.0"),
    "hypersim": FormatSpec(_DEPTH, "HDF5 images and ray distances, CSV camera tables", "CC BY-SA 3.0"),
    "tartanair": FormatSpec(_DEPTH, "PNG, NPY depth, NED poses", "BSD-3-Clause"),
    "dl3dv": FormatSpec(_CAMERA, "PNG frames and nerfstudio transforms.json; ships no depth", "CC BY-NC 4.0"),
    "dl3dv_cut3r": FormatSpec(_DEPTH, "DL3DV as CUT3R released it: PNG, NPY depth, NPZ cameras", "CC BY-NC 4.0"),
    "scannet": FormatSpec(_DEPTH, ".sens containers or folders exported from them", "ScanNet terms of use"),
    "scannetpp": FormatSpec(
        _DEPTH, "iPhone video with LiDAR depth, DSLR photographs, COLMAP", "ScanNet++ terms of use"
    ),
    "arkitscenes": FormatSpec(_DEPTH, "PNG in millimetres, .pincam, .traj", "Apple research licence"),
    "vkitti2": FormatSpec(_DEPTH, "JPG, PNG depth in centimetres, text cameras", "CC BY-NC-SA 3.0"),
    "mapfree": FormatSpec(_CAMERA, "JPG, poses.txt, intrinsics.txt; ships no depth", "Niantic, non-commercial"),
    "mapfree_cut3r": FormatSpec(_DEPTH, "MapFree with CUT3R's stereo depth: JPG, NPY, NPZ", "Niantic, non-commercial"),
    "dynamic_replica": FormatSpec(_DEPTH, "jgz annotations, PNG, half-float PNG depth", "CC BY-NC 4.0"),
    "spring": FormatSpec(_DEPTH, "PNG, HDF5 disparity, text cameras", "CC BY 4.0"),
    "omniworld_game": FormatSpec(_DEPTH, "split tars, PNG depth, JSON cameras, up to scale", "CC BY-NC-SA 4.0"),
    "ase": FormatSpec(_DEPTH, "Aria Synthetic Environments: fisheye JPG, ray-depth PNG, CSV", "Project Aria licence"),
    "waymo": FormatSpec(_DEPTH, "Waymo Open v2 parquet or v1 tfrecord; sparse LiDAR depth", "Waymo, non-commercial"),
    # Images with text.
    "grit": FormatSpec(
        _TEXTS, "img2dataset tars with noun chunks and boxes", "MS-PL index; images their owners'", still=True
    ),
    "refcoco": FormatSpec(
        _TEXTS, "RefCOCO, RefCOCO+, RefCOCOg: pickled references, COCO JSON", "Apache-2.0; COCO terms", still=True
    ),
    "blip3_ocr": FormatSpec(_TEXTS, "parquet with JSON caption strings, DataComp images", "Apache-2.0", still=True),
    "sa1b_caption": FormatSpec(_TEXTS, "SA-1B tars and a caption JSONL", "SA-1B research licence", still=True),
    # What robots were told, saw and did.
    "calvin": FormatSpec(_EPISODES, "CALVIN's training or validation folder: npz steps, annotated ranges", "MIT"),
    "bridge": FormatSpec(_EPISODES, "BridgeData V2, raw: traj folders of JPG, pickles, lang.txt", "CC BY 4.0"),
    "bridge_rlds": FormatSpec(_EPISODES, "BridgeData V2, bridge_dataset/1.0.0: TFRecord, train", "CC BY 4.0"),
    "bridge_rlds_val": FormatSpec(_EPISODES, "BridgeData V2, bridge_dataset/1.0.0: TFRecord, val", "CC BY 4.0"),
    # Cluster numbers beside frames, as OneVision-Encoder packs them.
    "onevision_images": FormatSpec(
        _CLUSTERS, "MXNet RecordIO: JPEG and its 10 nearest object clusters", "its images' own", still=True
    ),
    "onevision_clips": FormatSpec(_CLUSTERS, "list of mp4 and NPY of 10 motion clusters a clip", "its videos' own"),
}
