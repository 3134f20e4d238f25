"""Figures and pictures inside a page: drawings as SVG that takes the page's colours, pixels as data URIs."""

import base64
import io
import re
from html import escape

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

THUMBNAIL = 176  # pixels of a picture's longer edge
QUALITY = 80  # of its JPEG


def inline_svg(figure: Figure, alt: str) -> str:
    """A drawing as an `<svg>` element with a text alternative.

    What matplotlib draws in black takes the colour of the page's text, so that it is readable on a dark page.

    Args:
        figure: drawn with colours that are readable on light and on dark.
        alt: what it shows, in words.
    """
    file = io.StringIO()
    # The salt keeps the names of clip paths apart that two drawings of a page would share.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": alt}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_\d+"', "", text)  # numbered from 1 in every drawing
    text = text.replace("#000000", "currentColor")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)


def png_uri(figure: Figure) -> str:
    """A figure of many pixels as a data URI, on white."""
    file = io.BytesIO()
    figure.savefig(file, dpi=90, format="png")
    return _uri("png", file.getvalue())


def thumbnail_uri(pixels: np.ndarray) -> str:
    """A small picture as a data URI.

    Args:
        pixels: uint8 (h, v, 3).
    """
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=QUALITY)
    return _uri("jpeg", file.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
