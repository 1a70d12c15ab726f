from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from mllmrec.captions.vlm import Vlm
from mllmrec.data.text import collapse_spaces
from mllmrec.errors import UserError
from mllmrec.reasoners.base import Estimate, Request
from mllmrec.reasoners.hf import HfReasoner

sys.path.append(str(Path(__file__).parents[1] / "reasoners"))
from tiny_models import VISION_MODELS, video_processors

PLAIN = {"path": "org/model", "prompt": "Describe it."}


@pytest.fixture(scope="module", params=sorted(VISION_MODELS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with video_processors():
        yield VISION_MODELS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """Five images of different sizes and colours by item id."""
    paths = {}
    sizes = ((16, 16), (40, 20), (20, 64), (33, 33), (24, 16))
    for (width, height), colour in zip(sizes, ("red", "blue", "green", "white", "black"), strict=True):
        picture = Image.new("RGB", (width, height), colour)
        ImageDraw.Draw(picture).line((0, 0, width, height), fill="orange", width=3)
        paths[colour] = tmp_path / f"{colour}.png"
        picture.save(paths[colour])
    return paths


def vlm(path: str, **settings: object) -> Vlm:
    given = {"prompt": "star lamp", "dtype": "float32", "device": "cpu", "max_new_tokens": 10, **settings}
    return Vlm(path, **given)  # type: ignore[arg-type]


def test_batches_caption_as_single_images_do(model: str, images: dict[str, Path]) -> None:
    alone = dict(vlm(model, batch_size=1).caption_images(iter(images.items())))
    assert set(alone) == set(images)
    assert len(set(alone.values())) == 5
    for order in (list(images), list(images)[::-1]):
        batched = list(vlm(model, batch_size=3).caption_images((item, images[item]) for item in order))
        assert sorted(batched) == sorted(alone.items())


def test_a_caption_is_what_the_model_answers_to_prompt_and_image(model: str, images: dict[str, Path]) -> None:
    settings = {"dtype": "float32", "device": "cpu", "max_new_tokens": 10, "max_side": 12}
    request = Request("1", "", (), "", "", "star lamp", (images["green"],))
    ((_, written),) = HfReasoner(model, sees_images=True, **settings).write([request])
    assert dict(vlm(model, max_side=12).caption_images([("x", images["green"])])) == {
        "x": collapse_spaces(written.text)
    }


def test_prompt_length_and_size_reach_the_model(model: str, images: dict[str, Path]) -> None:
    def caption(**settings: object) -> str | None:
        return dict(vlm(model, **settings).caption_images([("x", images["green"])]))["x"]

    assert len({caption(), caption(prompt="red"), caption(max_new_tokens=3), caption(max_side=8)}) == 4


def test_unreadable_images_have_no_caption_and_the_others_of_the_batch_do(
    model: str, images: dict[str, Path], tmp_path: Path
) -> None:
    good = dict(vlm(model).caption_images(iter(images.items())))
    (tmp_path / "torn.png").write_bytes(images["red"].read_bytes()[:40])
    (tmp_path / "text.png").write_text("no image")
    broken: dict[str, Path | None] = {name: tmp_path / f"{name}.png" for name in ("torn", "gone", "text")}
    captioner = vlm(model, batch_size=4)
    captions = dict(captioner.caption_images(iter((broken | images).items())))
    assert captions == {**dict.fromkeys(broken), **good}
    # The caller counts these as unreadable; there is nothing to add.
    assert captioner.problems == {}


def test_why_a_model_that_sees_an_image_wrote_nothing_is_counted(model: str, images: dict[str, Path]) -> None:
    # Far more text than the model has positions for.
    captioner = vlm(model, prompt="star lamp " * 5000)
    assert dict(captioner.caption_images(iter(images.items()))) == dict.fromkeys(images)
    assert captioner.problems == {"prompt too long": 5}


def test_images_are_read_as_they_can_be_served(model: str, images: dict[str, Path]) -> None:
    read: list[int] = []

    def endless() -> Iterator[tuple[str, Path]]:
        while True:
            read.append(len(read))
            yield str(len(read)), images["red"]

    captions = vlm(model, batch_size=1, max_new_tokens=1).caption_images(endless())
    assert next(captions)[0] == "1"
    assert len(read) < 20


def test_nothing_is_loaded_before_the_first_image(tmp_path: Path, images: dict[str, Path]) -> None:
    missing = vlm(str(tmp_path / "none"))
    missing.identity()
    assert list(missing.caption_images([])) == []
    with pytest.raises(UserError, match=r"none cannot be loaded: .*save_pretrained"):
        list(missing.caption_images(iter(images.items())))


def test_the_identity_holds_what_determines_a_caption_and_nothing_else() -> None:
    base = Vlm(**PLAIN).identity()
    changes: tuple[dict[str, object], ...] = (
        {"path": "org/other"},
        {"prompt": "Name it."},
        {"revision": "v2"},
        {"dtype": "float32"},
        {"max_new_tokens": 64},
        {"max_side": 512},
    )
    identities = [str(base), *(str(Vlm(**{**PLAIN, **change}).identity()) for change in changes)]
    assert len(set(identities)) == len(identities)
    same: tuple[dict[str, object], ...] = (
        {"batch_size": 64},
        {"device": "cpu"},
        {"attn_implementation": "eager"},
        {"revision": "main"},
        {"prompt": "Describe it.\n"},
    )
    for change in same:
        assert Vlm(**{**PLAIN, **change}).identity() == base


def test_an_estimate_counts_requests_and_the_longest_answers() -> None:
    assert Vlm(**PLAIN, max_new_tokens=100).estimate(7) == Estimate(7, 0, 700)


@pytest.mark.parametrize("change", [{"prompt": " "}, {"batch_size": 0}, {"max_side": -1}, {"dtype": "int8"}])
def test_parameters_without_meaning_are_refused_at_once(change: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(change))):
        Vlm(**{**PLAIN, **change})
