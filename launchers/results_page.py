"""A page of results that needs no network: tables, the chart, and real samples with what was said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .charts import inline, png
from .result_pictures import chart

if TYPE_CHECKING:
    from interlace.eval.compare import Pictured
    from interlace.eval.result import Result


@dataclass(frozen=True)
class Group:
    """Pictures of one kind and protocol, a caption and an image of each backbone that has one."""

    title: str
    pictures: list[tuple[str, str, str]]


def write_page(title: str, results: Sequence[Result], pictures: Sequence[Pictured], target: Path) -> Path:
    """Write the page ``target`` of results and the pictures that were drawn with them."""
    from interlace.eval.compare import sheets

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("results.html").render(
        title=title,
        sheets=sheets(results),
        chart=inline(png(chart(_once(results)))),
        groups=_groups(pictures),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    partial.write_text(page)
    partial.replace(target)
    return target


def _once(results: Sequence[Result]) -> list[Result]:
    """Results without those that are there twice, as raw pixels are when several runs were measured beside them."""
    found = {
        (each.facts.protocol, each.facts.data_hash, each.measure, each.facts.subject, each.facts.backbone_hash): each
        for each in reversed(results)
    }
    return list(reversed(found.values()))


def _groups(pictures: Sequence[Pictured]) -> list[Group]:
    """In the order of first appearance; the same measurement's pictures of several backbones lie together."""
    groups: dict[tuple[str, str], Group] = {}
    for each in pictures:
        group = groups.setdefault((each.measurement, each.name), Group(f"{each.title} ({each.measurement})", []))
        group.pictures.append((each.subject, each.caption, inline(each.file.read_bytes())))
    return list(groups.values())
