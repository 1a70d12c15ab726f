"""A captioner that names what an image classifier sees, with its confidence. It needs no vision-language model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from PIL import Image

from mllmrec.captions.base import Captioner
from mllmrec.captions.image_model import ImageModel, model_content
from mllmrec.data.text import collapse_spaces, require_files
from mllmrec.errors import UserError, choices
from mllmrec.flat import flat_settings
from mllmrec.reasoners.base import Estimate
from mllmrec.reasoners.hf_model import read_picture

_DEVICES = ("auto", "cpu", "cuda")
_TOKENS_PER_WORD = 10  # at most, with the confidence
_AN = re.compile(r"(?!uni|use|eu)[aeiou]|hour", re.IGNORECASE)
_PLURAL = re.compile(r".*[^sui]s", re.IGNORECASE)


@dataclass(frozen=True)
class NamingSettings:
    """Which classes a caption names, and how.

    Args:
        words: most classes named.
        min_confidence: classes with less are not named.
        decimals: of the confidences; None leaves confidences out.
        sentence: ``Looks like a bow (0.52), a shield (0.11)``; if False, ``bow (0.52), shield (0.11)``.

    Raises:
        UserError: a value has no meaning.
    """

    words: int = 3
    min_confidence: float = 0.05
    decimals: int | None = 2
    sentence: bool = True

    def __post_init__(self) -> None:
        if self.words < 1:
            raise UserError(f"words={self.words}: must be at least 1")
        if not 0 <= self.min_confidence < 1:
            raise UserError(f"min_confidence={self.min_confidence}: must be at least 0 and below 1")
        if self.decimals is not None and not 1 <= self.decimals <= 6:
            raise UserError(
                f"decimals={self.decimals}: must be 1 to 6, or null for captions without confidences"
            )


@dataclass(frozen=True)
class RunningSettings:
    """Which weights are loaded, and how they run.

    Args:
        revision: branch, tag or commit on the hub; None: main.
        batch_size: images at once.
        device: ``cpu``, ``cuda``, or ``auto``: the GPU if there is one.

    Raises:
        UserError: a value has no meaning.
    """

    revision: str | None = None
    batch_size: int = 32
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size={self.batch_size}: must be at least 1")
        if self.device not in _DEVICES:
            raise UserError(f"device={self.device}: must be {choices(_DEVICES)}")


class Classifier(Captioner):
    """Captions such as ``Looks like a comic book (0.61), a toyshop (0.08)``, by any classifier that transformers opens.

    The caption is empty if no class has ``min_confidence``. Of names such as ``tench, Tinca tinca`` the first is used.
    ``problems`` counts the readable images that the model's processor refused. Code that comes with a checkpoint is
    never run.

    Args:
        path: hub name, or folder written by ``save_pretrained``. The model is loaded for the first image.
        labels: file with the name of one class on each line, in the order of the model's outputs; None: the model's own.

    Raises:
        UserError: a parameter has no meaning, or names a folder or file that cannot be one.
    """

    @flat_settings
    def __init__(
        self,
        path: str,
        labels: str | None = None,
        naming: NamingSettings = NamingSettings(),
        running: RunningSettings = RunningSettings(),
    ) -> None:
        self.path, self.naming, self.running = path, naming, running
        self.problems: Counter[str] = Counter()
        _require_model(path)
        self.labels = None if labels is None else _read_labels(Path(labels).expanduser())

    def identity(self) -> dict[str, object]:
        """The model's content and everything that words a caption. Batch size and device are not included.

        Raises:
            UserError: the commit of a model on the hub cannot be found out.
        """
        return {
            "captioner": "classifier",
            "version": 1,
            "model": model_content(self.path, self.running.revision),
            "labels": self.labels,
            **asdict(self.naming),
        }

    def estimate(self, images: int) -> Estimate:
        """One image each, and the longest caption; they cost time but no money."""
        return Estimate(images, 0, images * (3 + _TOKENS_PER_WORD * self.naming.words))

    def caption_images(self, images: Iterable[tuple[str, Path | None]]) -> Iterator[tuple[str, str | None]]:
        """Yield captions batch by batch; None if the image cannot be read or the processor refuses it.

        Raises:
            UserError: the model cannot be loaded.
        """
        stream = iter(images)
        model = None
        while batch := list(islice(stream, self.running.batch_size)):
            pictures = {item: None if path is None else read_picture(path) for item, path in batch}
            readable = {item: picture for item, picture in pictures.items() if picture is not None}
            yield from ((item, None) for item in pictures if item not in readable)
            if readable:
                model = model or ImageModel(
                    self.path, self.running.revision, self.running.device, self.labels
                )
                yield from self._captions(model, readable)

    def _captions(
        self, model: ImageModel, pictures: dict[str, Image.Image]
    ) -> Iterator[tuple[str, str | None]]:
        try:
            confidences = model.confidences(list(pictures.values()))
        except ValueError:
            # One picture that is refused, such as a line one pixel high, must not cost the others their captions.
            if len(pictures) > 1:
                for item, picture in pictures.items():
                    yield from self._captions(model, {item: picture})
                return
            self.problems["refused by the processor"] += 1
            yield from ((item, None) for item in pictures)
            return
        most = min(2 * self.naming.words, len(model.labels))  # some names may occur twice
        values, classes = confidences.topk(most)
        for item, shares, numbers in zip(pictures, values.tolist(), classes.tolist(), strict=True):
            names = [model.labels[number] for number in numbers]
            yield item, describe(list(zip(names, shares, strict=True)), self.naming)


def describe(seen: Sequence[tuple[str, float]], naming: NamingSettings) -> str:
    """The caption for names of classes and their confidences, the most confident first; "" if none is confident enough.

    >>> describe([("comic book", 0.61), ("toyshop", 0.08), ("mask", 0.01)], NamingSettings())
    'Looks like a comic book (0.61), a toyshop (0.08)'
    """
    confident: dict[str, float] = {}
    for name, share in seen:
        if share >= naming.min_confidence:
            confident.setdefault(collapse_spaces(name.split(",")[0].replace("_", " ")), share)
    told = [
        (with_article(word) if naming.sentence else word)
        + ("" if naming.decimals is None else f" ({share:.{naming.decimals}f})")
        for word, share in islice(confident.items(), naming.words)
    ]
    return ("Looks like " if told and naming.sentence else "") + ", ".join(told)


def with_article(word: str) -> str:
    """A noun with its indefinite article; a plural has none.

    >>> with_article("comic book"), with_article("apron"), with_article("unicycle"), with_article("sunglasses")
    ('a comic book', 'an apron', 'a unicycle', 'sunglasses')
    """
    if _PLURAL.fullmatch(word):
        return word
    return f"{'an' if _AN.match(word) else 'a'} {word}"


def _require_model(path: str) -> None:
    """Raise if ``path`` is on this machine and cannot be a model's folder."""
    place = Path(path).expanduser()
    if not path.strip():
        raise UserError("path is empty: give a hub name or a folder written by save_pretrained")
    if place.is_dir() and not (place / "config.json").is_file():
        raise UserError(
            f"path={path}: this folder has no config.json; give one written by save_pretrained (weights alone do "
            "not say what network they belong to)"
        )
    if place.is_file() or (not place.exists() and (place.is_absolute() or path.startswith((".", "~")))):
        raise UserError(f"path={path}: no such folder; give one written by save_pretrained, or a hub name")


def _read_labels(file: Path) -> list[str]:
    require_files([file], "set labels to a file with the name of one class on each line")
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    if "" in names:
        raise UserError(f"{file}, line {names.index('') + 1}: is empty; each line names a class")
    return names
