"""A captioner that measures pixels: colour names, pattern and shape. It needs no model and no weights.

A picture with a uniform border is read as an object on a plain background. Its caption names the object's colours,
its pattern (from the two tones inside it and the directions of their edges) and its outline (from the harmonics of
the radius around the centre). Any other picture, such as a photograph or a poster, is described by colours,
lightness, contrast, texture and the direction of its lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from mllmrec.cache import source_fingerprint
from mllmrec.captions import colours
from mllmrec.captions.base import Captioner
from mllmrec.captions.colours import colour_shares, lab_of
from mllmrec.errors import UserError

_SIDE = 96
_BORDER_DISTANCE = 12.0  # CIELAB; in a uniform border pixels lie closer than this to the border's median
_TONE_DISTANCE = 22.0  # CIELAB; the two tones of a pattern lie farther apart than this
_UNEXPLAINED = 0.2  # share of the colour variance that two tones may leave unexplained


class Palette(Captioner):
    """Captions such as ``red, striped, star`` or ``dark blue, orange, dark picture, busy, vertical lines``.

    ``max_colours`` is the largest number of colours named. The neutral colours of an object (black, grey, white) are
    named only if no chromatic colour covers a visible part, so the second tone of a pattern does not hide the first.
    """

    def __init__(self, max_colours: int = 2) -> None:
        if max_colours < 1:
            raise UserError(f"caption.max_colours={max_colours}: must be at least 1")
        self.max_colours = max_colours

    def identity(self) -> dict[str, object]:
        """The rules and settings."""
        rules = source_fingerprint(__file__, colours.__file__, libraries=("pillow", "scipy", "numpy"))
        return {"captioner": "palette", "rules": rules, "max_colours": self.max_colours}

    def caption_images(self, images: Iterable[tuple[str, Path | None]]) -> Iterator[tuple[str, str | None]]:
        """Caption each image; None for a file that is missing, truncated or not an image."""
        for item, path in images:
            pixels = None if path is None else _read(path)
            yield item, None if pixels is None else describe(pixels, self.max_colours)


def _read(path: Path) -> np.ndarray | None:
    """The picture as (height, width, 3) uint8, at most `_SIDE` pixels on its longer side; None if unreadable."""
    try:
        with Image.open(path) as file:
            file.draft("RGB", (_SIDE, _SIDE))
            # Transparent parts become white.
            opaque = Image.alpha_composite(Image.new("RGBA", file.size, "white"), file.convert("RGBA"))
        picture = opaque.convert("RGB")
        picture.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
        return np.asarray(picture)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        # Pillow reports a damaged file by any of these errors, SyntaxError included.
        return None


def describe(pixels: np.ndarray, max_colours: int) -> str:
    """Caption of one picture; ``pixels`` (height, width, 3) uint8."""
    lab = lab_of(pixels)
    mask = object_mask(lab)
    pattern = None if mask is None else pattern_of(lab, mask)
    if mask is None or pattern is None:
        return ", ".join([*_picture_colours(lab.reshape(-1, 3), max_colours), *_picture_words(lab)])
    # Where two tones meet, pixels blend into a third colour that the object does not have.
    steepness = ndimage.gaussian_gradient_magnitude(lab[..., 0], 0.7)
    flat = mask & (steepness <= np.median(steepness[mask]))
    shape = shape_of(mask)
    return ", ".join([*_object_colours(lab[flat], max_colours), pattern, *([shape] if shape else [])])


def _object_colours(lab: np.ndarray, most: int) -> list[str]:
    """Chromatic names with a visible share; one neutral name if there are none."""
    chromatic, neutral = colour_shares(lab)
    visible = [name for name, share in chromatic if share >= 0.12]
    return (visible or [name for name, _ in neutral[:1]])[:most]


def _picture_colours(lab: np.ndarray, most: int) -> list[str]:
    """The largest shares among chromatic names with a visible share and neutral names with a large share."""
    chromatic, neutral = colour_shares(lab)
    visible = [entry for entry in chromatic if entry[1] >= 0.12] + [
        entry for entry in neutral if entry[1] >= 0.3
    ]
    return [name for name, _ in sorted(visible or neutral[:1] + chromatic[:1], key=lambda entry: -entry[1])][
        :most
    ]


def object_mask(lab: np.ndarray) -> np.ndarray | None:
    """The pixels that differ from a uniform border, with holes filled; None if there is no such object.

    Args:
        lab: (height, width, 3) CIELAB picture.

    Returns:
        (height, width) bool or None.
    """
    height, width = lab.shape[:2]
    if min(height, width) < 16:
        return None
    ring = np.concatenate(
        [
            lab[:2].reshape(-1, 3),
            lab[-2:].reshape(-1, 3),
            lab[:, :2].reshape(-1, 3),
            lab[:, -2:].reshape(-1, 3),
        ]
    )
    ground = np.median(ring, axis=0)
    if np.mean(np.linalg.norm(ring - ground, axis=1) < _BORDER_DISTANCE) < 0.9:
        return None
    differs = np.linalg.norm(lab - ground, axis=-1) > _BORDER_DISTANCE
    differs = ndimage.binary_closing(np.pad(differs, 4), iterations=2)[4:-4, 4:-4]
    differs = ndimage.binary_opening(ndimage.binary_fill_holes(differs))
    labels, count = ndimage.label(differs)
    if count == 0:
        return None
    sizes = np.bincount(labels.ravel())[1:]
    mask = labels == 1 + int(sizes.argmax())
    return mask if 0.03 < mask.mean() < 0.9 and sizes.max() > 0.7 * sizes.sum() else None


def pattern_of(lab: np.ndarray, mask: np.ndarray) -> str | None:
    """``solid``, ``striped``, ``checked`` or ``dotted``, from the pixels in ``mask``; None if they have over two tones.

    Edges of stripes share one direction, so the doubled angles of the gradients agree. Edges of checks have two
    directions at right angles, so the quadrupled angles agree. Edges of dots have every direction.
    """
    inside = ndimage.binary_erosion(mask, iterations=3)
    if inside.sum() < 30:
        return "solid"
    tones = lab[inside]
    spread = tones - tones.mean(axis=0)
    axis = np.linalg.eigh(spread.T @ spread)[1][:, -1]
    low, high = _two_means(spread @ axis)
    if high - low < _TONE_DISTANCE:
        return "solid"
    middle = (low + high) / 2
    tone_of = np.where(spread @ axis > middle, high, low)[:, None] * axis
    if ((spread - tone_of) ** 2).sum() > _UNEXPLAINED * (spread**2).sum():
        return None
    tone = ndimage.gaussian_filter((lab - tones.mean(axis=0)) @ axis, 0.7)
    deep = ndimage.binary_erosion(inside)
    vertical, horizontal = ndimage.sobel(tone, axis=0)[deep], ndimage.sobel(tone, axis=1)[deep]
    strength, angle = vertical**2 + horizontal**2, np.arctan2(vertical, horizontal)
    total = strength.sum() + 1e-9
    if abs((strength * np.exp(2j * angle)).sum()) / total > 0.55:
        return "striped"
    squareness = abs((strength * np.exp(4j * angle)).sum()) / total
    above = np.mean(spread @ axis > middle)
    balance = min(above, 1 - above)  # checks split the area evenly; dots cover the smaller part
    return "checked" if balance + 0.3 * squareness > 0.46 else "dotted"


def _two_means(values: np.ndarray) -> tuple[float, float]:
    """The two cluster means of (n,) numbers, by Lloyd's iterations that start at the outer deciles."""
    low, high = np.percentile(values, [10, 90])
    for _ in range(8):
        upper = values > (low + high) / 2
        if upper.all() or not upper.any():
            break
        low, high = values[~upper].mean(), values[upper].mean()
    return float(low), float(high)


def shape_of(mask: np.ndarray) -> str | None:
    """``circle``, ``triangle``, ``square`` or ``star`` from the outline of ``mask``; None for any other.

    The radius from the centre to the outline, as a function of the angle, is flat for a circle and has one bump per
    corner for other shapes. The strongest harmonic counts the bumps, whatever the rotation.
    """
    rows, columns = np.nonzero(mask)
    row, column = rows - rows.mean(), columns - columns.mean()
    angles = np.arctan2(row, column)
    bins = ((angles + np.pi) / (2 * np.pi) * 48).astype(int) % 48
    radius = np.zeros(48)
    np.maximum.at(radius, bins, np.hypot(row, column))
    if radius.min() <= 0:
        return None
    harmonics = np.abs(np.fft.rfft(radius))[1:8] * 2 / radius.sum()
    corners = int(harmonics[1:].argmax()) + 2
    strongest = harmonics[corners - 1]
    if harmonics[0] > 0.25:
        return None
    if strongest < 0.05:
        return "circle"
    if corners == 3 and strongest > 0.12:
        return "triangle"
    if corners == 4:
        return "square"
    return "star" if corners == 5 and strongest > 0.1 else None


def _picture_words(lab: np.ndarray) -> list[str]:
    """Lightness, contrast, texture and line direction of a whole picture, in at most four terms."""
    lightness = lab[..., 0]
    mean, deviation = lightness.mean(), lightness.std()
    words = ["dark picture"] if mean < 35 else ["bright picture"] if mean > 68 else []
    if deviation > 27:
        words.append("high contrast")
    elif deviation < 13:
        words.append("low contrast")
    vertical, horizontal = ndimage.sobel(lightness, axis=0), ndimage.sobel(lightness, axis=1)
    strength = vertical**2 + horizontal**2
    edges = np.mean(np.sqrt(strength) > 40)
    words.append("busy" if edges > 0.4 else "plain" if edges < 0.15 else "detailed")
    direction = (strength * np.exp(2j * np.arctan2(vertical, horizontal))).sum() / (strength.sum() + 1e-9)
    if direction.real > 0.15:
        words.append("vertical lines")
    elif direction.real < -0.15:
        words.append("horizontal lines")
    return words
