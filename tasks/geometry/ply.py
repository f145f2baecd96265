"""Point clouds as binary PLY, which every 3D viewer opens."""

from __future__ import annotations

from pathlib import Path

import numpy as np

_VERTEX = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])


def write_ply(path: Path, points: np.ndarray, colours: np.ndarray) -> None:
    """Write ``points`` [n, 3] (any float) with ``colours`` [n, 3] uint8 RGB. Points that are not finite are left out.

    Raises ValueError when the shapes do not fit.
    """
    if points.ndim != 2 or points.shape[1] != 3 or points.shape != colours.shape or colours.dtype != np.uint8:
        raise ValueError(
            f"write_ply: expected points [n, 3] and uint8 colours [n, 3], found {points.shape} and "
            f"{colours.dtype} {colours.shape}"
        )
    finite = np.isfinite(points).all(1)
    vertices = np.empty(int(finite.sum()), _VERTEX)
    vertices["xyz"], vertices["rgb"] = points[finite], colours[finite]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(vertices)}",
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {colour}" for colour in ("red", "green", "blue")),
        "end_header",
    ]
    path.write_bytes(("\n".join(header) + "\n").encode("ascii") + vertices.tobytes())
