"""EfficientNet-Lite0 with its real weights on real posters, where both are on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mllmrec.captions.classifier import Classifier

PROJECT = Path(__file__).resolve().parents[2]
MODELS = Path(os.environ.get("MLLMREC_MODELS", Path.home() / ".cache" / "mllmrec-models"))
WEIGHTS = MODELS / "efficientnet" / "efficientnet-lite0.pth"
POSTERS = PROJECT.parent / "shared" / "data" / "movielens_posters" / "posters"
NAMED = {456: "bow", 616: "knot", 643: "mask", 917: "comic book"}  # classes of ImageNet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    if not WEIGHTS.is_file():
        pytest.skip(
            f"no {WEIGHTS}; fetch it with shared/models/get_models.py, or set MLLMREC_MODELS to its folder"
        )
    if not POSTERS.is_dir():
        pytest.skip(f"no {POSTERS}")
    here = tmp_path_factory.mktemp("efficientnet")
    lines = [NAMED.get(number, f"class {number}") for number in range(1000)]
    (here / "labels.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    script = [sys.executable, "experiments/efficientnet_lite.py"]
    given = [f"weights={WEIGHTS}", f"out={here / 'model'}", f"labels={here / 'labels.txt'}"]
    done = subprocess.run([*script, *given], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return str(here / "model")


@pytest.mark.slow
def test_posters_are_recognised(folder: str) -> None:
    # Toy Story, Schindler's List, Robin Hood: Prince of Thieves, Evil Dead II.
    shown = {"1": "comic book", "527": "knot", "1027": "bow", "1261": "mask"}
    images = [(film, POSTERS / f"{film}.jpg") for film in shown]
    for film, caption in Classifier(folder, device="cpu").caption_images(images):
        assert caption is not None
        assert f" {shown[film]} (0." in caption
