"""``interlace stream``: a frozen backbone at work on a video, a folder or a camera, on screen and in a file."""

from __future__ import annotations

import resource
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console, Group
from rich.live import Live
from rich.style import Style
from rich.text import Text

from interlace.eval.frozen import frozen

from .colours import BASIS_FRAMES, Colours
from .footage import CameraStopped
from .recordings import open_recording
from .watching import Options, Seen, Watch, centre, load_frozen, load_geometry, trained_side

#: Seconds between plain lines.
EVERY = 5.0
#: Frames whose times make the rate on screen.
RECENT = 30


def stream_footage(path: str, source: str, options: Options, save: Path | None, console: Console) -> None:
    """Watch ``source`` with the backbone of ``path``, and with the geometry heads beside it, if any.

    Shows features, depth and the camera's place with frame rate and memory, and writes ``save``. Ctrl-C, or a camera
    that stops, ends it well; after an error nothing of ``save`` is left. Broken pictures of a folder are left out and
    named at the end.
    """
    backbone = load_frozen(path)
    heads = load_geometry(path, backbone)
    side = trained_side(path, backbone) if options.size is None else None
    with (
        frozen(backbone, path),
        Watch(backbone, source, options, heads, side) as watch,
        nullcontext() if save is None else open_recording(save, source, watch.footage.fps) as recording,
    ):
        console.print(opening(watch), highlight=False, markup=False)
        screen = Screen(watch, console)
        try:
            with screen:
                for seen, panels in painted(watch.seen()):
                    screen.show(seen, panels)
                    if recording is not None:
                        recording.add(seen, panels)
        except KeyboardInterrupt:
            console.print("stopped", highlight=False)
        except CameraStopped as stop:
            console.print(str(stop), highlight=False, markup=False)
        saved = recording is not None and recording.close()
        for line in (*watch.told(), screen.summary()):
            console.print(line, highlight=False, markup=False)
    if saved:
        console.print(f"saved: {save}", highlight=False, markup=False)


def painted(frames: Iterator[Seen]) -> Iterator[tuple[Seen, list[np.ndarray]]]:
    """Frames with their panels. The first few are held back until they have decided the colours.

    What stops ``frames`` before that is raised after those that came.
    """
    first: list[Seen] = []
    stopped: BaseException | None = None
    try:
        for seen in islice(frames, BASIS_FRAMES):
            first.append(seen)
    except (KeyboardInterrupt, CameraStopped) as stop:
        stopped = stop
    if first:
        colours = Colours(first)
    for seen in first:
        yield seen, colours.panels(seen)
    if stopped is not None:
        raise stopped
    for seen in frames:
        yield seen, colours.panels(seen)


def opening(watch: Watch) -> str:
    """What is going to happen, in a line."""
    kept = watch.keeps
    keeps = "every frame by itself, as a model of images"
    if kept:
        keeps = "the last {window} frames and the first {sink}" if "window" in kept else "all of {max_frames} frames"
    heads = "depth and pose" if watch.geometry is not None else "no geometry heads"
    footage = watch.footage
    frames = "frames until Ctrl-C" if watch.count is None else f"{watch.count} frames"
    units = f"{watch.fps:g} units of time a second; "
    if not footage.timed:
        units = f"{watch.fps:g} pictures a second, each a unit of time after the one before; "
    return (
        f"{footage.name}: {frames} of {footage.width} x {footage.height}, shown as {watch.width} x {watch.height}; "
        f"{units if kept else ''}sees {keeps.format(**kept)}: "
        f"{megabytes(watch.stream.cache_bytes)} of keys and values; {heads}"
    )


class Screen:
    """Live pictures on a terminal, a plain line every few seconds elsewhere. Use it in a ``with``."""

    def __init__(self, watch: Watch, console: Console) -> None:
        self._watch, self._console = watch, console
        self._took: list[float] = []
        self._shown: deque[float] = deque(maxlen=RECENT)
        self._said = self._began = time.monotonic()
        self._live: Live | None = None
        if console.is_terminal and not console.quiet:
            self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, seen: Seen, panels: list[np.ndarray]) -> None:
        """One frame more."""
        now = time.monotonic()
        self._took.append(seen.took)
        self._shown.append(now)
        if self._live is not None:
            columns = max(8, self._console.width // len(panels) - 1)
            rows = max(2, self._console.height - 4)
            self._live.update(Group(Text(self._line(seen)), side_by_side(panels, columns, rows)), refresh=True)
        elif now - self._said >= EVERY:
            self._said = now
            self._console.print(self._line(seen), highlight=False, markup=False)

    def summary(self) -> str:
        """How fast it was, in a line."""
        if not self._took:
            return "no frame was seen"
        seconds = time.monotonic() - self._began
        median = float(np.median(self._took))
        return (
            f"{len(self._took)} frames in {seconds:.1f} s; a frame took the model {median * 1e3:.0f} ms "
            f"({1 / median:.1f} frames/s), the slowest {max(self._took) * 1e3:.0f} ms; {self._memory()}"
        )

    def _line(self, seen: Seen) -> str:
        total = "" if self._watch.count is None else f"/{self._watch.count}"
        line = f"frame {len(self._took)}{total} at {seen.seconds:.2f} s  {self._rate()}  {self._memory()}"
        if seen.geometry is not None:
            x, y, z = centre(seen.geometry)
            line += f"  camera {x:+.2f} right {y:+.2f} down {z:+.2f} forward"
        return line

    def _rate(self) -> str:
        if len(self._shown) < 2:
            return "starting"
        return f"{(len(self._shown) - 1) / max(self._shown[-1] - self._shown[0], 1e-9):.1f} frames/s"

    def _memory(self) -> str:
        return f"keys and values {megabytes(self._watch.stream.cache_bytes)}, {peak_memory()}"


def side_by_side(panels: list[np.ndarray], columns: int, rows: int) -> Text:
    """Pictures as coloured half blocks, two pixels a character, each at most ``columns`` wide and ``rows`` high."""
    height, width = panels[0].shape[:2]
    scale = min(columns / width, 2 * rows / height)
    size = (max(1, int(width * scale)), max(2, int(height * scale) // 2 * 2))
    small = [np.asarray(Image.fromarray(panel).resize(size, Image.Resampling.BOX)) for panel in panels]
    text = Text()
    for row in range(0, size[1], 2):
        for number, panel in enumerate(small):
            text.append(" " if number else "")
            for upper, lower in zip(panel[row], panel[row + 1], strict=True):
                text.append("▀", Style.parse("rgb({},{},{}) on rgb({},{},{})".format(*upper, *lower)))
        text.append("\n")
    return text


def megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"


def peak_memory() -> str:
    """The most memory that this process, and the GPU, have held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    text = f"process {megabytes(peak)} at most"
    return f"{text}, GPU {megabytes(torch.cuda.max_memory_allocated())}" if torch.cuda.is_available() else text
