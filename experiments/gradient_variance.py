"""How much the draws move the gradient of GRPO after reasoning: answers drawn against answers enumerated.

    python experiments/gradient_variance.py run=DIR stage=sft prompts=16 draws=40

``run`` is a run folder of ``mllmrec.train task=reasoned``. From the policy of ``stage`` it computes the gradient of one step on the
same prompts again and again, with other draws each time and without division by the standard deviation. Prints one JSON line for
each kind of answer: the squared norm of the mean gradient, the variance (the mean squared distance to the mean gradient), and the
seconds of a gradient. ``experiments/reasoned.md`` has results.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from command_line import WrongUse, read_settings
from hydra.utils import instantiate

from mllmrec.errors import UserError
from mllmrec.jobs.finished_run import FinishedRun, open_policy
from mllmrec.rl.advantages import GroupRelative
from mllmrec.rl.losses import ClippedRatio
from mllmrec.rollout.reasoned import Reasoned
from mllmrec.samples.item_texts import described_items
from mllmrec.step.collector import Collector
from mllmrec.step.names import Names
from mllmrec.step.policy_gradient import PolicyGradient, StepSettings
from mllmrec.step.speaker import Speaker


@dataclass
class Settings:
    """The command line."""

    run: str = ""  # a finished run's folder
    stage: str = "sft"  # the phase whose policy is taken
    prompts: int = 16  # B
    group: int = 8  # G
    draws: int = 40  # gradients


def gradients(run: FinishedRun, settings: Settings, answer: Any) -> Iterator[torch.Tensor]:
    """The gradient of one step on the first prompts, once for every seed."""
    train, builder = run.prepared.train.asking(), run.prepared.builder
    examples = [train[index] for index in range(settings.prompts)]
    rollout = Reasoned(answer, max_reasoning_tokens=run.cfg.rollout.max_reasoning_tokens)
    reward = instantiate(run.cfg.reward)
    reward.meet_items(described_items(run.cfg, run.prepared))
    weights = [weight for weight in run.policy.model.parameters() if weight.requires_grad]
    for seed in range(settings.draws):
        speaker = Speaker(run.policy, run.answers, run.engine, rollout, Names.of(builder), seed=seed)
        step = PolicyGradient(
            Collector(speaker, rollout, reward),
            GroupRelative("none"),
            ClippedRatio(),
            StepSettings(group_size=settings.group, micro_batch_size=1 << 20, aggregation="constant"),
        )
        run.policy.model.zero_grad()
        for share in step.loss_shares(step.collect(examples, 0), {}):
            share.backward()
        yield torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])


def measure(run: FinishedRun, settings: Settings) -> Iterator[dict[str, float | str]]:
    """One line for each kind of answer."""
    run.policy.begin_phase("grpo", None, keep_reference=False)
    for answer in ("sampled", "enumerated"):
        begun = time.perf_counter()
        found = torch.stack(list(gradients(run, settings, answer)))
        seconds = (time.perf_counter() - begun) / settings.draws
        mean = found.mean(0)
        variance = (found - mean).square().sum(1).sum() / (settings.draws - 1)
        # The mean of a few noisy gradients is longer than the true one, by its own variance.
        signal = float(mean.square().sum() - variance / settings.draws)
        yield {
            "answer": answer,
            "signal": signal,
            "variance": float(variance),
            "seconds": round(seconds, 3),
        }


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    settings = read_settings(Settings, arguments, {})
    try:
        with redirect_stdout(sys.stderr):  # the progress bars go there
            run = open_policy(settings.run, settings.stage, training=True)
    except UserError as error:
        raise WrongUse(str(error)) from error
    for line in measure(run, settings):
        print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except WrongUse as error:
        sys.exit(f"{error}\n{__doc__}")
