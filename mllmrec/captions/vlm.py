"""A captioner that shows each image to a Hugging Face vision-language model on this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from mllmrec.captions.base import Captioner
from mllmrec.data.images import UNREADABLE_IMAGE
from mllmrec.data.text import collapse_spaces
from mllmrec.errors import UserError
from mllmrec.flat import flat_settings
from mllmrec.reasoners.base import Estimate, Request
from mllmrec.reasoners.hf import HfReasoner
from mllmrec.reasoners.hf_settings import LoadingSettings, WritingSettings


class Vlm(Captioner):
    """Captions by any image-text-to-text model with a chat template: greedy, on one line.

    ``prompt`` is the user's message beside the image. The other parameters belong to `HfReasoner`. If a model writes a
    thought first, the thought is not part of the caption. ``problems`` counts the reasons why readable images have no
    caption.

    Raises:
        UserError: a parameter has no meaning.
    """

    @flat_settings
    def __init__(
        self,
        path: str,
        prompt: str,
        max_new_tokens: int = 128,
        max_side: int = 0,
        loading: LoadingSettings = LoadingSettings(),
    ) -> None:
        if not prompt.strip():
            raise UserError("caption.prompt is empty: say what is to be described")
        self.prompt = prompt.strip()
        self.problems: Counter[str] = Counter()
        writing = WritingSettings(max_new_tokens, max_side=max_side)
        self.model = HfReasoner(path, True, loading, writing)

    def identity(self) -> dict[str, object]:
        """The prompt and what determines a text of the model. Batch size and device are not included."""
        return {"captioner": "vlm", "version": 1, "prompt": self.prompt, "model": self.model.identity()}

    def estimate(self, images: int) -> Estimate:
        """One request per image. Only the length of the answers is known; they cost time but no money."""
        return Estimate(images, 0, images * self.model.settings.writing.max_new_tokens)

    def caption_images(self, images: Iterable[tuple[str, Path | None]]) -> Iterator[tuple[str, str | None]]:
        """Yield each caption as it comes; None if the model could not see the image or said nothing.

        Raises:
            UserError: the model cannot be loaded.
        """
        # Only captioners that read no images get a path of None.
        requests = (
            Request(item, "", (), "", "", self.prompt, (path,)) for item, path in images if path is not None
        )
        for request, written in self.model.write(requests):
            if written.problem and written.problem != UNREADABLE_IMAGE:
                self.problems[written.problem] += 1
            yield request.sample_id, None if written.problem else collapse_spaces(written.text)
