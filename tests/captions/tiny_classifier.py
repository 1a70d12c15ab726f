"""A network of three weights that sees whether a picture is red, green or blue, saved like a hub checkpoint."""

from __future__ import annotations

import json
from math import log
from pathlib import Path

import torch
from transformers import ResNetConfig, ResNetForImageClassification

LABELS = ["red apple, Malus domestica", "green_pea", "blueberries", "apron"]


def save_classifier(folder: Path, labels: list[str] | None = LABELS) -> str:
    """Logits ln 16 for the class of a pure red, green or blue picture, ln 2 for ``apron``, 0 for the others.

    So a red picture is a red apple with 16/20, an apron with 2/20, a green pea and blueberries with 1/20 each.
    """
    names = {} if labels is None else {"id2label": dict(enumerate(labels))}
    config = ResNetConfig(
        embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", **(names or {"num_labels": 4})
    )
    model = ResNetForImageClassification(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # The norms stay as they are. Residual layers add nothing, so the brightest values of each colour pass through.
            if "normalization" not in name:
                weight.zero_()
        for colour in range(3):
            model.resnet.embedder.embedder.convolution.weight[colour, colour, 3, 3] = 1.0
            model.classifier[1].weight[colour, colour] = log(16)
        model.classifier[1].bias[3] = log(2)
    model.save_pretrained(folder)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 16, "width": 16},
        "do_normalize": False,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return str(folder)
