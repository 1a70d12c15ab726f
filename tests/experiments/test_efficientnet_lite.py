from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "experiments"))
import efficientnet_lite


@pytest.mark.parametrize(
    ("labels", "weights", "message"),
    [
        (3, {}, "3 labels, but there are 1000 classes"),
        (1000, {"_fc.bias": torch.zeros(1000)}, "does not hold all weights of EfficientNet-Lite0"),
        (1000, {"conv1.weight": torch.zeros(3)}, "does not hold the weights of EfficientNet-Lite0: 'conv1'"),
    ],
)
def test_other_weights_or_labels_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], labels: int, weights: dict, message: str
) -> None:
    torch.save(weights, tmp_path / "w.pth")
    (tmp_path / "labels.txt").write_text("name\n" * labels)
    given = [f"weights={tmp_path / 'w.pth'}", f"out={tmp_path / 'out'}", f"labels={tmp_path / 'labels.txt'}"]
    assert efficientnet_lite.main(given) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_closed_gates_would_show_and_open_ones_change_nothing() -> None:
    # A block of the network with its gates, and the same block without them.
    block = efficientnet_lite.network(["x"] * 10).eval().efficientnet.encoder.blocks[1]
    with torch.no_grad():
        given = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
        inside = block.depthwise_conv(block.expansion(given))
        assert torch.equal(block.squeeze_excite(inside), inside)
