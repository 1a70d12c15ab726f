"""The interface of inference parts: how the answers of a trained policy become a ranking of the candidates.

``eval.ranking`` says what an answer is: one of the candidates, a ranked list, an answer after reasoning, or free text.
``inference`` says how a ranking comes from it. To add a way:

1. Write a class with plain parameters that derives from `Inference`. Its `ranker` returns a `Ranker`, whose ``rank`` takes a
   batch of examples and returns a `RankedExample` for each. It must not look at the target. `InferenceInputs.speaker` draws
   answers as ``eval.ranking`` asks for them, and `InferenceInputs.plain` is the ranking without any inference part.
2. Say in class attributes what it needs (``draws``, ``needs_lists``, ``skips_reasoning``); rules in `mllmrec.config.inference_rules` refuse runs
   without it before anything is loaded.
3. Write ``conf/inference/NAME.yaml`` with ``_target_`` and each parameter. The file may not refer to other sections, which
   ``mllmrec.evaluate`` does not have; read them from `InferenceInputs.cfg`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hydra.utils import instantiate
from omegaconf import DictConfig

from mllmrec.engine.base import Engine
from mllmrec.evaluation.protocol import Protocol
from mllmrec.evaluation.ranking import Ranker
from mllmrec.models.policy import Policy
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.rollout.base import PlainRollout
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.free import Free
from mllmrec.rollout.lists import Listed
from mllmrec.rollout.reasoned import Reasoned
from mllmrec.step.names import Names
from mllmrec.step.speaker import Speaker


@dataclass(frozen=True)
class InferenceInputs:
    """A trained policy, and the protocol under which it is to rank."""

    cfg: DictConfig  # the run's configuration, for its other parts
    protocol: Protocol  # what is ranked: `settings` (the eval section in use), `seed`, `examples`, `prepared`
    policy: Policy
    answers: AnswerTokens
    engine: Engine

    def plain(self) -> Ranker:
        """The ranking by ``eval.ranking`` alone: scores of all candidates, or the most likely list or text."""
        return self.protocol.ranker(self.policy, self.answers, self.engine)

    def rollout(self, temperature: float = 1.0) -> PlainRollout:
        """A draw of such answers as ``eval.ranking`` ranks by.

        Args:
            temperature: above 0.
        """
        settings = self.protocol.settings
        if settings.ranking == "generate":
            return Free(temperature, max_new_tokens=settings.max_new_tokens)
        if self.protocol.prepared.builder.places > 1:
            return Listed(temperature)
        if settings.ranking == "reasoned":
            return Reasoned("sampled", temperature, settings.get("max_reasoning_tokens", 64))
        return Constrained(temperature)

    def speaker(self, temperature: float = 1.0, purpose: str = "inference") -> Speaker:
        """The policy as it draws and scores such answers.

        Its draws for an example depend on the protocol's seed, the purpose and the example. `Speaker.generated_tokens` counts
        what it wrote.

        Args:
            temperature: of draws and scores, above 0.
            purpose: names the draws.
        """
        return Speaker(
            self.policy,
            self.answers,
            self.engine,
            self.rollout(temperature),
            Names.of(self.protocol.prepared.builder),
            seed=self.protocol.seed,
            purpose=purpose,
        )


class Inference(ABC):
    """A way from answers to a ranking. It takes plain parameters, and its constructor loads nothing."""

    # Read from the source by `mllmrec.config.capabilities`, so give plain values.
    draws: ClassVar[bool] = True  # whether a policy's answers are drawn, from one prompt with all candidates
    needs_lists: ClassVar[bool] = False  # whether answers must be ranked lists (prompt.places above 1)
    skips_reasoning: ClassVar[bool] = (
        False  # whether its answers begin right after a prompt that asks for reasoning
    )

    @abstractmethod
    def ranker(self, inputs: InferenceInputs) -> Ranker:
        """The ranker for one protocol. It is asked for once per protocol and phase, before the first user is ranked."""


def inference_of(cfg: Mapping[str, Any]) -> Inference:
    """The inference part of a configuration; runs of earlier versions name none."""
    section = cfg.get("inference")
    if section is None:
        from mllmrec.inference.plain import PlainRanking

        return PlainRanking()
    return instantiate(section)


def described(section: Mapping[str, Any] | None) -> dict[str, str]:
    """The entry of metrics.json's ``protocol``: the class and its settings in words; none for the plain ranking."""
    if section is None or str(section["_target_"]).endswith(".PlainRanking"):
        return {}
    name = str(section["_target_"]).rpartition(".")[2]
    given = [
        f"{key}={value['_target_'].rpartition('.')[2] if isinstance(value, Mapping) else value}"
        for key, value in section.items()
        if key != "_target_"
    ]
    return {"inference": f"{name}({', '.join(given)})"}
