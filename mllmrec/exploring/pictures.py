"""Item images as small pictures."""

from __future__ import annotations

import io
import warnings
from functools import lru_cache
from pathlib import Path

from PIL import Image

from mllmrec.errors import UserError

SIZE = (
    192  # pixels of the longer side; pages show up to half of it, and screens may have two for each of theirs
)
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_PIXELS = 40_000_000  # of a picture that is opened


@lru_cache(maxsize=1024)
def thumbnail(path: Path) -> bytes:
    """A picture as PNG, drawn anew: nothing of the file itself reaches the browser.

    Raises:
        UserError: the file is no picture, or too large a one.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's about sizes
            with Image.open(path, formats=_FORMATS) as image:
                if image.width * image.height > _PIXELS:
                    raise UserError(f"{path} has {image.width} × {image.height} pixels: too many to show")
                image.draft("RGB", (SIZE, SIZE))
                image.thumbnail((SIZE, SIZE))
                drawn = image.convert(
                    "RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB"
                )
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be shown: {error}") from error
    stream = io.BytesIO()
    drawn.save(stream, "PNG")
    return stream.getvalue()
