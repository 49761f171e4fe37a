"""Texts that keep to the room there is for them in a picture."""

from __future__ import annotations

from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


def fit(text: Text, width: float) -> None:
    """Shorten a text in its middle until it is at most ``width`` pixels wide."""
    whole = text.get_text()
    for kept in range(len(whole), 1, -1):
        if _width(text) <= width:
            return
        text.set_text(f"{whole[: (kept + 1) // 2 - 1]}…{whole[len(whole) - kept // 2 :]}")


def _width(text: Text) -> float:
    figure: Any = text.get_figure()
    return float(text.get_window_extent(_renderer(figure)).width)


def _renderer(figure: Figure) -> Any:
    if not isinstance(figure.canvas, FigureCanvasAgg):
        FigureCanvasAgg(figure)
    canvas: Any = figure.canvas
    return canvas.get_renderer()
