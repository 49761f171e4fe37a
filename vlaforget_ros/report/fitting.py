"""Texts that keep to the room there is for them in a picture."""

from __future__ import annotations

from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


def fit(text: Text, width: float) -> None:
    """Shorten a text in its middle until it is at most ``width`` pixels wide, or two characters long."""
    whole = text.get_text()
    if _width(text) <= width:
        return
    low, high = 2, len(whole)
    while low < high - 1:
        middle = (low + high) // 2
        text.set_text(_shortened(whole, middle))
        low, high = (middle, high) if _width(text) <= width else (low, middle)
    text.set_text(_shortened(whole, low))


def _shortened(text: str, length: int) -> str:
    return f"{text[: (length + 1) // 2 - 1]}…{text[len(text) - length // 2 :]}"


def _width(text: Text) -> float:
    figure: Any = text.get_figure()
    return float(text.get_window_extent(_renderer(figure)).width)


def _renderer(figure: Figure) -> Any:
    if not isinstance(figure.canvas, FigureCanvasAgg):
        FigureCanvasAgg(figure)
    canvas: Any = figure.canvas
    return canvas.get_renderer()
