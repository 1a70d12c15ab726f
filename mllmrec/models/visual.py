"""A policy that sees item images: Qwen3-VL's visual tokens replace the item marks of prompts.

The policy writes an image token of item ``i`` as the id ``V + i``, where V is the size of the model's vocabulary. So a batch
of prompts remains plain ids, and the ids tell the model which images to show and where.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration
from transformers.modeling_outputs import CausalLMOutputWithPast

from mllmrec.data.base import Items
from mllmrec.errors import UserError
from mllmrec.models.policy import Policy
from mllmrec.prompts.markup import ITEM_MARK, label_item
from mllmrec.reasoners.hf_model import read_picture

# Patches kept in memory: all images of a small catalogue, or the latest ones of a large catalogue.
_KEPT_BYTES = 1 << 28


class Pictures:
    """The items' images, cut into patches by the image processor; each is read at its first use."""

    def __init__(self, processor: Any) -> None:
        """Hold no images yet.

        Args:
            processor: Qwen's image processor.
        """
        self.processor = processor
        self._paths: list[Path | None] = []
        self._tokens: dict[int, int] = {}
        self._kept: OrderedDict[int, tuple[Tensor, Tensor]] = OrderedDict()
        self._bytes = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Pictures:
        """Share the images: a copy of a model sees the same ones."""
        return self

    def assign(self, paths: Sequence[Path | None]) -> None:
        """Take the image file of every item; None for an item without one."""
        self._paths = list(paths)
        self._tokens.clear()
        self._kept.clear()
        self._bytes = 0

    def tokens(self, item: int) -> int:
        """The number of tokens that an item's image takes.

        Raises:
            UserError: the image is missing or cannot be read.
        """
        if item not in self._tokens:
            self._patches(item)
        return self._tokens[item]

    def of(self, items: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Patches of the items' images in a row, (patches, numbers in a patch), and their grids (items, 3).

        Raises:
            UserError: an image is missing or cannot be read.
        """
        pixels, grids = zip(*map(self._patches, items), strict=True)
        return torch.cat(pixels), torch.cat(grids)

    def _patches(self, item: int) -> tuple[Tensor, Tensor]:
        if item in self._kept:
            self._kept.move_to_end(item)
            return self._kept[item]
        path = self._paths[item]
        picture = None if path is None else read_picture(path)
        if picture is None:
            raise UserError(f"the image of an item in a prompt cannot be read: {path}")
        made = self.processor(images=[picture], return_tensors="pt")
        pixels, grid = made["pixel_values"], made["image_grid_thw"]
        self._tokens[item] = int(grid.prod()) // self.processor.merge_size**2
        self._kept[item] = pixels, grid
        self._bytes += pixels.nbytes
        while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
            _, (oldest, _) = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes
        return pixels, grid


class SeeingQwen3VL(Qwen3VLForConditionalGeneration):
    """Qwen3-VL that takes a policy's ids: ids from V on stand for images. A call encodes each image once."""

    pictures: Pictures

    @property
    def first_image_id(self) -> int:
        """V: ids from here on stand for images."""
        config: Any = self.config.get_text_config()
        return int(config.vocab_size)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of the last tokens.

        Args:
            input_ids: (B, L).
            attention_mask: (B, L), or longer where keys and values of earlier tokens are cached.
            position_ids: as `token_positions` gives them; None computes them here, for a call without cached tokens.
            logits_to_keep: the number of last tokens that need logits; 0 for all.
            kwargs: passed to the decoder.
        """
        if position_ids is None:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            position_ids = self.token_positions(input_ids, mask.bool())
        given = {name: value for name, value in kwargs.items() if value is not None}
        outputs = self.get_decoder()(
            **self.decoder_inputs(input_ids),
            attention_mask=attention_mask,
            position_ids=position_ids,
            **given,
        )
        logits = self.lm_head(outputs.last_hidden_state[:, -logits_to_keep:])
        # The caller's cache already holds keys and values.
        return CausalLMOutputWithPast(logits=logits)

    def token_positions(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, L) ids and their mask → (3, B, L) positions in time, height and width."""
        items = self._images_in(ids)
        if not items:
            return (mask.long().cumsum(1) - 1).clamp_min(0).expand(3, -1, -1)
        grids = self.pictures.of(sorted(set(items)))[1]
        place = {item: row for row, item in enumerate(sorted(set(items)))}
        positions, _ = self.model.get_rope_index(
            ids,
            (ids >= self.first_image_id).long(),
            image_grid_thw=grids[[place[item] for item in items]],
            attention_mask=mask,
        )
        return positions

    def decoder_inputs(self, ids: Tensor) -> dict[str, Any]:
        """The decoder's inputs for (B, L) ids: the ids, or embeddings and the images' additions to deeper layers."""
        items = self._images_in(ids)
        if not items:
            return {"input_ids": ids}
        seen = ids >= self.first_image_id
        distinct = sorted(set(items))
        pixels, grids = self.pictures.of(distinct)
        features = self.model.get_image_features(pixels.to(ids.device), grids.to(ids.device))
        place = {item: row for row, item in enumerate(distinct)}
        rows = [place[item] for item in items]
        embeddings = self.get_input_embeddings()(ids.masked_fill(seen, self.config.image_token_id))
        visual = torch.cat([features.pooler_output[row] for row in rows]).to(embeddings.dtype)
        return {
            "inputs_embeds": embeddings.masked_scatter(seen[..., None], visual),
            "visual_pos_masks": seen,
            "deepstack_visual_embeds": [
                torch.cat([layer[row] for row in rows]) for layer in features.deepstack_features
            ],
        }

    def _images_in(self, ids: Tensor) -> list[int]:
        """The item of every image, in order; there is always text between two images."""
        before = torch.nn.functional.pad(ids[:, :-1], (1, 0), value=-1)
        begins = (ids >= self.first_image_id) & (ids != before)
        return (ids[begins] - self.first_image_id).tolist()


class VisualPolicy(Policy):
    """A policy whose item marks become visual tokens."""

    def __init__(self, model: SeeingQwen3VL, tokenizer: Any, pictures: Pictures, **settings: Any) -> None:
        """Wrap a model.

        Args:
            model: a model that sees images.
            tokenizer: a tokenizer with Qwen's vision tokens.
            pictures: the items' images; `meet_items` fills them in.
            settings: see `Policy`.
        """
        super().__init__(model, tokenizer, **settings)
        model.pictures = self.pictures = pictures
        config = model.config
        self._vocabulary = model.first_image_id
        self._image_token: int = config.image_token_id
        ids = [config.vision_start_token_id, config.image_token_id, config.vision_end_token_id]
        self._image = "".join(tokenizer.convert_ids_to_tokens(ids))
        self._item_of: dict[str, int] = {}

    def meet_items(self, items: Items) -> None:
        """Take the items' images; each is read when a prompt first shows it."""
        ids = items.ids.tolist()
        self._item_of = {item_id: item for item, item_id in enumerate(ids)}
        self.pictures.assign([items.images.get(item_id) for item_id in ids])

    def most_tokens(self, prompt: str) -> int:
        """An upper bound on a prompt's tokens."""
        text = self.render(prompt)
        shown = sum(self.pictures.tokens(item) + 2 for item in self._marked(text))
        return len(ITEM_MARK.sub("", text).encode()) + shown

    def save_reader(self, folder: Path) -> None:
        """Save the tokenizer and the image processor's settings."""
        super().save_reader(folder)
        self.pictures.processor.save_pretrained(folder)

    def encode_rendered(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts from `render`, or of parts of such texts; marks become image tokens."""
        rows = super().encode_rendered([ITEM_MARK.sub(self._image, text) for text in texts])
        return [self._with_images(row, self._marked(text)) for row, text in zip(rows, texts, strict=True)]

    def _marked(self, text: str) -> list[int]:
        return [self._item_of[label_item(encoded)] for encoded in ITEM_MARK.findall(text)]

    def _with_images(self, row: Sequence[int], items: Sequence[int]) -> list[int]:
        """The row with each image token repeated to the length of its image, as ids of the image's item."""
        shown = iter(items)
        result: list[int] = []
        for token in row:
            if token == self._image_token:
                item = next(shown)
                result += [self._vocabulary + item] * self.pictures.tokens(item)
            else:
                result.append(token)
        return result
