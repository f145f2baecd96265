"""Words in pictures: lines that fit, in colours that are told apart by the colour-blind too."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

BLACK, GREY, BLUE, ORANGE = (0, 0, 0), (90, 90, 90), (0, 90, 170), (200, 80, 0)
#: Of letters and of a line with the space below, pixels; white beside a line.
SIZE, LINE, MARGIN = 12, 16, 2


def lettered(texts: Sequence[tuple[str, Colour]], width: int, most: int) -> Image.Image:
    """Texts below each other on white, each in its colour in at most ``most`` lines; ``width`` pixels wide."""
    lines = [(line, colour) for text, colour in texts for line in fitted(text, width, most)]
    picture = Image.new("RGB", (width, len(lines) * LINE + 2 * MARGIN), "white")
    pen = ImageDraw.Draw(picture)
    for place, (line, colour) in enumerate(lines):
        pen.text((MARGIN, MARGIN + place * LINE), line, fill=colour, font=_font())
    return picture


def fitted(text: str, width: int, most: int) -> list[str]:
    """At most ``most`` lines of a text, none wider than a picture; what is left out is told by an ellipsis.

    No line where not even three letters fit.
    """
    widths = (
        textwrap.wrap(text, letters, max_lines=most, placeholder=" …") for letters in range(width * 2 // SIZE, 2, -1)
    )
    fitting = (lines for lines in widths if all(_font().getlength(line) <= width - 2 * MARGIN for line in lines))
    return next(fitting, [])


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=SIZE)
