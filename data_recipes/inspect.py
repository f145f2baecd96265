"""Looking at data: one self-contained page about the datasets of a recipe, or about one folder of shards.

For each dataset its manifest and statistics, and for some of its samples the frames, the depth, the camera's path from
above, boxes and texts, and the points of the first frame thrown into the last: if depth, intrinsics or poses were
wrong, that picture would not fit.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from .broken import read_samples
from .media import DataError
from .sample import Sample, Text
from .schema import Recipe
from .shards import MANIFEST, ShardReader
from .sources import Source, open_source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Samples that are drawn, and samples that statistics are taken from, spread over a dataset.
SHOWN, COUNTED = 3, 64

_TILE = 112  # pixels a side of a frame on the page, at least
_AGREE = 0.03  # relative depth within which a thrown point is held to be the one seen there


@dataclass(frozen=True)
class Thrown:
    """The points of one frame of a sample as another frame's camera sees them."""

    image: np.ndarray  # [H, W, 3] uint8, black where none lands
    landed: float  # share of the points that land inside the other frame
    agree: float  # of those, the share whose depth is that frame's there, within 3%
    error: float  # of these, the median absolute difference of colour, of 255


@dataclass
class _Section:
    """One dataset on the page."""

    name: str
    path: str
    uses: list[str]
    facts: list[tuple[str, str]] = field(default_factory=list)
    charts: list[str] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)


def inspect(what: Recipe | str | Path, out: str | Path) -> Path:
    """Write a page about ``what``, a recipe or a folder of shards, to ``out``. Returns ``out``.

    A dataset that several tasks of a recipe use is shown once. Raises :class:`DataError` for one that cannot be read.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    sections = [_section(name, uses, source) for name, uses, source in _sources(what)]
    loader = FileSystemLoader(Path(__file__).parent)
    template = Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("inspect.html")
    page = template.render(title=what.name if isinstance(what, Recipe) else str(what), sections=sections)
    file = Path(out)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page, encoding="utf-8")
    return file


def _sources(what: Recipe | str | Path) -> list[tuple[str, list[str], Source]]:
    """(name, what it is used for, source) of every dataset."""
    if not isinstance(what, Recipe):
        inside = Path(what) / "recipe.yaml"
        if inside.is_file() and not (Path(what) / MANIFEST).exists():
            raise DataError(f"{what}: a run's folder, not a dataset; give {inside} to look at its recipe's data")
        reader = ShardReader(what)
        return [(reader.source, [str(reader.manifest["split"])], reader)]
    uses: dict[tuple[str, str], tuple[str, list[str]]] = {}
    for task, part in what.tasks.items():
        for role, rows in (("trains", part.sources), ("measures", part.held_out), ("draws", part.pictured)):
            for row in rows:
                uses.setdefault((row.format, row.path), (row.name, []))[1].append(f"{role} {task}")
    return [(name, used, open_source(name, format, path)) for (format, path), (name, used) in uses.items()]


def throw(sample: Sample, frame: int, other: int) -> Thrown:
    """The points of ``frame`` in the camera of ``other``. The sample must have depth and a camera."""
    assert sample.depth is not None
    assert sample.K is not None
    assert sample.c2w is not None
    height, width = sample.depth.shape[1:]
    rows, columns = np.nonzero(sample.depth[frame] > 0)
    rays = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], 1) @ np.linalg.inv(sample.K[frame]).T
    world = rays * sample.depth[frame][rows, columns][:, None] @ sample.c2w[frame, :3, :3].T + sample.c2w[frame, :3, 3]
    local = (world - sample.c2w[other, :3, 3]) @ sample.c2w[other, :3, :3]
    flat = local @ sample.K[other].T
    ahead = local[:, 2] > 1e-6
    place = np.full((len(rows), 2), -1.0)
    place[ahead] = flat[ahead, :2] / flat[ahead, 2:]
    inside = (place >= 0).all(1) & (place[:, 0] < width) & (place[:, 1] < height)
    across, down = place[inside].astype(int).T
    depth, colours = local[inside, 2], sample.frames[frame][rows[inside], columns[inside]]
    image = np.zeros((height, width, 3), np.uint8)
    order = np.argsort(-depth, kind="stable")  # the nearest is written last
    image[down[order], across[order]] = colours[order]
    seen = sample.depth[other][down, across]
    same = (seen > 0) & (np.abs(seen - depth) < _AGREE * depth)
    difference = np.abs(sample.frames[other][down, across].astype(int) - colours).mean(1)[same]
    known = int((seen > 0).sum())
    return Thrown(
        image,
        landed=float(inside.mean()) if len(rows) else 0.0,
        agree=float(same.sum() / known) if known else 0.0,
        error=float(np.median(difference)) if len(difference) else float("nan"),
    )


def _section(name: str, uses: list[str], source: Source) -> _Section:
    section = _Section(name, str(getattr(source, "folder", "")), uses)
    count = len(source)
    chosen = np.unique(np.linspace(0, count - 1, min(count, COUNTED)).astype(int))
    found = read_samples(source, name, map(int, chosen))
    samples = found.samples
    if not samples:
        raise DataError(f"{name}: none of {len(chosen)} samples can be read: {found.broken[0].reason}")
    section.facts = _facts(source, samples)
    section.facts += [("broken, left out", f"{each.key}: {each.reason}") for each in found.broken[:SHOWN]]
    if len(found.broken) > SHOWN:
        section.facts.append(("broken, left out", f"{len(found.broken) - SHOWN} more"))
    names: dict[str, list[str]] = getattr(source, "manifest", {}).get("classes", {})
    section.charts = _charts(samples, names)
    for place in np.unique(np.linspace(0, len(samples) - 1, min(len(samples), SHOWN)).astype(int)):
        section.samples.append(_show(samples[place], names))
    return section


def _facts(source: Source, samples: Sequence[Sample]) -> list[tuple[str, str]]:
    """Rows of the table beside a dataset's name."""
    shapes = Counter(f"{len(s.frames)} x {s.frames.shape[1]} x {s.frames.shape[2]}" for s in samples)
    facts = [
        ("samples", f"{len(source):,}"),
        ("shards", f"{len(source.shard_sizes):,}"),
        ("fields", ", ".join(sorted(source.fields))),
        ("frames, height, width", "; ".join(f"{shape} ({n})" for shape, n in shapes.most_common(3))),
    ]
    manifest = getattr(source, "manifest", {})
    for key in ("split", "fps", "licence"):
        if manifest.get(key):
            facts.append((key, str(manifest[key])))
    depths = [sample.depth[sample.depth > 0] for sample in samples if sample.depth is not None]
    if depths:
        low, middle, high = np.quantile(np.concatenate(depths), (0.05, 0.5, 0.95))
        whole = sum(sample.depth.size for sample in samples if sample.depth is not None)
        valid = sum(map(len, depths)) / whole
        facts.append(("depth 5%, 50%, 95%", f"{low:.2f}, {middle:.2f}, {high:.2f}; valid {valid:.1%}"))
    moves = [_motion(sample) for sample in samples if sample.c2w is not None and len(sample.frames) > 1]
    if moves:
        turn, way = np.median(moves, axis=0)
        facts.append(("camera, first to last frame", f"turns {turn:.0f} degrees, moves {way:.2f} (medians)"))
    kinds = Counter(text.kind for sample in samples for text in sample.texts)
    if kinds:
        facts.append(("texts a sample", ", ".join(f"{n / len(samples):.1f} {kind}" for kind, n in kinds.most_common())))
    facts.append(("read for these numbers", f"{len(samples)} samples"))
    return facts


def _motion(sample: Sample) -> tuple[float, float]:
    """Degrees and distance between a clip's first and last camera."""
    assert sample.c2w is not None
    first, last = sample.c2w[0], sample.c2w[-1]
    cosine = (np.trace(first[:3, :3].T @ last[:3, :3]) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))), float(np.linalg.norm(last[:3, 3] - first[:3, 3]))


def _charts(samples: Sequence[Sample], names: Mapping[str, Sequence[str]]) -> list[str]:
    """Histograms: depth, words of answers, labels (whose classes may have ``names``), centres."""
    from matplotlib.figure import Figure

    charts = []
    depths = [sample.depth[sample.depth > 0][::17] for sample in samples if sample.depth is not None]
    if depths:
        figure = Figure((3.4, 2.2), layout="constrained")
        axes = figure.subplots()
        axes.hist(np.concatenate(depths), 50, color="#4477aa")
        axes.set(title="depth", xlabel="metres" if samples[0].metric else "scene units", yticks=[])
        charts.append(_svg(figure))
    words = Counter(w.strip(",.") for s in samples for t in s.texts if t.kind != "grounding" for w in t.answer.split())
    if words:
        charts.append(_bars("words of captions and signs", words.most_common(24)))
    for label in sorted({label for sample in samples for label in sample.labels}):
        counts = Counter(sample.labels[label] for sample in samples if label in sample.labels)
        charts.append(
            _bars(f"label {label}", [(_class(names, label, value), n) for value, n in sorted(counts.items())])
        )
    for bank in sorted({bank for sample in samples for bank in sample.clusters}):
        nearest = Counter(int(sample.clusters[bank][0]) for sample in samples if bank in sample.clusters)
        figure = Figure((3.4, 2.2), layout="constrained")
        axes = figure.subplots()
        axes.bar(range(len(nearest)), [n for _, n in nearest.most_common()], color="#4477aa")
        axes.set(title=f"nearest {bank} centres, by frequency", xticks=[])
        charts.append(_svg(figure))
    return charts


def _class(names: Mapping[str, Sequence[str]], label: str, value: int) -> str:
    return names[label][value] if label in names else str(value)


def _bars(title: str, counts: Sequence[tuple[str, int]]) -> str:
    from matplotlib.figure import Figure

    figure = Figure((max(3.4, 0.24 * len(counts) + 0.8), 2.2), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(counts)), [n for _, n in counts], color="#4477aa")
    axes.set(title=title)
    axes.set_xticks(range(len(counts)), [name for name, _ in counts], rotation=60 if len(counts) > 8 else 0, fontsize=7)
    return _svg(figure)


def _show(sample: Sample, names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """One sample as the template wants it."""
    length = len(sample.frames)
    chosen = np.unique(np.linspace(0, length - 1, min(length, 8)).astype(int))
    last = int(chosen[-1])
    texts = [text for text in sample.texts if text.frame == last]
    shown: dict[str, Any] = {
        "key": sample.key,
        "labels": ", ".join(f"{label} {_class(names, label, value)}" for label, value in sample.labels.items()),
        "frames": [_png(_boxed(sample.frames[i], texts if i == last else ())) for i in chosen],
        "depth": [],
        "texts": [(text.kind, text.prompt, _answer(text)) for text in texts],
        "path": None,
        "thrown": None,
    }
    if sample.depth is not None:
        high = float(np.quantile(sample.depth, 0.98)) or 1.0
        shown["depth"] = [_png(_enlarge(_colour(sample.depth[i] / high, sample.depth[i] > 0))) for i in chosen]
    if sample.c2w is not None:
        shown["path"] = _from_above(sample)
        if sample.depth is not None and length > 1:
            thrown = throw(sample, 0, last)
            pictures = {"first frame": sample.frames[0], "thrown into the last": thrown.image}
            pictures["last frame"] = sample.frames[last]
            shown["thrown"] = {
                "pictures": [(name, _png(_enlarge(image))) for name, image in pictures.items()],
                "words": f"{thrown.landed:.0%} of the points land in the last frame, {thrown.agree:.0%} of them at "
                f"its depth; their colour differs by {thrown.error:.1f} of 255 (median)",
            }
    return shown


def _answer(text: Text) -> str:
    boxes = "; ".join(" ".join(f"{side:.2f}" for side in box) for box in text.boxes)
    return text.answer + (f" = {boxes}" if boxes else "")


def _enlarge(image: np.ndarray) -> np.ndarray:
    """The picture with every pixel repeated until it is large enough to look at."""
    times = max(1, -(-_TILE // image.shape[0]))
    return image.repeat(times, 0).repeat(times, 1)


def _boxed(frame: np.ndarray, texts: Sequence[Text]) -> np.ndarray:
    image = Image.fromarray(_enlarge(frame))
    draw = ImageDraw.Draw(image)
    for text in texts:
        for left, top, right, bottom in text.boxes * np.tile(image.size, 2):
            draw.rectangle((left, top, right - 1, bottom - 1), outline=(255, 255, 255), width=3)
            draw.rectangle((left, top, right - 1, bottom - 1), outline=(230, 0, 120), width=1)
    return np.asarray(image)


def _colour(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """[H, W], 1 is far -> [H, W, 3] uint8: near is blue, far is red, not valid black, as everywhere in Interlace."""
    from matplotlib import colormaps

    coloured = (colormaps["turbo"](np.clip(values, 0, 1))[..., :3] * 255).astype(np.uint8)
    coloured[~valid] = 0
    return coloured


def _from_above(sample: Sample) -> str:
    """The camera's way and the last frame's points, along the world's up axis (the mean of the cameras')."""
    from matplotlib.figure import Figure

    assert sample.c2w is not None
    up = -sample.c2w[:, :3, 1].mean(0)
    up = up / np.linalg.norm(up)
    ahead = sample.c2w[0, :3, 2] - up * (sample.c2w[0, :3, 2] @ up)
    ahead = ahead / np.linalg.norm(ahead)
    plan = np.stack([np.cross(ahead, up), ahead])
    figure = Figure((3.2, 3.2), layout="constrained")
    axes = figure.subplots()
    if sample.depth is not None and sample.K is not None:
        for i in range(len(sample.frames)):
            rows, columns = np.nonzero(sample.depth[i] > 0)
            keep = slice(None, None, max(1, len(rows) // 800))
            rays = np.stack([columns[keep] + 0.5, rows[keep] + 0.5, np.ones(len(rows[keep]))], 1)
            points = rays @ np.linalg.inv(sample.K[i]).T * sample.depth[i][rows[keep], columns[keep]][:, None]
            world = (points @ sample.c2w[i, :3, :3].T + sample.c2w[i, :3, 3]) @ plan.T
            colours = sample.frames[i][rows[keep], columns[keep]] / 255
            axes.scatter(world[:, 0], world[:, 1], s=1, c=colours, linewidths=0, rasterized=True)
    eyes, gazes = sample.c2w[:, :3, 3] @ plan.T, sample.c2w[:, :3, 2] @ plan.T
    axes.plot(*eyes.T, "-", color="black", lw=1)
    axes.quiver(*eyes.T, *gazes.T, np.arange(len(eyes)), cmap="autumn", width=0.01, scale=8, zorder=3)
    axes.set(aspect="equal", title="from above")
    axes.tick_params(labelsize=6)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", dpi=110)
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode()


def _png(image: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
