"""The checks name the class of a user's part with a wrong result before any data are read."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import DictConfig

from mllmrec.captions.palette import Palette
from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.engine.batches import TokenBatch
from mllmrec.errors import ConfigError
from mllmrec.reasoners.base import Estimate
from mllmrec.rewards.base import Rewards
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.rl.advantages import GroupRelative
from mllmrec.rl.losses import ClippedRatio, LossOutputs
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.enumerated import Enumerated
from mllmrec.testing.trials import trial_faults


def composed(*overrides: str) -> DictConfig:
    result = compose_checked("train", overrides, CONFIG_DIR)
    assert result.faults == []
    return result.config


class NoReward(HitFormat):
    def judge(self, completion, question):
        return {"score": 1.0, "format": 1.0, "hit": 1.0}


class NoPart(HitFormat):
    def judge(self, completion, question):
        return {"reward": 1.0, "format": 1.0}


class NotANumber(HitFormat):
    def judge(self, completion, question):
        return {"reward": float("nan"), "format": 1.0, "hit": 1.0}


class Words(HitFormat):
    def judge(self, completion, question):
        return {"reward": "1.0", "format": 1.0, "hit": 1.0}


class Bare(HitFormat):
    def judge(self, completion, question):
        return 1.0


class Generous(HitFormat):
    def judge(self, completion, question):
        return {"reward": 7.0 if completion else 0.0, "format": 1.0, "hit": 1.0}


class Fragile(HitFormat):
    """Takes an empty completion for granted never to come."""

    def judge(self, completion, question):
        return {"reward": float(completion[0] == "["), "format": 1.0, "hit": 1.0}


class Upside(HitFormat):
    bounds = (1.0, 0.0)


class Forgetful(HitFormat):
    """Judges whole batches, one row too few."""

    def __call__(self, batch):
        return Rewards(torch.zeros(len(batch) - 1))


class Counting(HitFormat):
    """Pays more at every call."""

    parts = ()
    calls = 0

    def judge(self, completion, question):
        return {"reward": 0.0}

    def __call__(self, batch):
        self.calls += 1
        return Rewards(torch.full((len(batch),), self.calls / 10))


class Places(HitFormat):
    """Pays a row for its place in the batch."""

    parts = ()

    def judge(self, completion, question):
        return {"reward": 0.0}

    def __call__(self, batch):
        return Rewards(torch.arange(len(batch)) / 10)


class Table(GroupRelative):
    def __call__(self, batch):
        return batch.judged().view(2, 4)


class Divides(GroupRelative):
    def __call__(self, batch):
        groups, rewards = batch.groups, batch.judged()
        return (rewards - groups.rows(groups.mean(rewards))) / groups.rows(groups.std(rewards))


class Counts(GroupRelative):
    def __call__(self, batch):
        return [1.0] * len(batch)


class Even(GroupRelative):
    """Takes it for granted that groups have one size."""

    def __call__(self, batch):
        table = batch.judged().view(batch.groups.count, batch.groups.size)
        return (table - table.mean(1, keepdim=True)).flatten()


class Scaled(GroupRelative):
    """Divides by the deviation of all rewards, which is zero if no answer of a step differs."""

    def __call__(self, batch):
        centred = batch.judged() - batch.judged().mean()
        return centred / centred.abs().mean()


class Unsaid(GroupRelative):
    def __call__(self, batch):
        return super().__call__(batch) * batch.reference.sum(1).exp().cpu()


class Unknown(GroupRelative):
    needs = frozenset({"probabilities"})


class NeedsAWord(GroupRelative):
    needs = "reference"


class InPlace(GroupRelative):
    def __call__(self, batch):
        rewards = batch.judged()
        rewards -= 0.5
        return rewards


class Distilled(ClippedRatio):
    def __call__(self, inputs):
        return LossOutputs(inputs.teacher - inputs.logprobs)


class NoTerms(ClippedRatio):
    def __call__(self, inputs):
        return -(inputs.logprobs * inputs.advantages)


class Summed(ClippedRatio):
    def __call__(self, inputs):
        return LossOutputs(super().__call__(inputs).terms.sum(1))


class Detached(ClippedRatio):
    def __call__(self, inputs):
        return super().__call__(replace(inputs, logprobs=inputs.logprobs.detach()))


class Logarithm(ClippedRatio):
    def __call__(self, inputs):
        return LossOutputs((inputs.logprobs * inputs.advantages).log())


class Batchwise(ClippedRatio):
    """Divides by the largest advantage of whatever rows it is given."""

    def __call__(self, inputs):
        return LossOutputs(
            -inputs.logprobs * inputs.advantages / inputs.advantages.abs().max().clamp_min(0.1)
        )


class HalfARollout(Constrained):
    def draw(self, *args):
        drawn = super().draw(*args)
        return replace(drawn, finished=drawn.finished[:1])


class OtherOrder(Constrained):
    def draw(self, *args):
        drawn = super().draw(*args)
        return replace(drawn, prompt_of=drawn.prompt_of.flip(0))


class Tokens(Constrained):
    def draw(self, *args):
        return super().draw(*args).tokens


class LeftPadded(Constrained):
    def draw(self, *args):
        drawn = super().draw(*args)
        mask = drawn.tokens.mask.clone()
        mask[:, 0] = False
        return replace(drawn, tokens=TokenBatch(drawn.tokens.ids, mask))


class NoWeights(Enumerated):
    every_answer = False


class Global(Constrained):
    """Draws from torch's global generator."""

    def draw(self, engine, model, encoded, group_size, generators, spelling):
        ours = [torch.Generator().manual_seed(int(torch.randint(1000, ()))) for _ in generators]
        return super().draw(engine, model, encoded, group_size, ours, spelling)


class OnlyTexts(Palette):
    def caption_images(self, images):
        for _ in images:
            yield "red"


class OtherItem(Palette):
    def caption_images(self, images):
        for _, _ in images:
            yield "2", "red"


class PathInIdentity(Palette):
    def identity(self):
        return {"weights": Path("w")}


class Paid(OnlyTexts):
    """Costs money, so the checks must not try it."""

    def estimate(self, images):
        return Estimate(images, 1, 1, 1.0)


def faults_of(group: str, part: type, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        check_config(composed(f"{group}._target_={__name__}.{part.__name__}", *overrides), trial_faults)
    return raised.value.faults


@pytest.mark.parametrize(
    ("group", "part", "words"),
    [
        (
            "reward",
            NoReward,
            "it returns {'score': 1.0, 'format': 1.0, 'hit': 1.0} for '[ITEM_1]', without reward",
        ),
        ("reward", NoPart, "without hit"),
        ("reward", NotANumber, "it returns reward=nan for '[ITEM_1]'"),
        ("reward", Words, "it returns reward='1.0' for"),
        ("reward", Bare, "it returns a float (1.0) for"),
        ("reward", Generous, "it returns reward=7 for '[ITEM_1]', outside its bounds -1 and 1"),
        (
            "reward",
            Fragile,
            "it fails on a toy batch (IndexError: string index out of range; test_trials.py, line",
        ),
        ("reward", Upside, "its bounds are (1.0, 0.0)"),
        ("reward", Forgetful, "its total is a tensor of shape (6,), but (7,) is needed"),
        ("reward", Counting, "it remembers, and its state_dict is empty"),
        ("reward", Places, "rows in another order have other totals"),
        ("advantage", Table, "it returns a tensor of shape (2, 4), but (8,) is needed"),
        ("advantage", Divides, "it returns [1.5, -0.5, -0.5, -0.5, nan, nan, nan, nan]"),
        ("advantage", Counts, "it returns a list ([1.0, 1.0"),
        ("advantage", Even, "it fails on a toy batch (TypeError"),
        ("advantage", Scaled, "for rewards [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5] in groups"),
        ("advantage", Unsaid, 'only for a part that says needs = frozenset({"reference"})'),
        (
            "advantage",
            Unknown,
            "its needs are frozenset({'probabilities'}), not a frozenset with some of greedy, old, reference, teacher",
        ),
        ("advantage", NeedsAWord, "its needs are 'reference', not a frozenset"),
        ("advantage", InPlace, "it changes the batch's rewards in place"),
        ("loss", Distilled, "it reads inputs.teacher, which is there only for a part that says needs"),
        ("loss", NoTerms, "it returns a Tensor (tensor("),
        ("loss", Summed, "its terms are a tensor of shape (5,), but (5, 3) is needed"),
        ("loss", Detached, "its terms carry no gradient"),
        ("loss", Logarithm, "its terms are [["),
        ("loss", Batchwise, "have other terms than all rows together"),
        ("rollout", HalfARollout, "its finished is a tensor of shape (1,), but (8,) is needed"),
        ("rollout", OtherOrder, "but row r of 8 must answer prompt r // 4"),
        ("rollout", Tokens, "it returns a TokenBatch"),
        ("rollout", LeftPadded, "is not padded on the right"),
        ("rollout", NoWeights, "its completions are a tensor of shape (6, "),
        ("rollout", Global, "the same seed, step and examples give other rows"),
        ("caption", OnlyTexts, "for item 1 it yields ['red']"),
        ("caption", OtherItem, "for item 1 it yields [('2', 'red')]"),
        ("caption", PathInIdentity, "its identity is {'weights': PosixPath('w')}"),
    ],
)
def test_a_part_that_gives_the_wrong_thing_is_named(group: str, part: type, words: str) -> None:
    (fault,) = faults_of(group, part)
    assert fault.startswith(f"{group}._target_={__name__}.{part.__name__}: ")
    assert words in fault
    article = {"reward": "a reward takes", "advantage": "an advantage takes", "loss": "a loss takes"}
    assert (
        article.get(group, {"rollout": "a rollout takes", "caption": "a captioner yields"}.get(group))
        in fault
    )


def test_every_wrong_part_is_named_at_once() -> None:
    faults = faults_of(
        "reward", Bare, f"advantage._target_={__name__}.Counts", f"loss._target_={__name__}.NoTerms"
    )
    assert [fault.split("._target_")[0] for fault in faults] == ["reward", "advantage", "loss"]


def test_parts_that_no_stage_uses_are_not_tried() -> None:
    check_config(
        composed(f"reward._target_={__name__}.Bare", f"loss._target_={__name__}.NoTerms", "method=sft"),
        trial_faults,
    )
    # Expert iteration reads rewards, but neither advantages nor losses.
    check_config(composed(f"loss._target_={__name__}.NoTerms", "method=expert_iteration"), trial_faults)
    (fault,) = faults_of("reward", Bare, "method=expert_iteration")
    assert "a float" in fault


def test_what_costs_money_is_not_tried() -> None:
    check_config(composed(f"caption._target_={__name__}.Paid"), trial_faults)


class Unweighted(GroupRelative):
    """Knows nothing of rows that are all answers."""

    def __call__(self, batch):
        if batch.weights is not None:
            raise TypeError("weights")
        return super().__call__(batch)


@pytest.mark.parametrize(("answer", "count"), [("enumerated", 1), ("sampled", 0)])
def test_an_advantage_meets_the_rows_of_the_rollout_it_is_set_up_with(answer, count) -> None:
    words = [f"advantage._target_={__name__}.Unweighted", "task=reasoned", f"rollout.answer={answer}"]
    faults = trial_faults({key: part for key, part in composed(*words).items() if key != "hydra"})
    assert len(faults) == count
    assert all("TypeError: weights" in fault for fault in faults)


@pytest.mark.parametrize("rollout", ["constrained", "free", "enumerate"])
@pytest.mark.parametrize("engine", ["shared_prefix", "plain"])
def test_trials_are_quick_and_touch_no_global_generator(rollout: str, engine: str) -> None:
    cfg = composed(f"rollout={rollout}", f"engine={engine}")
    settings = {key: cfg[key] for key in cfg if key != "hydra"}
    trial_faults(settings)  # imports
    state = torch.get_rng_state()
    start = time.process_time()
    assert trial_faults(settings) == []
    assert time.process_time() - start < 1
    assert torch.equal(torch.get_rng_state(), state)


def test_the_command_ends_with_status_2_before_it_makes_a_folder(
    tmp_path: Path, command: Callable[..., SimpleNamespace], import_from: Callable[[Path], None]
) -> None:
    (tmp_path / "judged_wrongly.py").write_text(
        "from mllmrec.rewards.hit_format import HitFormat\n\n\n"
        "class Mine(HitFormat):\n    def judge(self, completion, question):\n        return {'score': 1.0}\n"
    )
    import_from(tmp_path)
    done = command("train", "reward._target_=judged_wrongly.Mine", "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 2
    assert (
        "reward._target_=judged_wrongly.Mine: it returns {'score': 1.0} for '[ITEM_1]', without reward"
        in done.stderr
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
