"""Frames out of video files, by their time stamps. PyAV is imported when the first video is opened."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .media import DataError


class Video:
    """The first video stream of a file (a path, or its bytes). ``name`` begins every error.

    ``times`` [n] float64: seconds of its frames, ascending, from 0. They come from the packets, so that files with a
    varying frame rate are right, and reading them decodes nothing. Raises :class:`DataError` for what is no video, is
    cut short, has no time stamps or does not decode, and for frames that the decoder calls damaged. Damage that it
    takes for other pixels cannot be told, nor frames lost from the middle of a container that does not state how many
    there are, as Matroska: they leave a gap in ``times``. ``threads`` for decoding; 0 lets FFmpeg choose.
    """

    def __init__(self, file: Path | bytes, name: str, *, threads: int = 1) -> None:
        self._file, self._name, self._threads = file, name, threads
        with self._open() as (container, stream):
            expected = stream.frames
            packets = container.demux(stream)
            stamps = [packet.pts for packet in packets if packet.size and not packet.is_discard]
            known = sorted(stamp for stamp in stamps if stamp is not None)
            if not stamps or len(known) < len(stamps):
                raise DataError(f"{name}: {'no time stamps' if stamps else 'a video without frames'}")
            # FFmpeg ends quietly where the file does; containers that state a number of frames tell.
            if len(stamps) < expected:
                raise DataError(f"{name}: broken video (cut short after {len(stamps)} of {expected} frames)")
            self._stamps = known
            self.times = (np.array(self._stamps) - self._stamps[0]) * float(stream.time_base or 0)
            if len(known) > 1 and not self.times[-1] > 0:
                raise DataError(f"{name}: 0 frames a second (its time stamps stand still); write it with a frame rate")

    def read(self, indices: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """The frames of these ascending indices (default: all), [t, H, W, 3] uint8 RGB, upright."""
        return np.stack([frame for _, frame in self.frames(range(len(self.times)) if indices is None else indices)])

    def frames(self, indices: Sequence[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """(index, [H, W, 3] uint8 RGB) for these ascending indices, decoded one after another, repeats included."""
        wanted = [int(index) for index in indices]
        place = 0
        shape: tuple[int, ...] = ()
        for index, frame in self._decoded(wanted[0]):
            # FFmpeg fills what it cannot read with something near. Also a frame that is passed over counts: later ones
            # are made of it.
            if frame.is_corrupt:
                raise DataError(f"{self._name}: broken video (frame {index}, at {self.times[index]:.2f} s, is damaged)")
            if index > wanted[place]:
                raise DataError(f"{self._name}: broken video (frame {wanted[place]} is missing)")
            if index < wanted[place]:
                continue
            image = self._image(frame, index)
            shape = shape or image.shape
            if image.shape != shape:
                raise DataError(f"{self._name}: its frames change size (at frame {index})")
            while place < len(wanted) and wanted[place] == index:
                yield index, image
                place += 1
            if place == len(wanted):
                return
        raise DataError(f"{self._name}: broken video (it ends before frame {wanted[place]} of {len(self.times)})")

    def _image(self, frame: Any, index: int) -> np.ndarray:
        import av

        try:
            return _upright(frame)
        except (av.FFmpegError, ValueError) as error:
            raise DataError(f"{self._name}: broken video (frame {index}: {error})") from error

    def _decoded(self, first: int) -> Iterator[tuple[int, Any]]:
        """Decoded frames with their indices, from some frame at or before ``first``."""
        places = {stamp: index for index, stamp in enumerate(self._stamps)}
        for seek in (True, False):
            with self._open() as (container, stream):
                if seek:
                    container.seek(self._stamps[first], stream=stream)
                reached = False
                for frame in container.decode(stream):
                    if not reached and seek and places.get(frame.pts, 0) > first:
                        break  # it went past the key frame before: decode from the start
                    reached = True
                    if frame.pts in places:
                        yield places[frame.pts], frame
                if reached:
                    return

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        import av

        try:
            file = io.BytesIO(self._file) if isinstance(self._file, bytes) else str(self._file)
            with av.open(file, metadata_errors="replace") as container:
                if not container.streams.video:
                    raise DataError(f"{self._name}: no video stream in it")
                stream = container.streams.video[0]
                if stream.codec_context is None:
                    raise DataError(f"{self._name}: broken video, or a codec that FFmpeg does not know")
                stream.codec_context.thread_count = self._threads
                yield container, stream
        except av.FFmpegError as error:
            raise DataError(f"{self._name}: broken video ({error.strerror})") from error


def _upright(frame: Any) -> np.ndarray:
    """RGB, turned as the container says it is to be shown (``rotation``: degrees counterclockwise)."""
    image: np.ndarray = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))
