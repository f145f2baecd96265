"""Pictures of what `interlace eval` found: values with their intervals, what each rate reached; colours of maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .charts import BLIND, COLOURS, panels

if TYPE_CHECKING:
    from interlace.eval.result import Result

#: Protocols whose measures are all of one kind, by how their names begin: the ends that their common axis has at least.
COMMON = {"policy/success": (0.0, 1.0), "policy/above": (-0.1, 0.1), "vlm/": (0.0, 1.0)}
#: What has no class or depth.
WHITE = 255
#: Names that a legend shows at most.
MOST_NAMES = 24
_COLUMNS = 4


def chart(results: Sequence[Result]) -> Figure:
    """A panel for each measure of each protocol: value and 95% interval of every subject; and one for each rate's.

    Measures of one kind share their axis; its zero and what guessing is worth, where it is known, are marked.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for each in results:
        groups.setdefault((each.facts.protocol, each.measure), []).append(each)
    tuned = [group for group in groups.values() if any(_by_trial(each) for each in group)]
    most = max(len(group) for group in groups.values())
    figure, axes = panels(len(groups) + len(tuned), _COLUMNS, 3.4, 2.6 if tuned else 1.0 + 0.3 * most)
    for axis, ((protocol, measure), group) in zip(axes, groups.items(), strict=False):
        _values(axis, group)
        _on_a_common_axis(axis, group[0], results)
        _guessing(axis, group[0])
        arrow = "↑" if group[0].better == "higher" else "↓"
        axis.set_title(f"{protocol.partition(' (')[0]}\n{measure} {arrow}", fontsize=8, loc="left")
    for axis, group in zip(axes[len(groups) :], tuned, strict=True):
        _trials(axis, group)
    return figure


def _values(axis: Axes, group: Sequence[Result]) -> None:
    for place, each in enumerate(group):
        low, high = each.interval
        axis.plot([low, high], [place, place], color=COLOURS[place % len(COLOURS)], linewidth=2)
        axis.plot([each.value], [place], "o", color=COLOURS[place % len(COLOURS)])
    axis.set_yticks(range(len(group)), [each.facts.subject for each in group])
    axis.set_ylim(len(group) - 0.5, -0.5)


def _on_a_common_axis(axis: Axes, of: Result, results: Sequence[Result]) -> None:
    """The ends of all results of this one's kind, and a line at zero."""
    ends = next((list(ends) for begins, ends in COMMON.items() if of.facts.protocol.startswith(begins)), None)
    if ends is None:
        return
    kind = (of.facts.protocol, of.facts.unit)
    alike = [each for each in results if (each.facts.protocol, each.facts.unit) == kind]
    ends += [end for each in alike for end in (each.value, *each.interval) if np.isfinite(end)]
    margin = 0.04 * (max(ends) - min(ends))
    axis.set_xlim(min(ends) - margin, max(ends) + margin)
    axis.axvline(0, color=BLIND, linewidth=1, zorder=0)


def _guessing(axis: Axes, of: Result) -> None:
    value = of.facts.found.get("guessing")
    if value is not None:
        axis.axvline(value, color=BLIND, linewidth=1.2, linestyle="--", zorder=0)
        axis.set_xlabel(f"dashed: guessing, {value:.3f}", fontsize=8)


def _trials(axis: Axes, group: Sequence[Result]) -> None:
    names: list[str] = []
    for place, each in enumerate(group):
        trials = _by_trial(each)
        names = list(trials) or names
        axis.plot(range(len(trials)), list(trials.values()), "o-", markersize=3, color=COLOURS[place % len(COLOURS)])
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    where = next(key for key, value in group[0].facts.found.items() if isinstance(value, dict))
    axis.set_title(f"{group[0].measure}: every rate {where}", fontsize=8, loc="left")


def _by_trial(found: Result) -> dict[str, float]:
    return next((value for value in found.facts.found.values() if isinstance(value, dict)), {})


def legend_of(figure: Figure, maps: Sequence[np.ndarray], classes: Sequence[str]) -> None:
    """Under the figure, the colours and names of the classes that these maps hold, if they have names."""
    there = sorted({int(each) for found in maps for each in np.unique(found) if each < len(classes)})
    if there:
        marks = [Patch(color=tuple(_colour(each) / 255), label=classes[each]) for each in there[:MOST_NAMES]]
        figure.legend(handles=marks, loc="outside lower center", ncols=6, fontsize=7, frameon=False)


def paint_classes(classes: np.ndarray) -> np.ndarray:
    """[H, W] -> [H, W, 3] uint8: a colour a class, 255 white."""
    table = np.array([_colour(each) for each in range(WHITE)] + [[WHITE] * 3])
    return table[np.minimum(classes, WHITE)].astype(np.uint8)


def _colour(number: int) -> np.ndarray:
    """[3], 0 to 255: 20 colours first, then darker ones."""
    colour = np.array(colormaps["tab20"](number % 20)[:3])
    return np.round(255 * colour * 0.8 ** (number // 20))


def depth_ends(maps: Sequence[np.ndarray]) -> tuple[float, float]:
    """The depths that are bluest and reddest: nearly the ends of the first map [H, W], which is the truth.

    Those of the next where the truth knows no pixel.
    """
    known = next((each[each > 0] for each in maps if (each > 0).any()), np.ones(1))
    low, high = (float(end) for end in np.quantile(known, (0.02, 0.98)))
    return low, high


def paint_depths(maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Metres [H, W] -> [H, W, 3] uint8 each, all on one scale: :func:`depth_ends`; 0 is white."""
    low, high = depth_ends(maps)
    painted = []
    for metres in maps:
        share = np.clip((metres - low) / max(high - low, 1e-6), 0, 1)
        colours = (colormaps["turbo"](share)[..., :3] * 255).astype(np.uint8)
        painted.append(np.where((metres > 0)[..., None], colours, np.uint8(WHITE)))
    return painted
