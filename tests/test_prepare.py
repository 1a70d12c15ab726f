from __future__ import annotations

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from mllmrec.config import CONFIG_DIR
from mllmrec.prepare import Prepared, prepare


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Prepared:
    overrides = [
        f"cache_dir={tmp_path_factory.mktemp('cache')}",
        "dataset.num_users=30",
        "dataset.num_items=40",
        "mix_ratio=0.5",
    ]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return prepare(compose("train", overrides=overrides))


def test_another_draw_has_other_negatives_for_the_same_samples(prepared):
    first, other, again = prepared.train, prepared.redraw("other"), prepared.redraw("other")
    assert len(other) == len(first)
    differing = 0
    for index in range(len(first)):
        one, two, three = first[index], other[index], again[index]
        assert (one.sample_id, one.target, one.has_reasoning) == (
            two.sample_id,
            two.target,
            two.has_reasoning,
        )
        assert two.candidates[two.target_column] == two.target
        assert np.array_equal(two.candidates, three.candidates)
        differing += set(one.candidates.tolist()) != set(two.candidates.tolist())
    # Nine of some thirty unseen items twice alike: one chance in millions each.
    assert differing == len(first)


def test_no_draw_has_an_item_of_the_user(prepared):
    for index in range(len(prepared.train)):
        user = prepared.train.samples.users[index]
        start, end = prepared.interactions.offsets[user : user + 2]
        seen = set(prepared.interactions.items[start:end].tolist())
        example = prepared.redraw("other")[index]
        assert set(example.candidates.tolist()) & seen == {example.target}
