"""A little SVG: escaped, coloured by CSS classes only, so that one page is right in light, in dark and on paper."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from godwit.plaintext import lines, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LETTER_PX = 6.6  # mean advance of a letter at the size of our labels, on the generous side


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map from values to pixels."""

    low: float
    high: float
    first_px: float
    last_px: float

    def __call__(self, value: float) -> float:
        """Give the pixel of a value."""
        return self.first_px + (value - self.low) / (self.high - self.low) * (self.last_px - self.first_px)

    def clamped(self, value: float) -> float:
        """Give the pixel of a value, or the nearer end for one outside."""
        return self(min(max(value, self.low), self.high))


class Svg:
    """Collects the parts of one picture."""

    def __init__(self, width: int, height: int, title: str) -> None:
        """Begin a picture that scales with its place; ``title`` is what a screen reader says."""
        self._parts = [
            Markup(
                '<svg viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}"><title>{}</title>'
            ).format(width, height, width, height, one_line(title), one_line(title))
        ]

    def rect(self, left: float, top: float, right: float, bottom: float, css: str, *, round_px: float = 0) -> None:
        """Draw a filled box."""
        shape = '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="{:g}" class="{}"/>'
        self._add(shape, left, top, max(0.0, right - left), max(0.0, bottom - top), round_px, css)

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        """Draw a straight line."""
        self._add('<path d="M{:.1f} {:.1f}L{:.1f} {:.1f}" class="{}"/>', x1, y1, x2, y2, css)

    def path(self, points: Iterable[tuple[float, float]], css: str, *, closed: bool = False) -> None:
        """Draw a line through points, or the area that they enclose."""
        steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        if steps:
            self._add('<path d="M{}{}" class="{}"/>', steps, "Z" if closed else "", css)

    def dots(self, points: Iterable[tuple[float, float]], css: str) -> None:
        """Draw many dots as one path of round caps, which keeps the page small."""
        steps = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
        if steps:
            self._add('<path d="{}" class="{}"/>', steps, css)

    def ticks(self, positions: Iterable[float], top: float, bottom: float, css: str) -> None:
        """Draw many upright strokes as one path."""
        steps = "".join(f"M{x:.1f} {top:.1f}V{bottom:.1f}" for x in positions)
        if steps:
            self._add('<path d="{}" class="{}"/>', steps, css)

    def text(self, x: float, y: float, words: str, css: str = "label", *, anchor: str = "start") -> None:
        """Write words on a base line."""
        self._add('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>', x, y, anchor, css, words)

    def text_within(self, middle: float, y: float, words: str, css: str, bounds: tuple[float, float]) -> None:
        """Write words centred on ``middle``, moved as far as needed to stay within bounds."""
        half = text_px(words) / 2
        low, high = bounds[0] + half, bounds[1] - half
        self.text(
            min(max(middle, low), high) if low < high else (bounds[0] + bounds[1]) / 2, y, words, css, anchor="middle"
        )

    def finish(self) -> Markup:
        """Give the whole picture."""
        return Markup("").join([*self._parts, Markup("</svg>")])

    def _add(self, shape: str, *values: float | str) -> None:
        # Only our own literals reach Markup; values are escaped by format().
        shown = (lines(value) if isinstance(value, str) else value for value in values)
        self._parts.append(Markup(shape).format(*shown))  # noqa: S704


def text_px(words: str) -> float:
    """Estimate the width of a label in pixels."""
    return len(words) * LETTER_PX


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Give about ``count`` round values (1, 2 or 5 times a power of ten) within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((power * factor for factor in (1, 2, 5, 10)), key=lambda one: abs(math.log(one / raw)))
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """Write a tick with as many decimals as its axis needs."""
    step = abs(ticks[1] - ticks[0]) if len(ticks) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    return f"{value:,.{decimals}f}".replace(",", "\u202f").replace("-", "\u2212")


def both(wide: Markup, narrow: Markup) -> Markup:
    """Give two drawings of one chart; the style sheet shows the one that fits."""
    return Markup('<div class="wide">{}</div><div class="narrow">{}</div>').format(wide, narrow)


__all__ = ["Markup", "Scale", "Svg", "both", "escape", "nice_ticks", "text_px", "tick_text"]
