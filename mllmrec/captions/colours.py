"""Colour names by distance in CIELAB."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

# A name may have several prototypes, in sRGB. A prefix "dark" or "light" is part of the name.
_CHROMATIC = {
    "red": [(217, 33, 33), (190, 20, 25), (235, 60, 55)],
    "dark red": [(110, 15, 20), (75, 10, 12)],
    "orange": [(247, 126, 20), (235, 105, 30), (255, 160, 50)],
    "brown": [(120, 72, 35), (150, 100, 60), (85, 52, 30), (105, 75, 55)],
    "beige": [(222, 200, 165), (200, 172, 135), (235, 215, 190)],
    "yellow": [(247, 230, 37), (240, 205, 40), (250, 240, 110)],
    "green": [(40, 158, 56), (60, 180, 75), (90, 150, 50), (120, 190, 90)],
    "dark green": [(20, 75, 35), (50, 70, 35), (30, 50, 25)],
    "turquoise": [(61, 204, 194), (40, 170, 165), (110, 215, 210)],
    "dark turquoise": [(15, 85, 90), (25, 60, 65)],
    "blue": [(43, 95, 217), (30, 70, 190), (65, 120, 230), (70, 110, 170)],
    "dark blue": [(20, 30, 95), (25, 45, 80), (12, 20, 50)],
    "light blue": [(150, 195, 235), (110, 165, 215), (175, 205, 225)],
    "purple": [(124, 52, 173), (100, 40, 150), (150, 75, 195), (110, 70, 130)],
    "dark purple": [(55, 20, 75), (60, 35, 65)],
    "pink": [(250, 130, 190), (240, 110, 175), (250, 170, 205), (215, 120, 150)],
}
_NEUTRAL = {
    "black": [(12, 12, 14), (34, 34, 36)],
    "dark grey": [(68, 68, 70)],
    "grey": [(115, 115, 118), (150, 150, 150)],
    "light grey": [(195, 195, 195)],
    "white": [(252, 252, 252), (228, 228, 228)],
}
# Linear sRGB to CIE XYZ, D65 (IEC 61966-2-1), each row divided by the white point.
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
) / np.array([[0.95047], [1.0], [1.08883]])
_LINEAR = np.array(
    [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.arange(256) / 255], np.float32
)


def lab_of(pixels: np.ndarray) -> np.ndarray:
    """sRGB bytes (..., 3) to CIELAB (..., 3), float32: lightness 0 to 100, green-red axis, blue-yellow axis."""
    xyz = _LINEAR[pixels] @ _TO_XYZ.T.astype(np.float32)
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


_NAMES = [name for table in (_CHROMATIC, _NEUTRAL) for name, tones in table.items() for _ in tones]
_PROTOTYPES = lab_of(
    np.array(
        [tone for table in (_CHROMATIC, _NEUTRAL) for tones in table.values() for tone in tones], np.uint8
    )
)


def _nearest(lab: np.ndarray) -> np.ndarray:
    """Index (n,) of the closest prototype for each row of ``lab`` (n, 3)."""
    # |x - p|² without |x|², because that term is the same for every prototype.
    return ((_PROTOTYPES**2).sum(axis=1) - 2 * lab @ _PROTOTYPES.T).argmin(axis=1)


def colour_shares(lab: np.ndarray) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """Shares of the chromatic and of the neutral colour names among the rows of ``lab`` (n, 3), largest first.

    Names with equal shares are in alphabetical order.
    """
    counts = np.bincount(_nearest(lab), minlength=len(_NAMES))
    shares: dict[str, float] = defaultdict(float)
    for name, count in zip(_NAMES, counts.tolist(), strict=True):
        shares[name] += count / len(lab)
    ordered = sorted(shares.items(), key=lambda entry: (-entry[1], entry[0]))
    return [e for e in ordered if e[0] in _CHROMATIC], [e for e in ordered if e[0] in _NEUTRAL]
