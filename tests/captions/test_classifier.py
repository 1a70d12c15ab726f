from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_classifier import save_classifier
from transformers import ResNetConfig, ResNetModel

from mllmrec.captions import caption_items
from mllmrec.captions.classifier import Classifier, NamingSettings, describe, with_article
from mllmrec.data.base import Items
from mllmrec.errors import UserError
from mllmrec.reasoners.base import Estimate
from mllmrec.reasoners.counting import tags_or_words, template_reasoning
from mllmrec.testing import check_captioner

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """One picture of each colour, of different sizes."""
    paths = {}
    for width, (name, colour) in enumerate(COLOURS.items(), start=20):
        paths[name] = tmp_path / f"{name}.png"
        Image.new("RGB", (width, 30), colour).save(paths[name])
    return paths


def captions(path: str, images: dict[str, Path | None], **settings: object) -> dict[str, str | None]:
    return dict(Classifier(path, device="cpu", **settings).caption_images(iter(images.items())))  # type: ignore[arg-type]


def test_captions_name_classes_with_their_confidences(model: str, images: dict[str, Path]) -> None:
    # 16/20 and 2/20; the other two classes have 1/20.
    assert captions(model, images, min_confidence=0.08) == {
        "red": "Looks like a red apple (0.80), an apron (0.10)",
        "green": "Looks like a green pea (0.80), an apron (0.10)",
        "blue": "Looks like blueberries (0.80), an apron (0.10)",
    }


@pytest.mark.parametrize(
    ("settings", "caption"),
    [
        ({"words": 1}, "Looks like a red apple (0.80)"),
        ({"words": 2, "decimals": 1}, "Looks like a red apple (0.8), an apron (0.1)"),
        ({"words": 2, "decimals": None}, "Looks like a red apple, an apron"),
        ({"words": 2, "sentence": False}, "red apple (0.80), apron (0.10)"),
        ({"min_confidence": 0.5}, "Looks like a red apple (0.80)"),
        ({"min_confidence": 0.9}, ""),
    ],
)
def test_settings_shape_the_caption(
    model: str, images: dict[str, Path], settings: dict[str, object], caption: str
) -> None:
    assert captions(model, {"red": images["red"]}, **settings) == {"red": caption}


def test_batches_caption_as_single_images_do_and_pass_over_unreadable_ones(
    model: str, images: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "torn.png").write_bytes(images["red"].read_bytes()[:40])
    given = {"torn": tmp_path / "torn.png", **images, "gone": tmp_path / "gone.png"}
    alone = captions(model, given, batch_size=1)
    assert captions(model, given, batch_size=3) == alone
    assert (alone["torn"], alone["gone"]) == (None, None)
    assert len(set(alone.values())) == 4


def test_a_picture_that_the_processor_refuses_costs_no_other_its_caption(
    model: str, images: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mllmrec.captions.image_model import ImageModel

    confidences = ImageModel.confidences

    def refusing(self: ImageModel, pictures: list[Image.Image]) -> object:
        if any(picture.getpixel((0, 0)) == COLOURS["green"] for picture in pictures):
            raise ValueError("no")
        return confidences(self, pictures)

    monkeypatch.setattr(ImageModel, "confidences", refusing)
    captioner = Classifier(model, words=1)
    found = dict(captioner.caption_images(iter(images.items())))
    assert found == {
        "red": "Looks like a red apple (0.80)",
        "green": None,
        "blue": "Looks like blueberries (0.80)",
    }
    assert captioner.problems == {"refused by the processor": 1}


def test_images_are_read_as_they_can_be_served(model: str, images: dict[str, Path]) -> None:
    read: list[int] = []

    def endless() -> Iterator[tuple[str, Path]]:
        while True:
            read.append(len(read))
            yield str(len(read)), images["red"]

    assert next(Classifier(model, batch_size=2).caption_images(endless()))[0] == "1"
    assert len(read) == 2


def test_an_image_without_a_confident_class_is_counted_and_not_read_again(
    model: str, images: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Red at half its brightness: ln 16 / 2 = ln 4, so the red apple has 4/8 and the apron 2/8.
    Image.new("RGB", (20, 20), (128, 0, 0)).save(images["green"])
    ids = np.array(list(images), dtype=object)
    items = Items(ids, ids, np.full(3, "", object), images)
    found = caption_items(Classifier(model, words=1, min_confidence=0.6), items, tmp_path / "cache")
    assert found == (
        {"red": "Looks like a red apple (0.80)", "blue": "Looks like blueberries (0.80)"},
        {"captioned": 2, "without: empty caption": 1},
    )

    def opened(self: Classifier, images: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(Classifier, "caption_images", opened)
    again = caption_items(Classifier(model, words=1, min_confidence=0.6), items, tmp_path / "cache")
    assert again == (found[0], {"captioned": 2, "without: empty caption": 1, "from_cache": 3})


def test_the_identity_holds_content_and_settings_and_nothing_else(model: str, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\nd\n")
    base = Classifier(model).identity()
    json.dumps(base)
    changes: tuple[dict[str, object], ...] = (
        {"labels": str(names)},
        {"words": 2},
        {"min_confidence": 0.1},
        {"decimals": None},
        {"sentence": False},
    )
    identities = [str(base), *(str(Classifier(model, **change).identity()) for change in changes)]  # type: ignore[arg-type]
    assert len(set(identities)) == len(identities)
    assert Classifier(model, batch_size=1, device="cpu").identity() == base
    copy = save_classifier(tmp_path / "copy")
    assert Classifier(copy).identity() == base
    weights = tmp_path / "copy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert Classifier(copy).identity() != base


def test_a_model_on_the_hub_is_identified_by_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def cached_file(path: str, name: str, revision: str) -> str:
        asked.append((path, name, revision))
        return str(tmp_path / "snapshots" / f"commit of {revision}" / name)

    monkeypatch.setattr("transformers.utils.cached_file", cached_file)
    assert Classifier("org/model").identity()["model"] == {"path": "org/model", "commit": "commit of main"}
    assert Classifier("org/model", revision="v2").identity()["model"] == {
        "path": "org/model",
        "commit": "commit of v2",
    }
    assert asked == [("org/model", "config.json", "main"), ("org/model", "config.json", "v2")]


def test_labels_from_a_file_replace_those_of_the_model(tmp_path: Path, images: dict[str, Path]) -> None:
    unnamed = save_classifier(tmp_path / "unnamed", labels=None)
    with pytest.raises(UserError, match=r"does not name its 4 classes: set labels to a file"):
        captions(unnamed, images)
    names = tmp_path / "names.txt"
    names.write_text("rose\nleaf\nsea\nnothing\n")
    assert captions(unnamed, images, labels=str(names), words=1)["blue"] == "Looks like a sea (0.80)"
    names.write_text("rose\nleaf\n")
    with pytest.raises(UserError, match=r"labels names 2 classes, and model .* has 4"):
        captions(unnamed, images, labels=str(names))


def broken(folder: Path) -> str:
    """A classifier whose weights were cut off."""
    save_classifier(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    return str(folder)


def headless(folder: Path) -> str:
    """A network that was not trained to classify."""
    save_classifier(folder)
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic")
    ResNetModel(config).save_pretrained(folder)
    return str(folder)


def with_code(folder: Path) -> str:
    """A checkpoint that needs code of its own."""
    folder.mkdir()
    (folder / "mine.py").write_text("raise SystemExit('run')")
    code = {"AutoConfig": "mine.Config", "AutoModelForImageClassification": "mine.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": code}))
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "ViTImageProcessor"})
    )
    return str(folder)


def of_timm(folder: Path) -> str:
    """A checkpoint in timm's layout."""
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps(
            {"architecture": "resnet18", "num_classes": 2, "pretrained_cfg": {}, "label_names": ["a", "b"]}
        )
    )
    save_file({"fc.bias": torch.zeros(2)}, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (broken, r"broken cannot be loaded: .*folder written by save_pretrained"),
        (headless, r"headless has no weights for classifier.* no trained classifier"),
        (with_code, r"with_code cannot be loaded: "),
        pytest.param(
            of_timm,
            r"of_timm needs a package that is not installed: .*timm",
            marks=pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed"),
        ),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_in_one_line(
    make, message: str, tmp_path: Path, images: dict[str, Path]
) -> None:
    captioner = Classifier(make(tmp_path / make.__name__))
    with pytest.raises(UserError, match=message) as raised:
        list(captioner.caption_images(iter(images.items())))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": 0}, "words=0: must be at least 1"),
        ({"min_confidence": 1.0}, "min_confidence=1.0: must be at least 0 and below 1"),
        ({"min_confidence": -0.1}, "min_confidence=-0.1"),
        ({"decimals": 0}, "decimals=0: must be 1 to 6, or null"),
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"device": "gpu"}, "device=gpu: must be auto, cpu or cuda"),
        ({"path": " "}, "path is empty"),
        ({"path": "/no/such/folder"}, "path=/no/such/folder: no such folder"),
        ({"path": "./none"}, "path=./none: no such folder"),
        ({"labels": "/no/names.txt"}, "missing file /no/names.txt: set labels"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_loaded(change: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        Classifier(**{"path": "org/model", **change})
    assert message in str(raised.value)


def test_weights_alone_are_no_model_and_an_empty_line_is_no_label(tmp_path: Path) -> None:
    (tmp_path / "network.pth").write_bytes(b"")
    with pytest.raises(UserError, match=r"has no config\.json; give one written by save_pretrained"):
        Classifier(str(tmp_path))
    (tmp_path / "names.txt").write_text("a\n\nb\n")
    with pytest.raises(UserError, match=r"names\.txt, line 2: is empty"):
        Classifier("org/model", labels=str(tmp_path / "names.txt"))


def test_names_that_occur_twice_are_told_once() -> None:
    seen = [("crane", 0.4), ("crane", 0.3), ("bow, bowknot", 0.2)]
    assert describe(seen, NamingSettings(words=2)) == "Looks like a crane (0.40), a bow (0.20)"


def test_articles() -> None:
    words = [
        "owl",
        "apron",
        "bow",
        "unicycle",
        "hourglass",
        "jeans",
        "abacus",
        "mantis",
        "glass",
        "Eurasian lynx",
    ]
    assert [with_article(word) for word in words] == [
        "an owl",
        "an apron",
        "a bow",
        "a unicycle",
        "an hourglass",
        "jeans",
        "an abacus",
        "a mantis",
        "a glass",
        "a Eurasian lynx",
    ]


def test_reasoning_from_captions_counts_what_was_seen_and_not_how_it_is_said() -> None:
    shown = ["Looks like a bow (0.52), a shield (0.11)", "Looks like a comic book (0.61), a bow (0.08)"]
    assert template_reasoning(shown, tags_or_words) == (
        "Signals: bow in 2 of 2. Preference: mostly bow. Look for: bow."
    )


def test_an_estimate_covers_the_longest_caption(model: str) -> None:
    captioner = Classifier(model, words=2)
    assert captioner.estimate(100) == Estimate(100, 0, 2300)
    check_captioner(captioner)
