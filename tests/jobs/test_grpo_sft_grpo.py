"""The preset of three phases after the warm-up, of which the second learns what the first drew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mllmrec.errors import UserError

STAGES = ["zero_shot", "warmup", "grpo", "sft_on_grpo", "grpo_again"]


def stored(tmp_path: Path, last: str) -> list[dict]:
    """What made the stored weights whose latest phase is this one."""
    parts = [
        json.loads(path.read_text())["parts"]
        for path in (tmp_path / "cache" / "stages").glob("*/made_from.json")
    ]
    return [one for one in parts if one["stages"][-1] == last]


def test_sft_between_two_phases_of_grpo_is_stored_under_what_grpo_was_paid_for(job, tmp_path):
    settings = ("variant=grpo_sft_grpo", f"cache_dir={tmp_path / 'cache'}", "share_stages=true")
    job(tmp_path / "once", *settings)
    metrics = json.loads((tmp_path / "once" / "metrics.json").read_text())
    assert list(metrics["stages"]) == STAGES
    job(tmp_path / "again", *settings)
    assert (len(stored(tmp_path, "warmup")), len(stored(tmp_path, "sft_on_grpo"))) == (1, 1)
    job(tmp_path / "paid", *settings, "reward.hit_weight=2.0")
    assert len(stored(tmp_path, "warmup")) == 1
    first, second = stored(tmp_path, "sft_on_grpo")
    assert [name for name in first if first[name] != second[name]] == ["phases"]


def test_answers_that_never_end_cannot_be_learnt_and_the_message_says_so(job, tmp_path):
    command = ("variant=grpo_sft_grpo", "rollout=free", "rollout.max_new_tokens=1", "grpo.max_steps=1")
    with pytest.raises(
        UserError, match="no answer of grpo ended within the length limit, so nothing could be"
    ):
        job(tmp_path / "run", *command)
