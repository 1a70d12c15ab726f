"""Image files as the data URLs that chat messages carry."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image, ImageOps


def data_url(path: Path, side: int) -> str | None:
    """The picture as a JPEG data URL, at most ``side`` pixels on its longer side; None if unreadable.

    Larger pictures are shrunk, smaller ones are not enlarged. Transparent parts become white.
    """
    try:
        with Image.open(path) as file:
            file.draft("RGB", (side, side))
            upright = ImageOps.exif_transpose(file).convert("RGBA")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        # Pillow reports a damaged file by any of these errors, SyntaxError included.
        return None
    upright.thumbnail((side, side))
    picture = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
