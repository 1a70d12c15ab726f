"""Our advantages equal those of TRL's trainers for the same rewards."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mllmrec.rl.advantages import GroupRelative, LeaveOneOut
from mllmrec.rl.decoupled import Decoupled

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

# Two prompts with four completions each; the second prompt's are all valid.
HIT = torch.tensor([1.0, 0, 0, 0, 1, 1, 0, 0])
FORMAT = torch.tensor([1.0, 1, 0, 1, 1, 1, 1, 1])
WEIGHTS = {"hit": 1.0, "format": 0.3}


def hit(completions, **others):
    return HIT.tolist()


def form(completions, **others):
    return FORMAT.tolist()


@pytest.fixture
def trls(make_pretrained, tmp_path, monkeypatch):
    """Advantages by TRL's trainer, which is given completions of one token each."""

    def advantages(kind="GRPO", **settings):
        policy = make_pretrained(lora=None)
        trainer = getattr(trl, f"{kind}Trainer")(
            policy.model,
            reward_funcs=[hit, form],
            args=getattr(trl, f"{kind}Config")(
                output_dir=str(tmp_path),
                use_cpu=True,
                bf16=False,
                report_to=[],
                per_device_train_batch_size=8,
                num_generations=4,
                reward_weights=list(WEIGHTS.values()),
                beta=0.0,
                **settings,
            ),
            train_dataset=datasets.Dataset.from_dict({"prompt": ["Red Lamp", "one line"]}),
            processing_class=policy.tokenizer,
        )
        trainer.model.train()
        prompts, completions, texts = [[11]] * 8, [[41]] * 8, ["a"] * 8
        drawn = (
            (prompts, completions, None, texts, None, {}, None, None)
            if kind == "GRPO"
            else (prompts, completions, texts)
        )
        monkeypatch.setattr(trainer, "_generate", lambda prompts: drawn)
        return trainer._generate_and_score_completions([{"prompt": "Red Lamp"}] * 8)["advantages"]

    return advantages


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_equal_trls(trls, make_batch, scale):
    total = WEIGHTS["hit"] * HIT + WEIGHTS["format"] * FORMAT
    expected = trls(scale_rewards=scale)
    assert expected.abs().max() > 0.5
    assert_close(GroupRelative(scale)(make_batch(total.view(2, 4))), expected, atol=1e-6, rtol=0)


def test_rloo_equals_trls(trls, make_batch):
    expected = trls("RLOO")
    assert expected.abs().max() > 0.5
    total = WEIGHTS["hit"] * HIT + WEIGHTS["format"] * FORMAT
    assert_close(LeaveOneOut()(make_batch(total.view(2, 4))), expected, atol=1e-6, rtol=0)


def test_gdpo_equals_trls(trls, make_batch):
    expected = trls(multi_objective_aggregation="normalize_then_sum")
    assert expected.abs().max() > 0.5
    batch = make_batch(HIT.view(2, 4), parts={"hit": HIT, "format": FORMAT})
    assert_close(Decoupled(WEIGHTS)(batch), expected, atol=1e-6, rtol=0)
