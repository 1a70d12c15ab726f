"""Three ways for a policy to rank candidates; each returns the ranking before the target is looked at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mllmrec.engine.batches import pad
from mllmrec.engine.plain import completion_scores
from mllmrec.evaluation.metrics import order_by_score
from mllmrec.evaluation.records import clean_ranking
from mllmrec.models.policy import Policy
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.answers import parse_answer
from mllmrec.prompts.examples import Example
from mllmrec.prompts.trie import AnswerTrie
from mllmrec.randomness import torch_generator
from mllmrec.rollout.constrained import allowed_tokens
from mllmrec.rollout.free import Free


@dataclass(frozen=True)
class RankedExample:
    """How one example's candidates were ordered, and what was wrong with the answer."""

    order: (
        np.ndarray
    )  # columns of the example's candidates, best first; shorter than C if not all were ranked
    duplicates: int = 0
    off_candidate: int = 0
    text: str | None = None
    generated_tokens: int = 0

    def rank_of(self, column: int) -> float:
        """The 1-based rank of a candidate; nan if it was not ranked."""
        places = np.flatnonzero(self.order == column)
        return float(places[0] + 1) if len(places) else float("nan")


class Ranker(ABC):
    """Orders the candidates of examples."""

    @abstractmethod
    def rank(self, policy: Policy, answers: AnswerTokens, examples: Sequence[Example]) -> list[RankedExample]:
        """Rank one batch; the model is in evaluation mode and gradients are off."""


class Likelihood(Ranker):
    """By the log-probability that the policy's completion begins with a candidate's answer.

    ``constrained`` renormalises it over the candidates' answers at every token, which is the exact probability
    that a constrained rollout ends in that candidate.
    """

    def __init__(self, seed: int, constrained: bool = False) -> None:
        self.seed, self.constrained = seed, constrained

    def rank(self, policy: Policy, answers: AnswerTokens, examples: Sequence[Example]) -> list[RankedExample]:
        """Rank one batch; ties are broken by a permutation of each user's own."""
        scores = candidate_scores(policy, answers, examples, constrained=self.constrained)
        orders = order_by_score(scores, [example.user_id for example in examples], self.seed)
        return [
            RankedExample(order[order < len(example.candidates)])
            for order, example in zip(orders, examples, strict=True)
        ]


def candidate_scores(
    policy: Policy, answers: AnswerTokens, examples: Sequence[Example], *, constrained: bool
) -> np.ndarray:
    """Log-probabilities of all candidates' answers, (S, C) float64; -inf where an example has fewer than C.

    The end token is scored only under ``constrained``: labels are closed by a bracket, so no answer begins
    another, and what may follow an answer says nothing about the item.
    """
    prompts = policy.prompt_batch([example.prompt for example in examples])
    rows = [answers.of(item) for example in examples for item in example.candidates.tolist()]
    counts = [len(example.candidates) for example in examples]
    prompt_of = torch.arange(len(examples)).repeat_interleave(torch.tensor(counts)).to(policy.device)
    allowed = scored = None
    if constrained:
        ends = np.cumsum(counts)
        tries = [
            trie
            for end, count in zip(ends, counts, strict=True)
            for trie in [AnswerTrie(rows[end - count : end])] * count
        ]
        allowed, scored = (tensor.to(policy.device) for tensor in allowed_tokens(tries, rows))
    else:
        rows = [row[:-1] for row in rows]
    completions = pad(rows, policy.padding_token, side="right").to(policy.device)
    scores = completion_scores(
        policy.model, prompts, completions, prompt_of, scored=scored, allowed=allowed
    ).logprobs.sum(1)
    table = np.full((len(examples), max(counts)), -np.inf)
    columns = np.concatenate([np.arange(count) for count in counts])
    table[prompt_of.cpu().numpy(), columns] = scores.double().cpu().numpy()
    return table


class Generate(Ranker):
    """By greedy free text: the candidates that the answer names, in the order in which it names them.

    Duplicates and ids that are no candidates are counted and take no place; what is not named is not ranked.
    """

    def __init__(self, item_ids: Sequence[str], max_new_tokens: int = 64) -> None:
        self.item_ids, self.max_new_tokens = item_ids, max_new_tokens

    def rank(self, policy: Policy, answers: AnswerTokens, examples: Sequence[Example]) -> list[RankedExample]:
        """Generate one answer per example and read it."""
        prompts = policy.prompt_batch([example.prompt for example in examples])
        sampler = Free(temperature=0.0, max_new_tokens=self.max_new_tokens)
        generator = torch_generator(0, "unused by greedy decoding")
        completions = sampler(policy.model, prompts, 1, generator, (), policy.end_token).completions
        lengths = completions.mask.sum(1).tolist()
        ranked = []
        for example, text, length in zip(examples, policy.decode(completions), lengths, strict=True):
            column_of = {
                self.item_ids[item]: column for column, item in enumerate(example.candidates.tolist())
            }
            kept = clean_ranking([item for item, _ in parse_answer(text).items], column_of)
            ranked.append(
                RankedExample(
                    order=np.array([column_of[item] for item in kept.item_ids], dtype=np.int64),
                    duplicates=kept.duplicates,
                    off_candidate=kept.off_candidate,
                    text=text,
                    generated_tokens=int(length),
                )
            )
        return ranked
