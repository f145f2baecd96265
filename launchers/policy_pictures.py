"""A policy's results in one picture: success by instruction, chains, and how far it is above its controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .charts import COLOURS
from .sample_pictures import Picture

if TYPE_CHECKING:
    from interlace.eval.result import Result

_SUCCESS, _CHAINS, _ABOVE = "policy/success", "policy/chains", "policy/above"


def overview(results: Sequence[Result]) -> Picture:
    """Values and 95% intervals of everyone who acted, in the same colours everywhere."""
    of = {
        kind: [each for each in results if each.facts.protocol.startswith(kind)] for kind in (_SUCCESS, _CHAINS, _ABOVE)
    }
    drawn = {_SUCCESS: _by_measure, _CHAINS: _in_a_row, _ABOVE: _above}
    there = [kind for kind in drawn if of[kind]]
    names = list(dict.fromkeys(each.facts.subject for each in results))
    rows = max(len({each.measure for each in of[kind]}) for kind in there)
    figure = Figure(figsize=(4.4 * len(there), 1.6 + 0.32 * max(rows, 8)), layout="constrained")
    for axis, kind in zip(figure.subplots(1, len(there), squeeze=False)[0], there, strict=True):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        drawn[kind](axis, of[kind], names)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(names), fontsize=8, frameon=False)
    caption = (
        "Dots are values, lines 95% intervals with whole episodes or chains resampled; all acted on the same ones."
    )
    return Picture("overview", "Who did what they were told", caption, figure)


def _by_measure(axis: Axes, results: Sequence[Result], names: Sequence[str]) -> None:
    """A line of dots for each measure, who acted beside each other."""
    measures = list(dict.fromkeys(each.measure for each in results))
    for place, name in enumerate(names):
        mine = {each.measure: each for each in results if each.facts.subject == name}
        shift = 0.16 * (place - (len(names) - 1) / 2)
        for row, measure in enumerate(measures):
            _mark(axis, mine[measure], row + shift, place, name if row == 0 else None)
    axis.set_yticks(range(len(measures)), measures)
    axis.set_ylim(len(measures) - 0.5, -0.5)
    axis.set_xlim(-0.03, 1.03)
    axis.set_title("share of episodes done", fontsize=9, loc="left")


def _in_a_row(axis: Axes, results: Sequence[Result], names: Sequence[str]) -> None:
    """How many chains got how far."""
    for place, name in enumerate(names):
        mine = {each.measure: each for each in results if each.facts.subject == name}
        reached = [each for measure, each in mine.items() if measure != "length"]
        steps = range(1, len(reached) + 1)
        colour = COLOURS[place % len(COLOURS)]
        axis.plot(
            steps, [each.value for each in reached], "o-", color=colour, label=f"{name}: {mine['length'].value:.2f}"
        )
        for step, each in zip(steps, reached, strict=True):
            axis.plot([step + 0.04 * place] * 2, each.interval, color=colour, linewidth=1)
    axis.set_xticks(steps)
    axis.set_ylim(-0.03, 1.03)
    axis.legend(fontsize=7, frameon=False, title="mean in a row", title_fontsize=7)
    axis.set_title("share of chains with so many in a row", fontsize=9, loc="left")


def _above(axis: Axes, results: Sequence[Result], names: Sequence[str]) -> None:
    """By how much the policy is above each other, episode by episode."""
    for row, each in enumerate(results):
        _mark(axis, each, row, 0, None)
    axis.axvline(0, color="#888888", linewidth=1)
    axis.set_yticks(range(len(results)), [each.measure for each in results])
    axis.set_ylim(len(results) - 0.5, -0.5)
    axis.set_title("the policy's gain, in pairs", fontsize=9, loc="left")


def _mark(axis: Axes, found: Result, height: float, place: int, label: str | None) -> None:
    colour = COLOURS[place % len(COLOURS)]
    axis.plot(found.interval, [height, height], color=colour, linewidth=1.5)
    axis.plot([found.value], [height], "o", color=colour, markersize=4, label=label)
