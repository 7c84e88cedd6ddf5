"""What the HTML pages have in common: the templates, how figures are written, and the limit on a page's size."""

from collections.abc import Callable
from typing import Any

import jinja2

# A page is sent by mail and opened on a phone.
MAX_PAGE_BYTES = 20_000_000
# What a picture may have where nothing forces it smaller: a gallery of 84 images x 2 x 60 kB x 4/3 (base64) = 13 MB.
PICTURE_BYTES = 60_000
_MIN_PICTURE_BYTES = 1_000


def render(template: str, **values: Any) -> str:
    """A template of this folder as a page that needs no other file; all text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxdefect.reports", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: percent(value).replace(" ", "\N{NO-BREAK SPACE}")
    return environment.get_template(template).render(values)


def within_limit(draw: Callable[[int], str]) -> str:
    """The page `draw(picture_bytes)`, with pictures of at most so many bytes each that it is below `MAX_PAGE_BYTES`."""
    picture_bytes = PICTURE_BYTES
    while True:
        page = draw(picture_bytes)
        if len(page.encode()) < MAX_PAGE_BYTES or picture_bytes <= _MIN_PICTURE_BYTES:
            return page
        picture_bytes //= 2


def percent(value: float | None) -> str:
    """0.98765 as "98.8 %"; never rounded up to 100 or down to 0; "n/a" for None."""
    if value is None:
        return "n/a"
    text = f"{100 * value:.1f}"
    if text == "100.0" and value < 1:
        text = "99.9"
    if text == "0.0" and value > 0:
        text = "0.1"
    return f"{text} %"
