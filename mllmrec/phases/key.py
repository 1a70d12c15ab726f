"""The key under which the weights after a phase are stored: everything that made them, as named parts.

A new setting is part of the key until this module lists it as one that plays no part. A forgotten setting can therefore
cost a training that could have been shared, but never a wrong result. Settings about the data do not enter the key
themselves. What the phase reads in the end enters instead: the prompts with their answers and candidates, rendered as in
training.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from mllmrec.cache import files_fingerprint
from mllmrec.config.capabilities import capability
from mllmrec.config.kinds import GRPO, KINDS, PARTS, SFT_MORE
from mllmrec.config.phases import ANSWERS, Phase
from mllmrec.evaluation.protocol import Protocol
from mllmrec.models.policy import Policy
from mllmrec.phases.inputs import batch_size_of, examples_of, plan_of
from mllmrec.phases.warmup import training_sequences
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.examples import Forms
from mllmrec.run.settings import OF_THE_JOB
from mllmrec.samples.item_texts import item_texts
from mllmrec.samples.prepared import Prepared
from mllmrec.screen.progress import track
from mllmrec.store.fingerprints import (
    code_fingerprint,
    examples_fingerprint,
    measure_fingerprint,
    model_fingerprint,
    named_files,
    reader_fingerprint,
    sequences_fingerprint,
    texts_fingerprint,
)

# Enters where a part refers to it.
OF_OTHERS = ("text_encoder", "peft")
# Read only for reports.
OF_REPORTS = ("baselines", "inference")
# Enter through the rendered prompts and the order of training, or through the ranking of held-out users.
BY_CONTENT = (
    "dataset",
    "split",
    "caption",
    "cot_policy",
    "draft",
    "refine",
    "cot",
    "mixing",
    "mix_ratio",
    "candidates",
    "protocol_seed",
    "eval",
)
# The warm-up reads only item sequences, and measures nothing while it trains.
NOT_IN_WARMUP = ("prompt", "engine", "heldout", "method")
# Settings of the method: its name, its phases (the phases so far are a part of their own) and its recommender.
_OF_THE_METHOD = ("name", "stages", "phases", "recommender")


_TRAINS = "mllmrec.jobs.language_model"  # the module that trains phases
_DATA = ("sequences", "samples", "prompts")  # what a kind may train on so that its data are known here


class PhaseKey:
    """Computes the key of the policy after each of a run's phases."""

    def __init__(
        self,
        cfg: DictConfig,
        prepared: Prepared,
        policy: Policy,
        answers: AnswerTokens,
        held_out: Protocol | None,
    ) -> None:
        """Take the fingerprint of the policy as it is now.

        Args:
            cfg: the run's configuration.
            prepared: the data.
            policy: the policy before its first phase.
            answers: the policy's answer tokens.
            held_out: the protocol that ranks validation users while a phase trains; None for none.
        """
        self.cfg, self.prepared, self.answers, self.held_out = cfg, prepared, answers, held_out
        settings: Any = OmegaConf.to_container(cfg, resolve=True)
        settings["method"] = {
            name: value for name, value in settings["method"].items() if name not in _OF_THE_METHOD
        }
        self.settings = settings
        self._model, self._reader = model_fingerprint(policy.model), reader_fingerprint(policy)
        self._read: dict[str, dict[str, Any]] = {}  # phase → fingerprints of its prompts

    def knows(self, phases: Sequence[Phase]) -> bool:
        """Whether it is known what all of these phases read."""
        return all(phase.kind.data in _DATA for phase in phases)

    def keeps(self, phases: Sequence[Phase]) -> bool:
        """Whether the last of these phases is one that jobs share, and it is known what all of them read."""
        return phases[-1].kind.shared and self.knows(phases)

    def parts(self, phases: Sequence[Phase]) -> dict[str, Any]:
        """Everything that made the weights after ``phases``, as JSON values by name.

        Every phase counts with its own settings, the parts that its kind reads (reward, rollout, advantage, loss, ...), and
        the prompts that it shows, since each phase goes on from the weights of the one before.

        Args:
            phases: phases in order.

        Raises:
            ValueError: it is not known what one of them reads.
        """
        if not self.knows(phases):
            unknown = [phase.name for phase in phases if phase.kind.data not in _DATA]
            raise ValueError(f"cannot share {', '.join(unknown)}: its training data is not known here")
        on_ids = all(phase.kind.data == "sequences" for phase in phases)
        common = self._common(on_ids)
        own = [self._of_phase(phase) for phase in phases]
        parts: dict[str, Any] = {
            "stages": [phase.name for phase in phases],
            "settings": common,
            "phases": own,
            "code": code_fingerprint([common, own], _TRAINS),
            "model": self._model,
        }
        if not on_ids:
            parts |= {
                "reader": self._reader,
                "answers": self._answers,
                "images": self._images,
                "held out": self._held_out,
            }
        for phase in phases:
            parts |= {f"{phase.name}: {name}": value for name, value in self._data(phase).items()}
        return parts

    def _common(self, on_ids: bool) -> dict[str, Any]:
        """The settings that no kind of phase has for itself."""
        left_out = {*OF_THE_JOB, *OF_OTHERS, *OF_REPORTS, *BY_CONTENT, *KINDS, *PARTS}
        if on_ids:
            left_out |= set(NOT_IN_WARMUP)
        return {name: value for name, value in self.settings.items() if name not in left_out}

    def _of_phase(self, phase: Phase) -> dict[str, Any]:
        seen = phase.settings(self.settings)
        read = {name: seen.get(name) for name in (phase.kind.name, *phase.kind.parts)}
        # `_target_`, so that the source of a kind of the user's own counts like that of any class of theirs.
        return {
            "kind": phase.kind.name,
            "fit": {"_target_": phase.kind.fit},
            "settings": read,
            "own": dict(phase.given),
        }

    def _data(self, phase: Phase) -> dict[str, Any]:
        if phase.kind.data == "sequences":
            return {"sequences": self._warmup_sequences, "first tokens": self._first_tokens}
        if phase.own(ANSWERS) is not None:
            return {}  # made by the phases before
        known = repr((phase.name, phase.kind.name, phase.given))
        if known not in self._read:
            self._read[known] = {**self._prompts(phase), **self._judged_by(phase)}
        return self._read[known]

    def _prompts(self, phase: Phase) -> dict[str, Any]:
        """Fingerprints of the prompts that a phase shows, and of their order."""
        cfg = phase.config(self.cfg)
        size = batch_size_of(cfg[phase.kind.name])
        # What a curriculum shows depends on the rollouts, which all else decides; so all that it may show counts.
        plan = plan_of(
            cfg,
            self.prepared,
            phase,
            batch_size=size,
            purpose=GRPO.name if phase.kind is SFT_MORE else None,
        )
        batches = [np.array(batch, dtype=np.int64) for batch in plan]
        curriculum = cfg.get("sampler") if "sampler" in phase.kind.parts else None
        if curriculum is not None and not capability(curriculum, "plans_ahead", False):
            codes = list(range(2 * len(self.prepared.train)))
        else:
            codes = np.unique(np.concatenate(batches)).tolist()
        forms = Forms(examples_of(cfg, self.prepared, phase))
        shown = (forms[code] for code in track(codes, f"look {phase.name} up", unit="prompts"))
        return {"order": sequences_fingerprint(batches), "examples": examples_fingerprint(shown)}

    def _judged_by(self, phase: Phase) -> dict[str, Any]:
        """What a reward may read besides its settings: the items' texts, and the files that it names."""
        if "reward" not in phase.kind.parts:
            return {}
        return {"texts": self._texts, "files": named_files(phase.settings(self.settings).get("reward"))}

    @cached_property
    def _texts(self) -> str:
        return texts_fingerprint(item_texts(self.prepared))

    @cached_property
    def _warmup_sequences(self) -> str:
        samples = self.prepared.train.samples
        return sequences_fingerprint(training_sequences(samples, self.cfg.warmup.length))

    @cached_property
    def _first_tokens(self) -> str:
        return sequences_fingerprint([self.answers.first_tokens()])

    @cached_property
    def _answers(self) -> str:
        items = range(len(self.prepared.items))
        return sequences_fingerprint(np.array(self.answers.of(item)) for item in items)

    @cached_property
    def _images(self) -> str | None:
        if self.cfg.prompt.item_tokens != "image":
            return None
        images = self.prepared.items.images
        return files_fingerprint({item: images[item] for item in self.prepared.builder.marked})

    @cached_property
    def _held_out(self) -> dict[str, Any] | None:
        return measure_fingerprint(self.held_out)
