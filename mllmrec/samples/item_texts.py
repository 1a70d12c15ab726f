"""The text about each item."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from mllmrec.samples.prepared import Prepared
from mllmrec.text_encoders.described import DescribedItems


def item_texts(prepared: Prepared) -> list[str]:
    """Title, details and caption of each item, joined into one text."""
    items = prepared.items
    return [
        ". ".join(text for text in (title, details, prepared.captions.get(item, "")) if text)
        for item, title, details in zip(
            items.ids.tolist(), items.titles.tolist(), items.details.tolist(), strict=True
        )
    ]


def described_items(cfg: DictConfig, prepared: Prepared) -> DescribedItems:
    """The items with their texts, under the ids that prompts show."""
    return DescribedItems(prepared.builder.ids, item_texts(prepared), cfg.seed, Path(cfg.cache_dir))
