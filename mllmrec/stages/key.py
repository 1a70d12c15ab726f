"""The key under which the weights after a stage are stored: everything that made them, as named parts.

A new setting is part of the key until this module lists it as one that plays no part. A forgotten setting can therefore
cost a training that could have been shared, but never a wrong result. Settings about the data do not enter the key
themselves. What the stage reads in the end enters instead: the prompts with their answers and candidates, rendered as in
training.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from mllmrec.cache import files_fingerprint
from mllmrec.config.schema import STAGES
from mllmrec.evaluation.protocol import Protocol
from mllmrec.models.policy import Policy
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.examples import Forms
from mllmrec.samples.prepared import Prepared
from mllmrec.screen.progress import track
from mllmrec.stages.run import sft_batches
from mllmrec.stages.warmup import training_sequences
from mllmrec.store.fingerprints import (
    code_fingerprint,
    examples_fingerprint,
    measure_fingerprint,
    model_fingerprint,
    reader_fingerprint,
    sequences_fingerprint,
)

# A job's name, its output and what it shares change no weight.
OF_THE_JOB = ("cache_dir", "logger", "run_name", "skip_finished", "share_stages", "overwrite", "warnings")
# Read only after the shared stages, or only for reports.
OF_LATER = ("reward", "rollout", "advantage", "loss", "baselines")
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
# Settings of the method: its name, its stages (the stages so far are a part of their own) and its recommender.
_OF_THE_METHOD = ("name", "stages", "recommender")


class StageKey:
    """Computes the key of each of a run's stages."""

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
            policy: the policy before its first stage.
            answers: the policy's answer tokens.
            held_out: the protocol that ranks validation users while a stage trains; None for none.
        """
        self.cfg, self.prepared, self.answers, self.held_out = cfg, prepared, answers, held_out
        settings: Any = OmegaConf.to_container(cfg, resolve=True)
        settings["method"] = {
            name: value for name, value in settings["method"].items() if name not in _OF_THE_METHOD
        }
        self.settings = settings
        self._model, self._reader = model_fingerprint(policy.model), reader_fingerprint(policy)

    def parts(self, stages: Sequence[str]) -> dict[str, Any]:
        """Everything that made the weights after ``stages``, as JSON values by name.

        Args:
            stages: stages in order; the settings and data of each are read.

        Raises:
            ValueError: one of them is not shared, since this class does not know what it reads.
        """
        data = {"warmup": self._warmup_data, "sft": self._sft_data}
        if unknown := [stage for stage in stages if stage not in data]:
            raise ValueError(f"cannot share {', '.join(unknown)}: its training data is not known here")
        settings = self._read_in(stages)
        parts: dict[str, Any] = {
            "stages": list(stages),
            "settings": settings,
            "code": code_fingerprint(settings),
            "model": self._model,
        }
        if list(stages) != ["warmup"]:
            parts |= {
                "reader": self._reader,
                "answers": self._answers,
                "images": self._images,
                "held out": self._held_out,
            }
        for stage in stages:
            parts |= {f"{stage}: {name}": value for name, value in data[stage]().items()}
        return parts

    def _read_in(self, stages: Sequence[str]) -> dict[str, Any]:
        left_out = {*OF_THE_JOB, *OF_LATER, *BY_CONTENT, *(set(STAGES) - set(stages))}
        if list(stages) == ["warmup"]:
            left_out |= set(NOT_IN_WARMUP)
        return {name: value for name, value in self.settings.items() if name not in left_out}

    def _warmup_data(self) -> dict[str, Any]:
        return {"sequences": self._warmup_sequences, "first tokens": self._first_tokens}

    def _sft_data(self) -> dict[str, Any]:
        return {"order": self._sft_order, "examples": self._sft_examples}

    @cached_property
    def _warmup_sequences(self) -> str:
        samples = self.prepared.train.samples
        return sequences_fingerprint(training_sequences(samples, self.cfg.warmup.length))

    @cached_property
    def _first_tokens(self) -> str:
        return sequences_fingerprint([self.answers.first_tokens()])

    @cached_property
    def _batches(self) -> list[np.ndarray]:
        return sft_batches(self.cfg, self.prepared)

    @cached_property
    def _sft_order(self) -> str:
        return sequences_fingerprint(self._batches)

    @cached_property
    def _sft_examples(self) -> str:
        forms = Forms(self.prepared.train)
        codes = np.unique(np.concatenate(self._batches)).tolist()
        return examples_fingerprint(forms[code] for code in track(codes, "look sft up", unit="prompts"))

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
