"""What every phase is built from, and the prompts that a phase trains on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from mllmrec.config.capabilities import capability
from mllmrec.config.phases import DRAW, SAMPLES, Phase
from mllmrec.config.trust import named_in, trusted
from mllmrec.cot.mixing import Mixture
from mllmrec.engine.base import Engine
from mllmrec.errors import UserError
from mllmrec.models.policy import Policy
from mllmrec.models.selection import Selection
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.answers import split_reasoning
from mllmrec.prompts.examples import Example, Examples
from mllmrec.randomness import numpy_generator
from mllmrec.rl.batch import POLICY, RolloutBatch
from mllmrec.run.attempt import begun_job
from mllmrec.run.checkpoints import Checkpoints, Schedule
from mllmrec.run.folder import RunFolder
from mllmrec.samples.prepared import Prepared
from mllmrec.screen.training_callbacks import StepTimer
from mllmrec.step.refill import Dynamic
from mllmrec.step.sampler import Pool, PromptSampler, Shuffled, count_steps

NEW_DRAW = "grpo"  # names the draw of negatives for prompts after SFT, if it differs from SFT's draw


@dataclass(frozen=True)
class JobInputs:
    """What all phases of a job share."""

    cfg: DictConfig
    prepared: Prepared
    policy: Policy
    answers: AnswerTokens
    engine: Engine
    folder: RunFolder
    schedule: Schedule = field(default_factory=Schedule)  # of checkpoints
    timer: StepTimer = field(default_factory=StepTimer)
    drawn: dict[str, list[Drawn]] = field(default_factory=dict)  # phase → answers that a later phase learns


@dataclass(frozen=True)
class Drawn:
    """An answer that a phase drew."""

    example: Example  # its reasoned answer is the completion
    reward: float


@dataclass(frozen=True)
class PhaseInputs:
    """What one phase is built from."""

    phase: Phase
    job: JobInputs
    cfg: DictConfig  # as this phase sees it
    remembers: bool = False  # whether a later phase learns this one's answers

    @property
    def checkpoints(self) -> Checkpoints:
        """Those of this phase; an earlier attempt at the job may have left some."""
        folder = self.job.folder
        return Checkpoints(folder.resume_path / self.phase.name, self.job.schedule.keep, begun_job(folder))

    @property
    def trust(self) -> tuple[str, ...]:
        """The packages of others whose classes may stand in files of an earlier attempt: those that the settings name."""
        return (*named_in(OmegaConf.to_container(self.job.cfg, resolve=True)), *trusted())

    @property
    def settings(self) -> DictConfig:
        """The section of the phase's kind."""
        return self.cfg[self.phase.kind.name]

    def remember(self, batch: RolloutBatch) -> None:
        """Keep a step's finished answers to the examples' own prompts, if a later phase learns them."""
        if not self.remembers:
            return
        kept = self.job.drawn.setdefault(self.phase.name, [])
        rewards, counts = batch.judged().tolist(), (batch.finished.cpu() & batch.by(POLICY)).tolist()
        for row, text in enumerate(batch.texts):
            if counts[row]:
                example = replace(
                    batch.examples[int(batch.example_of[row])],
                    reasoned_answer=text,
                    reasoning=split_reasoning(text)[0],
                )
                kept.append(Drawn(example, rewards[row]))


@dataclass(frozen=True)
class Trained:
    """The results of a phase, apart from the weights at its end."""

    selection: Selection | None  # None if no held-out users were ranked
    generated_tokens: int = 0  # by rollouts


class Plan:
    """The entries of each step, as a sampler chooses them, and as codes of prompt forms for a data loader."""

    def __init__(self, sampler: PromptSampler, pool: Pool, mixture: Mixture, entries: np.ndarray) -> None:
        """Begin with a sampler.

        Args:
            sampler: chooses positions in the pool.
            pool: what it chooses from.
            mixture: says which form of its sample an entry shows.
            entries: (size,) the mixture's entry at each position of the pool.
        """
        self.sampler, self.pool, self.mixture, self.entries = sampler, pool, mixture, entries
        self.shown = np.empty(0, dtype=np.int64)  # positions in the last step
        self.step = -1  # the last step
        sampler.begin(pool)

    def __len__(self) -> int:
        return self.pool.steps

    def __getitem__(self, step: int) -> list[int]:
        """Codes of a step's entries; a sampler that learns has seen all steps before it."""
        if not 0 <= step < len(self):
            raise IndexError(step)
        self.step, self.shown = step, self.sampler.plan(step)
        return self._codes(self.shown)

    def __iter__(self) -> Iterator[list[int]]:
        return (self[step] for step in range(len(self)))

    def ahead(self, step: int) -> list[int]:
        """Codes of a later step's entries, of a sampler that ``plans_ahead``; none after the last step."""
        if step >= len(self):
            return []
        return self.mixture.form(self.entries[self.sampler.plan(step)], step, len(self)).tolist()

    def more(self, count: int) -> list[int]:
        """Codes of at most ``count`` other entries for the last step, if its sampler is `Dynamic`."""
        assert isinstance(self.sampler, Dynamic)
        others = self.sampler.more(count, self.shown)
        self.shown = np.concatenate([self.shown, others])
        return self._codes(others)

    def _codes(self, places: np.ndarray) -> list[int]:
        return self.mixture.form(self.entries[places], self.step, len(self)).tolist()


def plan_of(
    cfg: DictConfig,
    prepared: Prepared,
    phase: Phase,
    *,
    batch_size: int,
    sampler: PromptSampler | None = None,
    purpose: str | None = None,
    angles: Callable[[list[int]], np.ndarray] | None = None,
) -> Plan:
    """The plan of a phase that trains on prompts.

    Args:
        cfg: as the phase sees it.
        prepared: the data.
        phase: the phase.
        batch_size: entries of a step.
        sampler: chooses them; None: shuffled passes.
        purpose: names the shuffles; None: the phase's name.
        angles: (n,) of the prompts with n codes of forms, for a sampler that ranks them.
    """
    mixture, settings = prepared.mixture, cfg[phase.kind.name]
    entries = np.arange(len(mixture))
    if phase.own(SAMPLES) is not None:
        count = len(prepared.train)
        first, last = (round(share * count) for share in phase.own(SAMPLES))
        if first == last:
            raise UserError(
                f"phase {phase.name}: samples={list(phase.own(SAMPLES))} of {count:,} training samples are none: name a "
                "larger share"
            )
        # One order of samples for all phases of a run, so that [0, 0.5] and [0.5, 1] have none in common, even if some
        # stand among the entries in two forms.
        chosen = numpy_generator(cfg.seed, "samples of phases").permutation(count)[first:last]
        entries = entries[np.isin(mixture.sample(entries), chosen)]
    steps = count_steps(len(entries), batch_size, settings.epochs, settings.max_steps)
    pool = Pool(
        len(entries),
        batch_size,
        steps,
        cfg.seed,
        purpose or phase.name,
        samples=prepared.train.samples,
        sample_of=lambda places: mixture.sample(entries[places]),
        angles=None
        if angles is None
        else lambda places: angles(mixture.form(entries[places], 0, steps).tolist()),
    )
    return Plan(sampler or Shuffled(), pool, mixture, entries)


def examples_of(cfg: DictConfig, prepared: Prepared, phase: Phase) -> Examples:
    """The examples that a phase shows: with SFT's negatives, or with others; all ask for reasoning if its rollouts reason."""
    draw: Any = phase.own(DRAW)
    if draw is None and phase.kind.can_draw_anew and cfg[phase.kind.name].new_negatives:
        draw = NEW_DRAW
    examples = prepared.train if draw is None else prepared.redraw(str(draw))
    reasons = phase.kind.rolls_out and capability(cfg.rollout, "reasons", False)
    return examples.asking() if reasons else examples


def batch_size_of(settings: Any) -> int:
    """The prompts in a step, whatever the kind calls them."""
    for name in ("prompts_per_step", "prompts_per_round", "batch_size"):
        if name in settings:
            return int(settings[name])
    raise ValueError(f"no batch size among {', '.join(settings)}")


def of_rewards(drawn: Sequence[Drawn], least: float) -> list[Example]:
    """The examples whose answers earned enough, each answer to a prompt once."""
    kept = {
        (one.example.prompt, one.example.reasoned_answer): one.example for one in drawn if one.reward >= least
    }
    return list(kept.values())
