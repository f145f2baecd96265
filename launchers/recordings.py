"""What ``interlace stream --save`` writes: a film, or a recording for the rerun viewer."""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np

from .result_file import unwritable
from .watching import Seen, centre

#: Ticks of a film's clock in a second: every frame keeps its own time.
CLOCK = 90_000
#: Points of one frame in a recording: those that the heads are surest of.
POINTS = 4096


class Recording(ABC):
    """Gets every frame with its panels. Only :meth:`close` gives the file its name: a ``with`` block that ends before
    leaves nothing."""

    def __init__(self, path: Path, partial: Path) -> None:
        self._path, self._partial = path, partial

    @abstractmethod
    def add(self, seen: Seen, panels: list[np.ndarray]) -> None: ...

    @abstractmethod
    def close(self) -> bool:
        """Finish the file; whether there is one, which takes a frame at least."""

    @abstractmethod
    def _let_go(self) -> None:
        """Let go of the file, finished or not."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._let_go()
        finally:
            self._partial.unlink(missing_ok=True)


def open_recording(path: Path, source: str, fps: float) -> Recording:
    """By the ending: .mp4 or .rrd. ``source``: what is recorded of. ``fps``: frames a second, roughly.

    Raises ValueError for another ending, a place where no file can be, or an .rrd without the rerun-sdk package.
    """
    kinds: dict[str, type[Film] | type[Rerun]] = {".mp4": Film, ".rrd": Rerun}
    if path.suffix.lower() not in kinds:
        raise ValueError(f"--save {path}: must end in .mp4 (a film) or .rrd (a recording for rerun)")
    return kinds[path.suffix.lower()](path, partial_beside(path, "--save", source), fps)


def partial_beside(path: Path, option: str, source: str) -> Path:
    """Where the file ``path``, which ``option`` names, is written until it is whole.

    Raises ValueError for a folder that is not there or takes no files, and where ``path`` is a folder, or the footage
    ``source`` itself.
    """
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: there is no folder {path.parent}")
    why = unwritable(path.parent)
    if why is not None:
        raise ValueError(
            f"{option} {path}: no file can be written there ({why}); name one in a folder that takes files"
        )
    if path.is_dir():
        raise ValueError(f"{option} {path}: is a folder; name a file in it")
    if path.exists() and Path(source).exists() and path.samefile(source):
        raise ValueError(f"{option} {path}: is the footage itself, which would be gone; name another file")
    return path.with_name(f".partial-{path.name}")


class Film(Recording):
    """An mp4 of the panels side by side, H.264, each frame at its own time."""

    def __init__(self, path: Path, partial: Path, fps: float) -> None:
        super().__init__(path, partial)
        self._fps = fps
        self._container: Any = None
        self._stream: Any = None
        self._last = -1

    def add(self, seen: Seen, panels: list[np.ndarray]) -> None:
        """Append one frame. A time that stands still is moved on by a tick: H.264 has no two frames at once."""
        import av

        picture = np.concatenate(panels, axis=1)
        # H.264 halves colour in both directions and needs even sides.
        picture = np.pad(picture, ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)), mode="edge")
        if self._container is None:
            self._container = av.open(str(self._partial), "w")
            rate = Fraction(self._fps).limit_denominator(1001)
            self._stream = self._container.add_stream("libx264", rate=rate, options={"crf": "20"})
            self._stream.height, self._stream.width = picture.shape[:2]
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = Fraction(1, CLOCK)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        self._last = max(round(seen.seconds * CLOCK), self._last + 1)
        frame.pts, frame.time_base = self._last, Fraction(1, CLOCK)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> bool:
        if self._container is None:
            return False
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._partial.replace(self._path)
        return True

    def _let_go(self) -> None:
        if self._container is not None:
            self._container.close()


class Rerun(Recording):
    """A recording for the rerun viewer: frames, features and depth, the camera's path, and points that stay.

    The world is the first camera's frame: x right, y down, z forward, in the units that the heads learned.
    """

    def __init__(self, path: Path, partial: Path, fps: float) -> None:
        try:
            self._rerun: Any = importlib.import_module("rerun")
        except ImportError:
            raise ValueError(
                f"--save {path}: needs a package that is not installed: pip install 'interlace[rerun]' (rerun-sdk)"
            ) from None
        super().__init__(path, partial)
        self._recording = self._rerun.RecordingStream("interlace")
        self._recording.save(str(self._partial))
        self._recording.log("world", self._rerun.ViewCoordinates.RDF, static=True)
        self._count = 0
        self._before: np.ndarray | None = None

    def add(self, seen: Seen, panels: list[np.ndarray]) -> None:
        """Log one frame at its time."""
        rerun, log = self._rerun, self._recording.log
        self._recording.set_time("time", duration=seen.seconds)
        self._recording.set_time("frame", sequence=self._count)
        log("features", rerun.Image(panels[1]))
        if seen.geometry is None:
            log("frame", rerun.Image(seen.image))
        else:
            log("depth", rerun.DepthImage(seen.geometry.depth[0, 0].float().cpu().numpy()))
            self._camera(seen)
            points, colours = surest_points(seen)
            # A path of its own for each frame: what was logged under it stays in view.
            log(f"world/points/{self._count:06d}", rerun.Points3D(points, colors=colours))
        self._count += 1

    def close(self) -> bool:
        if not self._count:
            return False
        self._let_go()
        self._partial.replace(self._path)
        return True

    def _let_go(self) -> None:
        self._recording.flush()
        self._recording.disconnect()

    def _camera(self, seen: Seen) -> None:
        assert seen.geometry is not None
        rerun, log = self._rerun, self._recording.log
        pose = seen.geometry.poses[0, 0].float().cpu().numpy()
        place, (height, width) = centre(seen.geometry), seen.image.shape[:2]
        turn = rerun.Quaternion(xyzw=pose[:4] / max(float(np.linalg.norm(pose[:4])), 1e-12))
        log("world/camera", rerun.Transform3D(translation=place, quaternion=turn))
        focal = [
            side / 2 / math.tan(min(max(float(angle), 0.02), 3.0) / 2)
            for side, angle in zip((width, height), pose[[8, 7]], strict=True)
        ]
        log("world/camera", rerun.Pinhole(resolution=[width, height], focal_length=focal))
        log("world/camera", rerun.Image(seen.image))
        if self._before is not None:
            log(f"world/path/{self._count:06d}", rerun.LineStrips3D([np.stack((self._before, place))]))
        self._before = place


def surest_points(seen: Seen) -> tuple[np.ndarray, np.ndarray]:
    """[n, 3] points in the first camera's frame and their colours [n, 3] uint8, n <= :data:`POINTS`, all finite."""
    assert seen.geometry is not None
    points = seen.geometry.points()[0, 0].float().cpu().numpy().reshape(-1, 3)
    sure = seen.geometry.confidence[0, 0].float().cpu().numpy().ravel()
    chosen = np.argsort(-sure, kind="stable")[:POINTS]
    chosen = chosen[np.isfinite(points[chosen]).all(1)]
    return points[chosen], seen.image.reshape(-1, 3)[chosen]
