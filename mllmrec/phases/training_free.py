"""Training-Free GRPO: groups of answers are compared, and what is learnt from them stands in the prompts.

The authors' code is github.com/TencentCloudADP/youtu-agent. A step draws groups with the experience so far in the prompts.
Groups of equal rewards teach nothing. The others go to an `ExperienceWriter`, whose operations change the library. No weight
ever changes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from mllmrec.errors import UserError
from mllmrec.experience.base import Answer, Contrast, ExperienceWriter
from mllmrec.experience.library import Experience, Library
from mllmrec.models.policy import Policy
from mllmrec.phases.heldout import HeldOutMeasure
from mllmrec.phases.progress import PracticeProgress
from mllmrec.prompts.builder import PromptBuilder
from mllmrec.prompts.examples import Example
from mllmrec.reasoners.base import HistoryItem
from mllmrec.rl.batch import POLICY, RolloutBatch
from mllmrec.rollout.base import Turn
from mllmrec.rollout.draw import NoProbabilities
from mllmrec.screen.progress import StageProgress
from mllmrec.step.collector import Collector
from mllmrec.step.metrics import rollout_metrics

log = logging.getLogger(__name__)
_COUNTS = ("compared", "seconds", "done", "ended")  # of a practice, as a checkpoint has them


@dataclass(frozen=True)
class PracticeSettings:
    """The numbers of a step, and of the choice between libraries."""

    group_size: int  # answers drawn for each prompt
    micro_batch_size: int  # answers through the model at once
    most_experiences: int
    most_tokens: int  # of all experience in a prompt
    every: int = 100  # steps between two held-out rankings
    keep_best: bool = True  # whether the library with the best held-out ranking is kept, and not the last one
    patience: int | None = None  # end after so many rankings without a better one


@dataclass
class Best:
    """The experience that held-out users were ranked best with."""

    value: float = -float("inf")
    step: int = 0
    experiences: tuple[Experience, ...] = ()
    measured_at: int = -1  # step of the last ranking
    without_better: int = 0  # rankings in a row


class TrainingFree:
    """Draws, compares and writes; the library of its builder's prompts is the one so far."""

    name = "training_free"

    def __init__(
        self,
        collector: Collector,
        builder: PromptBuilder,
        writer: ExperienceWriter,
        items: Mapping[int, HistoryItem],
        settings: PracticeSettings,
        history_length: int,
    ) -> None:
        """Take the parts.

        Args:
            collector: draws and judges.
            builder: writes the prompts, with the experience.
            writer: says what is learnt from a step.
            items: what a writer may see of each item, by its code.
            settings: the numbers.
            history_length: items of history in a prompt.
        """
        self.collector, self.builder, self.writer = collector, builder, writer
        self.items, self.settings, self.history_length = items, settings, history_length
        self.code_of = {item.item_id: code for code, item in items.items()}
        self.library = self.last = Library()  # the one in prompts, and the one after the last step
        self.compared = 0  # groups whose rewards differed
        self.best, self.seconds = Best(), list[float]()  # the latter of each step
        self.done, self.ended = 0, False  # steps, and whether there are no more

    def step(
        self, examples: Sequence[Example], number: int, seen: Callable[[RolloutBatch], None] | None = None
    ) -> dict[str, float]:
        """Learn from one step; returns the numbers to log.

        Args:
            examples: B examples, whose prompts show the library as it is.
            number: the step, from 0 on.
            seen: called with the judged answers.

        Raises:
            UserError: the policy's probabilities are not numbers.
        """
        turn = Turn(number, self.settings.group_size)
        chunk = max(1, self.settings.micro_batch_size // turn.group_size)
        totals: dict[str, float] = {}
        contrasts: list[Contrast] = []
        for start in range(0, len(examples), chunk):
            part = examples[start : start + chunk]
            try:
                batch = self.collector.collect(part, turn)
            except NoProbabilities as error:
                raise UserError(
                    f"phase {self.name}: {error}, and the phase changes no weights: choose another backbone or dtype"
                ) from error
            if seen is not None:
                seen(batch)
            contrasts += self.contrasts(batch)
            constrained = self.collector.rollout.plain.constrained
            for key, value in rollout_metrics(batch, constrained=constrained).items():
                totals[key] = totals.get(key, 0.0) + value * len(part) / len(examples)
        self.compared += len(contrasts)
        counts = {"add": 0, "modify": 0, "delete": 0, "keep": 0}
        dropped = 0
        if contrasts:
            operations = self.writer.operations(contrasts, self.library, self.builder.domain)
            counts = self.library.apply(operations)
            dropped = self.library.trim(self.settings.most_experiences, self._fits)
            self.builder.experience = self.library.texts
        parts = {key: value for part in self.collector.parts for key, value in part.metrics().items()}
        return {
            **totals,
            **parts,
            **(self.writer.metrics() if contrasts else {}),
            "num_tokens": float(self.collector.speaker.generated_tokens),
            "experience/size": float(len(self.library)),
            "experience/compared": len(contrasts) / len(examples),
            **{f"experience/{kind}": float(count) for kind, count in counts.items()},
            "experience/dropped": float(dropped),
        }

    def contrasts(self, batch: RolloutBatch) -> list[Contrast]:
        """The groups of a judged batch whose rewards differ, with the answers that the policy gave to their own prompts."""
        rewards, own = batch.judged().tolist(), batch.by(POLICY).tolist()
        rows: dict[int, list[int]] = {}
        for row, group in enumerate(batch.group_of.tolist()):
            if own[row]:
                rows.setdefault(group, []).append(row)
        found = []
        for group in rows.values():
            mean = sum(rewards[row] for row in group) / len(group)
            # Rounding may put the mean of equal rewards beside them.
            winners = [row for row in group if rewards[row] > mean + 1e-6]
            losers = [row for row in group if rewards[row] < mean - 1e-6]
            if not winners or not losers:
                continue
            example = batch.examples[int(batch.example_of[group[0]])]
            found.append(
                Contrast(
                    example.sample_id,
                    example.user_id,
                    tuple(self.items[int(code)] for code in example.history[-self.history_length :]),
                    tuple(self._answer(batch, row) for row in winners),
                    tuple(self._answer(batch, row) for row in losers),
                )
            )
        return found

    def _answer(self, batch: RolloutBatch, row: int) -> Answer:
        named = [item for item, _ in batch.answers[row].items if item in batch.question(row).titles]
        return Answer(batch.texts[row], self.items[self.code_of[named[0]]] if named else None)

    def _fits(self, texts: Sequence[str]) -> bool:
        policy = self.collector.speaker.policy
        return tokens_of(policy, self.builder, texts) <= self.settings.most_tokens

    def practise(
        self,
        examples_of: Callable[[int], Sequence[Example]],
        steps: int,
        loggers: Sequence[Logger],
        measure: HeldOutMeasure | None,
        seen: Callable[[RolloutBatch], None] | None = None,
        progress: PracticeProgress | None = None,
    ) -> None:
        """All steps; the library and the prompts end with the experience that is kept.

        Args:
            examples_of: the examples of a step, written when the step begins.
            steps: how many there are.
            loggers: of this phase.
            measure: the held-out ranking, or None for never.
            seen: called with the judged answers.
            progress: writes checkpoints, and takes up the latest one; None for none.

        Raises:
            Stopped: a signal came; the last step is saved.
        """
        with nullcontext() if progress is None else progress.saving(loggers):
            if not self.ended:
                self._practise(examples_of, steps, loggers, measure, seen, progress)
        for logger in loggers:
            logger.finalize("success")
        if not self.compared:
            log.warning(
                "%s: no prompt had two answers with different rewards, so nothing was learnt: raise "
                "training_free.group_size or rollout.temperature, or choose a reward that tells answers apart",
                self.name,
            )
        self.last = self.library
        if measure is not None and self.settings.keep_best and self.best.step != self.done:
            log.info(
                "%s: kept the experience of step %d of %d, the best on the held-out users",
                *(self.name, self.best.step, self.done),
            )
            kept = Library(self.best.experiences)
            if len(self.last) and not len(kept):
                log.warning(
                    "%s: prompts show no experience, since held-out users are ranked no better with it: heldout.keep=last "
                    "shows what was learnt",
                    self.name,
                )
            self.library, self.builder.experience = kept, kept.texts

    def _practise(
        self,
        examples_of: Callable[[int], Sequence[Example]],
        steps: int,
        loggers: Sequence[Logger],
        measure: HeldOutMeasure | None,
        seen: Callable[[RolloutBatch], None] | None,
        progress: PracticeProgress | None,
    ) -> None:
        """The steps that are left."""
        if not self.done:
            self._rank(measure, loggers)
        with StageProgress(self.name, steps) as shown:
            shown.advance(self.done, "")
            while self.done < steps:
                if progress is not None:
                    progress.between(self.done)
                begun = time.perf_counter()
                numbers = self.step(examples_of(self.done), self.done, seen)
                self.seconds.append(time.perf_counter() - begun)
                self.done += 1
                for logger in loggers:
                    logger.log_metrics(numbers, step=self.done)
                shown.advance(1, f"reward {numbers['reward']:.4g} experiences {len(self.library)}")
                if self.done % self.settings.every == 0:
                    self._rank(measure, loggers)
                if self.settings.patience is not None and self.best.without_better >= self.settings.patience:
                    log.warning(
                        "%s: ended at step %d, %d rankings after the best one on the held-out users",
                        *(self.name, self.done, self.best.without_better),
                    )
                    break
        self._rank(measure, loggers)
        self.ended = True
        if progress is not None:
            progress.ended(self.done)

    def _rank(self, measure: HeldOutMeasure | None, loggers: Sequence[Logger]) -> None:
        best = self.best
        if measure is None or best.measured_at == self.done:
            return
        numbers = measure()
        best.measured_at, best.without_better = self.done, best.without_better + 1
        value = measure.objective(numbers)
        if value > best.value:
            best.value, best.step, best.without_better = value, self.done, 0
            best.experiences = tuple(self.library)
        for logger in loggers:
            logger.log_metrics({f"val/{name}": value for name, value in numbers.items()}, step=self.done)

    def progress(self) -> dict[str, Any]:
        """See `mllmrec.phases.progress.Resumable`."""
        return {
            "experiences": tuple(self.library),
            "writer": self.writer.state_dict(),
            "parts": [part.state_dict() for part in self.collector.parts],
            "generated": self.collector.speaker.generated_tokens,
            "best": self.best,
            **{name: getattr(self, name) for name in _COUNTS},
        }

    def take_up(self, progress: Mapping[str, Any]) -> None:
        """See `mllmrec.phases.progress.Resumable`."""
        self.library = Library(progress["experiences"])
        self.builder.experience = self.library.texts
        self.writer.load_state_dict(progress["writer"])
        for part, state in zip(self.collector.parts, progress["parts"], strict=True):
            part.load_state_dict(state)
        self.collector.speaker.generated_tokens = progress["generated"]
        self.best = progress["best"]
        for name in _COUNTS:
            setattr(self, name, progress[name])

    def save_files(self) -> None:
        """No file grows with the steps."""

    def write(self, folder: Path) -> None:
        """Write the library to ``<name>.json``, and the one of the last step to ``<name>_last.json`` if it was not kept."""
        self.library.write(folder / f"{self.name}.json")
        if self.last is not self.library:
            self.last.write(folder / f"{self.name}_last.json")


def tokens_of(policy: Policy, builder: PromptBuilder, texts: Sequence[str]) -> int:
    """An upper bound on the tokens that experience adds to a prompt; 0 without any."""
    if not texts:
        return 0
    # One to spare for each seam.
    return len(policy.encode_rendered([builder.told(texts) + builder.template.joiner])[0]) + 2
