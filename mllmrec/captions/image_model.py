"""An image-classification model of transformers in memory: pictures in, a confidence for each class out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from mllmrec.cache import files_fingerprint
from mllmrec.data.text import collapse_spaces
from mllmrec.errors import UserError
from mllmrec.screen.transformers_output import without_bars

_UNNAMED = re.compile(r"LABEL_\d+")  # what transformers calls a class without a name


class ImageModel:
    """A classifier. Making an instance loads the weights.

    ``labels`` are the names of its C classes, in the order of its outputs.

    Args:
        path: hub name or local folder.
        revision: branch, tag or commit on the hub; None: main.
        device: ``cpu``, ``cuda``, or ``auto``: the GPU if there is one.
        labels: names of the classes; None: the model's own.

    Raises:
        UserError: the model cannot be loaded, has no trained classes, or the names do not fit.
    """

    def __init__(
        self, path: str, revision: str | None, device: str, labels: Sequence[str] | None = None
    ) -> None:
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        self.path = path
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("device=cuda: torch finds no GPU here; set device=cpu or auto")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        # With trust_remote_code=None transformers would ask at the terminal whether to run a checkpoint's code.
        source = {"revision": revision or "main", "trust_remote_code": False}
        place = str(Path(path).expanduser())
        try:
            # The model comes first, because its message names a missing package.
            with without_bars(place):
                model, loading = AutoModelForImageClassification.from_pretrained(
                    place, **source, dtype=torch.float32, output_loading_info=True
                )
            self.processor = AutoImageProcessor.from_pretrained(place, **source)
        except ImportError as error:
            raise UserError(
                f"model {path} needs a package that is not installed: {collapse_spaces(str(error))}"
            ) from error
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, UnpicklingError) as error:
            raise UserError(_cannot_load(path, error)) from error
        if missing := sorted(loading["missing_keys"]):
            raise UserError(
                f"model {path} has no weights for {missing[0]}: it is no trained classifier; choose a model for "
                "image classification"
            )
        self.model = model.to(device).eval()
        self.labels = _labels_of(path, model.config, labels)

    def confidences(self, pictures: Sequence[Image.Image]) -> Tensor:
        """The confidence (B, C) in each class for each of B pictures: probabilities, on the CPU.

        Raises:
            ValueError: the processor refuses a picture.
            UserError: the batch does not fit into memory, or the model computes no numbers.
        """
        inputs = self.processor(images=list(pictures), return_tensors="pt").to(self.model.device)
        try:
            with torch.inference_mode():
                logits = self.model(**inputs).logits.float()
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(f"out of memory on {len(pictures)} images at once: lower batch_size") from error
        if not torch.isfinite(logits).all():
            raise UserError(
                f"model {self.path} computes values that are no numbers, so its weights are broken: fetch it again, or "
                "choose another"
            )
        if self.model.config.problem_type == "multi_label_classification":
            return logits.sigmoid().cpu()
        return logits.softmax(dim=-1).cpu()


def model_content(path: str, revision: str | None) -> dict[str, object]:
    """What tells one model's content from another's: a folder's files, or a commit on the hub.

    Raises:
        UserError: the hub cannot be reached, and the model is not on this machine.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        files = {file.name: file for file in folder.iterdir() if file.is_file()}
        return {"files": files_fingerprint(files)}
    from transformers.utils import cached_file

    try:
        # This file is small. It is kept in a folder that is named after the commit.
        config = cached_file(path, "config.json", revision=revision or "main")
    except (OSError, ValueError) as error:
        raise UserError(_cannot_load(path, error)) from error
    return {"path": path, "commit": Path(str(config)).parent.name}


def _cannot_load(path: str, error: Exception) -> str:
    first = str(error).strip().partition("\n")[0]
    return (
        f"model {path} cannot be loaded: {first} (give the hub name of an image-classification model that this "
        "machine can reach, or a folder written by save_pretrained)"
    )


def _labels_of(path: str, config: object, given: Sequence[str] | None) -> list[str]:
    names: dict[int, str] = getattr(config, "id2label", None) or {}
    own = [names[number] for number in sorted(names)]
    if given is not None:
        if len(given) != len(own):
            raise UserError(
                f"labels names {len(given)} classes, and model {path} has {len(own)}: give a "
                "file with one line for each class, in the order of the model's outputs"
            )
        return list(given)
    if all(_UNNAMED.fullmatch(name) for name in own):
        raise UserError(
            f"model {path} does not name its {len(own)} classes: set labels to a file with one line for "
            "each class, in the order of the model's outputs"
        )
    return own
