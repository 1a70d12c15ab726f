from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from tiny_models import VISION_MODELS, save_speaker, save_text_model, video_processors

from mllmrec.reasoners.base import Request


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session", params=sorted(VISION_MODELS))
def vision_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with video_processors():
        yield VISION_MODELS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture
def speaker(tmp_path: Path) -> Callable[..., str]:
    """Saves a model that says the given words."""
    return lambda *words, **settings: save_speaker(tmp_path / "speaker", words, **settings)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four images of different sizes and colours."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for width, height, colour in ((16, 16, "red"), (40, 20, "blue"), (20, 64, "green"), (33, 33, "white")):
        picture = Image.new("RGB", (width, height), colour)
        ImageDraw.Draw(picture).line((0, 0, width, height), fill="black", width=3)
        paths.append(folder / f"{colour}.png")
        picture.save(paths[-1])
    return paths


@pytest.fixture
def ask() -> Callable[..., Request]:
    def make(
        sample_id: str, message: str, images: tuple[Path, ...] | list[Path] = (), system: str = ""
    ) -> Request:
        return Request(sample_id, "u", (), "", system, message, tuple(images))

    return make
