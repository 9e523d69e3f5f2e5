"""How figures look, and how they get into a page: colours, inline SVG, small PNG images."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODEL, BASELINE, GOOD, OTHER = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
"""Four colours of Okabe and Ito, which colour-blind readers tell apart on white and on black."""
CLASSES = ("#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499", "#6f6f6f")
"""Paul Tol's muted scheme."""
INK = "#0b0d0f"
"""Text, axes and rules: becomes the colour of the page's text, so that a figure follows a dark page."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
}


def figure(width: float = 4.8, height: float = 3.0) -> Figure:
    """An empty figure of that many inches, which no window knows of, so nothing is to be closed."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=144, layout="constrained")


def svg(name: str, description: str, draw: Callable[..., Figure], *args: object) -> str:
    """A figure as an <svg> element for an HTML page, the same for the same figure.

    Ids carry the name, since those of a page must differ; nothing in it refers to another place.

    Args:
        name: of the figure in the page.
        description: for readers who do not see it.
        draw: gives the figure from `args`.
    """
    import matplotlib

    name = re.sub(r"[^A-Za-z0-9]+", "-", name)
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        buffer = io.StringIO()
        draw(*args).savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'(xlink:)?href="#', f'href="#{name}-', text)
    text = re.sub(r'xlink:href="data:', 'href="data:', text)
    text = text.replace(INK, "currentColor")
    (box,) = re.findall(r'viewBox="([^"]+)"', text)[:1]
    width = float(box.split()[2])
    head = (
        f'<svg viewBox="{box}" role="img" aria-label="{_quoted(description)}" '
        f'style="width:100%;max-width:{width * 1.35:.0f}px">'
    )
    return re.sub(r"<svg[^>]*>", lambda _: head, text, count=1).strip()


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def png(image: Tensor) -> str:
    """An image (1 or 3, H, W) in [0, 1] as a data URI, one pixel a pixel."""
    from matplotlib.image import imsave

    pixels = image.clamp(0, 1).permute(1, 2, 0).double().cpu().numpy()
    buffer = io.BytesIO()
    if pixels.shape[2] == 1:
        imsave(buffer, pixels[:, :, 0], format="png", cmap="gray", vmin=0, vmax=1)
    else:
        imsave(buffer, pixels, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
