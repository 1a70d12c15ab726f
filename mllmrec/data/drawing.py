"""The pictures of the synthetic catalogue: a coloured, patterned shape on a grey background."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

HUES = {  # hue in degrees, saturation, value
    "red": (0, 0.85, 0.85),
    "orange": (27, 0.92, 0.97),
    "yellow": (54, 0.85, 0.97),
    "green": (128, 0.75, 0.62),
    "turquoise": (176, 0.70, 0.80),
    "blue": (222, 0.80, 0.85),
    "purple": (276, 0.70, 0.68),
    "pink": (330, 0.48, 0.98),
}
PATTERNS = ("solid", "striped", "dotted", "checked")
SHAPES = ("circle", "square", "triangle", "star")
_OVERSAMPLING = 3


def draw_item(
    colour: str, pattern: str, shape: str, size: int, generator: np.random.Generator
) -> Image.Image:
    """A ``size`` × ``size`` RGB picture of a patterned shape on a grey background, with jitter and pixel noise."""
    canvas = size * _OVERSAMPLING
    hue, saturation, value = HUES[colour]
    tone = colorsys.hsv_to_rgb(
        (hue + generator.uniform(-5, 5)) % 360 / 360,
        saturation * generator.uniform(0.95, 1.05),
        min(1.0, value * generator.uniform(0.95, 1.05)),
    )
    second = (250, 250, 250) if generator.random() < 0.5 else (30, 30, 34)
    grey = int(generator.integers(165, 200))
    radius = canvas * generator.uniform(0.36, 0.43)
    centre = canvas / 2 + generator.uniform(-0.05, 0.05, size=2) * canvas
    fill = _draw_pattern(pattern, canvas, [round(255 * part) for part in tone], second, generator)
    mask = Image.new("L", (canvas, canvas), 0)
    _draw_shape(ImageDraw.Draw(mask), shape, centre, radius, generator.uniform(-12, 12))
    picture = Image.new("RGB", (canvas, canvas), (grey, grey, grey))
    picture.paste(fill, mask=mask)
    picture = picture.resize((size, size), Image.Resampling.BOX)
    noisy = np.asarray(picture, dtype=np.float32) + generator.normal(0, 4, size=(size, size, 3))
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


def _draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, centre: np.ndarray, radius: float, tilt: float
) -> None:
    if shape == "circle":
        radius *= 0.9
        draw.ellipse([*(centre - radius), *(centre + radius)], fill=255)
        return
    corners = {"square": 4, "triangle": 3, "star": 10}[shape]
    angles = np.deg2rad(tilt - (45 if shape == "square" else 90)) + np.arange(corners) * 2 * np.pi / corners
    radii = (
        np.where(np.arange(corners) % 2, 0.5, 1.15) * radius
        if shape == "star"
        else np.full(corners, 1.1 * radius)
    )
    points = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    draw.polygon([(float(x), float(y)) for x, y in points], fill=255)


def _draw_pattern(
    pattern: str, canvas: int, tone: Sequence[int], second: Sequence[int], generator: np.random.Generator
) -> Image.Image:
    """The whole canvas filled with ``tone``, patterned with ``second``."""
    angle = np.deg2rad(
        generator.uniform(-10, 10) + (45 * generator.integers(4) if pattern == "striped" else 0)
    )
    period = canvas * generator.uniform(0.13, 0.16)
    shift = generator.uniform(0, period, size=2)
    y, x = np.mgrid[:canvas, :canvas].astype(np.float32)
    u = (np.cos(angle) * x + np.sin(angle) * y + shift[0]) / period
    v = (-np.sin(angle) * x + np.cos(angle) * y + shift[1]) / period
    if pattern == "striped":
        marked = u % 1 < 0.45
    elif pattern == "checked":
        marked = (np.floor(u * 1.3) + np.floor(v * 1.3)) % 2 == 0
    elif pattern == "dotted":
        marked = (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.3**2
    else:
        marked = np.zeros((canvas, canvas), dtype=bool)
    pixels = np.where(marked[..., None], np.array(second, np.uint8), np.array(tone, np.uint8))
    return Image.fromarray(pixels)
