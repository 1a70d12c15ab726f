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
from mllmrec.prompts.trie import AnswerTrie, TrieNode
from mllmrec.randomness import torch_generator
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
        # One by one: beside longer lists a user's ties would be broken by another permutation.
        return [
            RankedExample(
                order_by_score(row[None, : len(example.candidates)], [example.user_id], self.seed)[0]
            )
            for row, example in zip(scores, examples, strict=True)
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
    choices: list[list[tuple[int, TrieNode]]] = []
    if constrained:
        for end, count in zip(np.cumsum(counts), counts, strict=True):
            trie = AnswerTrie(rows[end - count : end])
            choices += [_choices(trie, row) for row in rows[end - count : end]]
    else:
        rows = [row[:-1] for row in rows]
    completions = pad(rows, policy.padding_token, side="right")
    scored = completions.mask
    if constrained:
        scored = torch.zeros_like(scored)
        for row, places in enumerate(choices):
            scored[row, [place for place, _ in places]] = True
    logprobs = completion_scores(
        policy.model, prompts, completions.to(policy.device), prompt_of, scored=scored.to(policy.device)
    ).logprobs
    tokens = logprobs.double().cpu().numpy()
    table = np.full((len(examples), max(counts)), -np.inf)
    columns = np.concatenate([np.arange(count) for count in counts])
    table[prompt_of.cpu().numpy(), columns] = tokens.sum(1) - _lost_to_others(choices, rows, tokens)
    return table


def _choices(trie: AnswerTrie, answer: Sequence[int]) -> list[tuple[int, TrieNode]]:
    """The places of an answer at which another candidate's answer goes on otherwise, with their nodes."""
    node, found = trie.root, []
    for place, token in enumerate(answer):
        if len(node.children) > 1:
            found.append((place, node))
        node = node.step(token)
    return found


def _lost_to_others(
    choices: Sequence[Sequence[tuple[int, TrieNode]]], rows: Sequence[Sequence[int]], logprobs: np.ndarray
) -> np.ndarray | float:
    """Log of the probability, summed over an answer's choices, that the allowed tokens share; subtracting it renormalises.

    Every token that competes is the next one of some candidate, so its probability is among ``logprobs`` (R, T).
    """
    if not choices:
        return 0.0
    competing: dict[TrieNode, dict[int, float]] = {}
    for row, places in enumerate(choices):
        for place, node in places:
            competing.setdefault(node, {})[rows[row][place]] = logprobs[row, place]
    shared = {node: np.logaddexp.reduce(list(values.values())) for node, values in competing.items()}
    return np.array([sum(shared[node] for _, node in places) for places in choices])


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
