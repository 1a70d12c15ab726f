"""The text about each item."""

from __future__ import annotations

from mllmrec.samples.prepared import Prepared


def item_texts(prepared: Prepared) -> list[str]:
    """Title, details and caption of each item, joined into one text."""
    items = prepared.items
    return [
        ". ".join(text for text in (title, details, prepared.captions.get(item, "")) if text)
        for item, title, details in zip(
            items.ids.tolist(), items.titles.tolist(), items.details.tolist(), strict=True
        )
    ]
