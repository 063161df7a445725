"""Pictures of what happens over time, as SVG: bars and dots in rows, below each other, over one axis of seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

PICTURES = Path(__file__).with_name("pictures")

ROW, BAR = 26, 14
GOOD, BAD, UNDECIDED, NEUTRAL = "#2e8b57", "#c0392b", "#d68910", "#8a94a0"
INK, PAPER, LINE = "#1f2933", "#ffffff", "#d9dee3"


@dataclass
class Drawing:
    """Shapes of an SVG, written from top to bottom; times in seconds become places by `x`."""

    title: str
    seconds: float
    width: float = 760
    left: float = 130
    right: float = 20
    y: float = 16.0
    shapes: list[str] = field(default_factory=list)

    def x(self, at: float) -> float:
        return self.left + at / self.seconds * (self.width - self.left - self.right)

    def text(self, x: float, y: float, text: str, *, colour: str = INK, anchor: str = "start", size: int = 12) -> None:
        self.shapes.append(
            f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="{size}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )

    def bar(self, start: float, end: float, colour: str, *, height: float = BAR) -> None:
        """From one time to another, around the present height; what took no time is still seen."""
        width, top = max(self.x(end) - self.x(start), height / 4), self.y - height / 2
        self.shapes.append(
            f'<rect x="{self.x(start):.1f}" y="{top:.1f}" width="{width:.1f}" height="{height}" rx="{height / 5:.1f}" '
            f'fill="{colour}"/>'
        )

    def dot(self, at: float, colour: str) -> None:
        self.shapes.append(f'<circle cx="{self.x(at):.1f}" cy="{self.y:.1f}" r="5" fill="{colour}"/>')

    def line(self) -> None:
        """Across, at the present height."""
        self.shapes.append(f'<path d="M{self.left} {self.y:.1f}H{self.width - self.right}" stroke="{LINE}"/>')

    def label(self, text: str, y: float) -> None:
        """The name of a row, left of it."""
        self.text(self.left - 10, y + 4, text, anchor="end")

    def heading(self, text: str) -> None:
        self.y += ROW * 0.8
        self.text(12, self.y, text, size=13)
        self.y += ROW

    def axis(self, step: float) -> None:
        """Seconds, below everything."""
        for index in range(int(self.seconds / step) + 1):
            self.text(self.x(index * step), self.y, f"{index * step:g} s", colour=NEUTRAL, anchor="middle", size=11)
        self.y += ROW

    def svg(self) -> str:
        body = "\n".join(self.shapes)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.y:.0f}" role="img" '
            f'font-family="system-ui, sans-serif">\n<title>{escape(self.title)}</title>\n'
            f'<rect width="{self.width}" height="{self.y:.0f}" rx="8" fill="{PAPER}"/>\n{body}\n</svg>\n'
        )


def write(pictures: Mapping[str, Callable[[], Drawing]]) -> None:
    """Draw each, into docs/pictures."""
    PICTURES.mkdir(exist_ok=True)
    for name, draw in pictures.items():
        (PICTURES / name).write_text(draw().svg(), encoding="utf-8")
