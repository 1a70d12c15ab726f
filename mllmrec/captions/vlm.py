"""A captioner that shows each image to a Hugging Face vision-language model on this machine."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from mllmrec.captions.base import Captioner
from mllmrec.data.text import collapse_spaces
from mllmrec.errors import UserError
from mllmrec.reasoners.base import Request
from mllmrec.reasoners.hf import HfReasoner

log = logging.getLogger(__name__)


class Vlm(Captioner):
    """What any image-text-to-text model with a chat template says of an image, greedily, on one line.

    ``prompt`` is the user's message beside the image. The other parameters are those of `HfReasoner`; a thought
    that a model writes first is no part of the caption.

    Raises:
        UserError: a parameter has no meaning.
    """

    def __init__(
        self,
        path: str,
        prompt: str,
        revision: str | None = None,
        dtype: str = "bfloat16",
        device: str = "auto",
        attn_implementation: str = "sdpa",
        batch_size: int = 8,
        max_new_tokens: int = 128,
        max_side: int = 0,
    ) -> None:
        if not prompt.strip():
            raise UserError("caption.prompt is empty: say what is to be described")
        self.prompt = prompt.strip()
        self.model = HfReasoner(
            path,
            sees_images=True,
            revision=revision,
            dtype=dtype,
            device=device,
            attn_implementation=attn_implementation,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            max_side=max_side,
        )

    def identity(self) -> dict[str, object]:
        """The prompt and what determines a text of the model; not the batch size, nor the device."""
        return {"captioner": "vlm", "version": 1, "prompt": self.prompt, "model": self.model.identity()}

    def caption_images(self, images: Iterable[tuple[str, Path | None]]) -> Iterator[tuple[str, str | None]]:
        """Caption each image; None, and a count in the log, where the model could not see it or said nothing.

        Raises:
            UserError: the model cannot be loaded.
        """
        waiting: deque[str] = deque()
        done: dict[str, str | None] = {}
        problems: Counter[str] = Counter()

        def requests() -> Iterator[Request]:
            for item, path in images:
                waiting.append(item)
                if path is None:
                    done[item] = None
                else:
                    yield Request(item, "", (), "", "", self.prompt, (path,))

        def settled() -> Iterator[tuple[str, str | None]]:
            while waiting and waiting[0] in done:
                item = waiting.popleft()
                yield item, done.pop(item)

        for request, written in self.model.write(requests()):
            done[request.sample_id] = None if written.problem else collapse_spaces(written.text)
            problems[written.problem] += 1
            yield from settled()
        yield from settled()
        for problem, count in problems.items():
            if problem:
                log.warning("%d images without a caption: %s", count, problem)
