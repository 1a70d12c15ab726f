from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from PIL import Image
from tiny_classifier import save_classifier

from mllmrec.build_cot import pending, slow_captioners, without_captioning
from mllmrec.captions import Captioner, Joined, Palette, Precomputed, caption_items
from mllmrec.captions.classifier import Classifier
from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.data.base import Items
from mllmrec.errors import ConfigError, UserError
from mllmrec.reasoners.base import Estimate
from mllmrec.testing import check_captioner


class Says(Captioner):
    """The same words about each image, except about some; records what it was asked."""

    def __init__(self, words: str, silent: tuple[str, ...] = (), cost: Estimate | None = None) -> None:
        self.words, self.silent, self.cost = words, silent, cost
        self.asked: list[str] = []

    def identity(self):
        return {"captioner": "says", "words": self.words, "silent": list(self.silent)}

    def estimate(self, images):
        return self.cost

    def caption_images(self, images):
        for item, _ in images:
            self.asked.append(item)
            yield item, None if item in self.silent else self.words


@pytest.fixture
def items(tmp_path: Path) -> Items:
    """Items 1, 2, 3 with images, item 4 without."""
    images = {}
    for number in (1, 2, 3):
        images[str(number)] = tmp_path / f"{number}.png"
        Image.new("RGB", (8, 8), (80 * number, 0, 0)).save(images[str(number)])
    ids = np.array(list("1234"), dtype=object)
    return Items(ids, ids, np.full(4, "", object), images)


def test_captions_stand_in_the_order_of_the_parts(items: Items, tmp_path: Path) -> None:
    captioner = Joined({"b": Says("red", silent=("2", "3")), "a": Says("a bow", silent=("3",))}, " + ")
    captions, counts = caption_items(captioner, items, tmp_path / "cache")
    assert captions == {"1": "red + a bow", "2": "a bow"}
    assert counts == {
        "captioned": 2,
        "without: caption of any part": 2,
        "b: captioned": 1,
        "b: no_image": 1,
        "b: unreadable_image": 2,
        "a: captioned": 2,
        "a: no_image": 1,
        "a: unreadable_image": 1,
    }


def test_a_changed_part_makes_its_own_captions_anew_and_no_others(items: Items, tmp_path: Path) -> None:
    caption_items(Joined({"x": Says("red"), "y": Says("a bow")}), items, tmp_path / "cache")
    kept, changed = Says("red"), Says("a ship")
    captions, counts = caption_items(Joined({"x": kept, "y": changed}, ", "), items, tmp_path / "cache")
    assert (kept.asked, changed.asked) == ([], ["1", "2", "3"])
    assert captions["1"] == "red, a ship"
    assert counts["from_cache"] == 3
    # The captions of a part are those of the captioner alone.
    alone = Says("red")
    assert caption_items(alone, items, tmp_path / "cache")[0] == dict.fromkeys("123", "red")
    assert alone.asked == []


def test_captions_of_a_file_and_of_images_join(items: Items, tmp_path: Path) -> None:
    (tmp_path / "captions.json").write_text('{"1": "a lamp", "4": "a rug"}')
    captioner = Joined({"file": Precomputed(tmp_path / "captions.json"), "image": Says("red")})
    captions, counts = caption_items(captioner, items, tmp_path / "cache")
    assert captions == {"1": "a lamp. red", "2": "red", "3": "red", "4": "a rug"}
    assert (counts["captioned"], counts["file: no_caption"]) == (4, 2)


def test_without_a_cache_it_captions_like_any_captioner(items: Items) -> None:
    captioner = Joined({"b": Says("red", silent=("2",)), "a": Says("a bow", silent=("1", "2"))})
    assert dict(captioner.caption_images(items.images.items())) == {"1": "red", "2": None, "3": "red. a bow"}
    check_captioner(Joined({"one": Palette(), "two": Palette(max_colours=1)}))


def test_identity_and_costs_are_those_of_all_parts() -> None:
    parts = {"x": Says("red", cost=Estimate(2, 10, 20, 0.5)), "y": Says("a bow", cost=Estimate(2, 1, 2))}
    joined = Joined({**parts, "z": Palette()})
    assert joined.estimate(2) == Estimate(4, 11, 22, 0.5)
    assert Joined({"z": Palette()}).estimate(2) is None
    turned = Joined({"y": parts["y"], "x": parts["x"]})
    assert turned.identity() != Joined(parts).identity() != Joined(parts, ", ").identity()


def test_what_is_no_captioner_cannot_be_joined() -> None:
    with pytest.raises(UserError, match=r"parts\.x: it is no captioner"):
        Joined({"x": "palette"})  # type: ignore[dict-item]
    with pytest.raises(UserError, match="parts: there is none to join"):
        Joined({})


def composed(*overrides: str, root: str = "train"):
    result = compose_checked(root, ["caption=joined", *overrides], CONFIG_DIR)
    assert result.faults == []
    return result.config


def test_parts_are_chosen_added_and_left_out_on_the_command_line(tmp_path: Path) -> None:
    def kinds(*overrides: str) -> dict[str, type]:
        cfg = composed(*overrides)
        check_config(cfg)
        return {name: type(part) for name, part in instantiate(cfg.caption).parts.items()}

    (tmp_path / "captions.json").write_text('{"1": "a lamp"}')
    assert kinds() == {"palette": Palette, "classifier": Classifier}
    assert kinds("~caption.parts.classifier") == {"palette": Palette}
    added = ["+caption@caption.parts.file=precomputed", f"caption.parts.file.path={tmp_path}/captions.json"]
    assert kinds("~caption.parts.palette", *added) == {"classifier": Classifier, "file": Precomputed}
    assert kinds("caption@caption.parts.classifier=palette") == {"palette": Palette, "classifier": Palette}


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("caption.parts.classifier.words=0", "caption.parts.classifier: words=0: must be at least 1"),
        (
            "caption.parts.palette.max_colours=many",
            "caption.parts.palette.max_colours=many: must be a whole number",
        ),
        ("+caption.parts.palette.colours=3", "caption.parts.palette.colours: no such setting here"),
        ("caption@caption.parts.palette=precomputed", "caption.parts.palette.path is not set"),
        ("caption.parts=null", "caption: parts: must be captioners by name"),
        (
            "caption.parts.palette=vlm",
            "caption.parts.palette=vlm is no captioner: choose one with caption@caption.parts.palette=NAME",
        ),
        ("caption@caption.parts.palette=none", "caption.parts.palette is none, which makes no caption"),
    ],
)
def test_faults_of_parts_are_found_before_anything_is_loaded(override: str, fault: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_config(composed(override))
    assert [found.startswith(fault) for found in raised.value.faults] == [True]


def test_a_dry_run_counts_the_captions_of_slow_parts_and_makes_those_of_fast_ones(
    items: Items, tmp_path: Path
) -> None:
    model = save_classifier(tmp_path / "model")
    given = [f"caption.parts.classifier.path={model}", "caption.parts.classifier.words=1"]
    cfg = composed(*given, f"cache_dir={tmp_path / 'cache'}", root="build_cot")
    slow = slow_captioners(cfg)
    assert list(slow) == ["caption.parts.classifier"]

    def dry() -> tuple[dict[str, str], dict[str, int]]:
        captioner = instantiate(without_captioning(cfg, slow).caption)
        return caption_items(captioner, items, cfg.cache_dir)

    captions, counts = dry()
    assert pending(counts, "caption.parts.classifier") == 3
    # One class takes 13 tokens of four characters at most.
    assert captions["3"].startswith("red, ")
    assert captions["3"].endswith(". " + 52 * "x")
    caption_items(instantiate(cfg.caption), items, cfg.cache_dir)
    captions, counts = dry()
    assert pending(counts, "caption.parts.classifier") == 0
    # A red of 240/255: 16 ** (240/255) = 13.6, of 17.6 in all.
    assert captions["3"].endswith("Looks like a red apple (0.77)")
