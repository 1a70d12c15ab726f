"""Item images to text, offline. A new captioner is one module here and one file in ``conf/caption``."""

from mllmrec.captions.base import Captioner
from mllmrec.captions.cache import caption_items
from mllmrec.captions.joined import Joined
from mllmrec.captions.palette import Palette
from mllmrec.captions.precomputed import Precomputed

__all__ = ["Captioner", "Joined", "Palette", "Precomputed", "caption_items"]
