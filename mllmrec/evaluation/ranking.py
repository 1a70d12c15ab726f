"""Ways to rank candidates. None of them looks at the target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from mllmrec.engine.base import Engine
from mllmrec.engine.batches import pad
from mllmrec.evaluation.metrics import order_by_score
from mllmrec.evaluation.records import clean_ranking
from mllmrec.models.policy import Policy
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.examples import Example, Examples
from mllmrec.randomness import torch_generator
from mllmrec.rollout.answer_scores import score_answers, score_rows
from mllmrec.rollout.base import Spelling
from mllmrec.rollout.free import Free
from mllmrec.rollout.lists import Listed
from mllmrec.step.names import Names


@dataclass(frozen=True)
class RankedExample:
    """The order of one example's candidates, and what was wrong with the answer."""

    order: (
        np.ndarray
    )  # columns of the example's candidates, best first; shorter than C if not all were ranked
    duplicates: int = 0
    off_candidate: int = 0
    text: str | None = None
    generated_tokens: int = 0
    first_listed: int = 0  # the first column of the list that holds the best candidate
    scores: np.ndarray | None = (
        None  # (C,) of the columns, greater is better; None if the order comes from none
    )

    def rank_of(self, column: int) -> float:
        """The 1-based rank of a candidate; nan if it was not ranked."""
        places = np.flatnonzero(self.order == column)
        return float(places[0] + 1) if len(places) else float("nan")

    @property
    def place_of_first(self) -> int:
        """Where the top-ranked candidate stands in its list, from 0; -1 if none was ranked."""
        return int(self.order[0]) - self.first_listed if len(self.order) else -1


class Ranker(ABC):
    """Orders the candidates of examples."""

    reads_prompts: bool = True  # whether it looks at the prompts of examples; if not, none is written
    generated_tokens: int = 0  # written so far, besides those that results count themselves
    in_order: bool = False  # whether the ranking of a batch depends on the batches before it

    @abstractmethod
    def rank(self, examples: Sequence[Example]) -> list[RankedExample]:
        """Rank one batch, inside `ready`."""

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Rank batches inside this block; it turns gradients off."""
        with torch.no_grad():
            yield


class PolicyRanker(Ranker):
    """Ranks with a language model."""

    def __init__(self, policy: Policy, answers: AnswerTokens, engine: Engine) -> None:
        self.policy, self.answers, self.engine = policy, answers, engine

    @contextmanager
    def ready(self) -> Iterator[None]:
        """No gradients and evaluation mode in this block; afterwards the model has its old mode again."""
        training = self.policy.model.training
        self.policy.model.eval()
        try:
            with super().ready():
                yield
        finally:
            self.policy.model.train(training)


class ScoringRanker(PolicyRanker):
    """Ranks by a score of each candidate."""

    seed: int  # of the permutations that break ties

    @abstractmethod
    def scores(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """For each example (C,) float64, greater is better."""

    def rank(self, examples: Sequence[Example]) -> list[RankedExample]:
        """Rank one batch; each user's own permutation breaks ties."""
        return ranked_by_score(self.scores(examples), examples, self.seed)


class Likelihood(ScoringRanker):
    """Ranks by the log-probability that the policy's completion begins with a candidate's answer.

    ``constrained`` renormalises over the candidates' answers at every token. That gives the exact probability
    that a constrained rollout ends in that candidate.
    """

    def __init__(
        self, policy: Policy, answers: AnswerTokens, engine: Engine, seed: int, constrained: bool = False
    ) -> None:
        super().__init__(policy, answers, engine)
        self.seed, self.constrained = seed, constrained

    def scores(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """For each example (C,) log-probabilities, float64."""
        table = candidate_scores(
            self.policy, self.answers, examples, constrained=self.constrained, engine=self.engine
        )
        return [row[: len(example.candidates)] for row, example in zip(table, examples, strict=True)]


def ranked_by_score(
    scores: Sequence[np.ndarray], examples: Sequence[Example], seed: int
) -> list[RankedExample]:
    """Order by decreasing score; each user's own permutation breaks ties.

    Args:
        scores: (C,) for each example.
        examples: one for each entry of ``scores``.
        seed: the seed of the permutations.
    """
    # One by one: padding to longer lists in the batch would change the permutation that breaks a user's ties.
    return [
        RankedExample(order_by_score(row[None], [example.user_id], seed)[0], scores=row)
        for row, example in zip(scores, examples, strict=True)
    ]


def candidate_scores(
    policy: Policy,
    answers: AnswerTokens,
    examples: Sequence[Example],
    *,
    constrained: bool,
    engine: Engine,
) -> np.ndarray:
    """Log-probabilities of all candidates' answers, (S, C) float64; -inf where an example has fewer than C.

    The end token is scored under ``constrained``, and where an answer may be the beginning of another one (titles, numbers).
    Labels end with a bracket and letters are alone, so what follows them says nothing about the item.
    """
    prompts = [example.prompt for example in examples]
    options = [answers.among(example.candidates.tolist()) for example in examples]
    prompt_of = np.arange(len(options)).repeat([len(candidates) for candidates in options])
    if constrained:
        totals = scores_behind(policy, prompts, options, engine)
    else:
        encoded = engine.encode(policy.model, policy.prompt_batch(prompts))
        rows = [answer for candidates in options for answer in candidates]
        if answers.ends_itself:
            rows = [answer[:-1] for answer in rows]
        completions = pad(rows, policy.padding_token, side="right").to(policy.device)
        answered = torch.from_numpy(prompt_of).to(policy.device)
        scores = score_rows(
            engine, policy.model, encoded, completions, answered, completions.mask, entropy=False
        )
        totals = scores.logprobs.double().sum(1).cpu().numpy()
    table = np.full((len(examples), max(map(len, options))), -np.inf)
    columns = np.concatenate([np.arange(len(candidates)) for candidates in options])
    table[prompt_of, columns] = totals
    return table


def scores_behind(
    policy: Policy, prompts: Sequence[str], answers: Sequence[Sequence[Sequence[int]]], engine: Engine
) -> np.ndarray:
    """Log-probabilities of answers if no others are possible, float64; those of one prompt behind those of another.

    Args:
        policy: the policy.
        prompts: B texts.
        answers: for each, the token ids of its answers.
        engine: runs the policy's model.
    """
    encoded = engine.encode(policy.model, policy.prompt_batch(prompts))
    scored = score_answers(
        engine, policy.model, encoded, answers, policy.padding_token, policy.device, entropy=False
    )
    return scored.scores.logprobs.double().sum(1).cpu().numpy()


class ConstrainedList(PolicyRanker):
    """Ranks by the list that the policy writes greedily if every place takes one of the candidates that are left."""

    def rank(self, examples: Sequence[Example]) -> list[RankedExample]:
        """Write a list for each example; what it does not name is not ranked."""
        policy = self.policy
        encoded = self.engine.encode(policy.model, policy.prompt_batch([one.prompt for one in examples]))
        options = [self.answers.lines.among(one.candidates.tolist()) for one in examples]
        spelling = Spelling(policy.end_token, options, leads=self.answers.leads)
        generators = [torch_generator(0, "unused by greedy lists")] * len(examples)
        drawn = Listed(temperature=0.0).draw(self.engine, policy.model, encoded, 1, generators, spelling)
        assert drawn.segments is not None
        ranked = []
        for row, (text, own) in enumerate(zip(policy.decode(drawn.tokens), options, strict=True)):
            ids, places = drawn.tokens.ids[row], drawn.segments[row]
            said = [ids[places == place].tolist() for place in range(len(self.answers.leads))]
            order = np.array([own.index(tokens) for tokens in said], dtype=np.int64)
            count = int(drawn.tokens.mask[row].sum())
            ranked.append(RankedExample(order, text=text, generated_tokens=count))
        return ranked


class InLists(Ranker):
    """Ranks by likelihood more candidates than one prompt should list: each is scored under the prompt that lists it."""

    def __init__(self, ranker: ScoringRanker, examples: Examples) -> None:
        """Rank by the scores of several prompts.

        Args:
            ranker: scores the candidates of each list.
            examples: the examples to rank; they say which candidates are listed together.
        """
        self.ranker, self.examples = ranker, examples

    @property
    def generated_tokens(self) -> int:  # type: ignore[override]
        """Those of the ranker that scores each list."""
        return self.ranker.generated_tokens

    @property
    def in_order(self) -> bool:  # type: ignore[override]
        """As the ranker that scores each list."""
        return self.ranker.in_order

    @contextmanager
    def ready(self) -> Iterator[None]:
        """The block of the ranker that scores each list."""
        with self.ranker.ready():
            yield

    def rank(self, examples: Sequence[Example]) -> list[RankedExample]:
        """Rank one batch; each user's own permutation breaks ties."""
        parts = [self.examples.in_lists(example) for example in examples]
        listed = [part for lists in parts for part in lists]
        size = len(examples)  # prompts at once, the same as in every ranker
        blocks = (listed[start : start + size] for start in range(0, len(listed), size))
        rows = iter([row for block in blocks for row in self.ranker.scores(block)])
        scores = [np.concatenate([next(rows) for _ in lists]) for lists in parts]
        ranked = ranked_by_score(scores, examples, self.ranker.seed)
        return [
            replace(result, first_listed=_start_of_list(lists, int(result.order[0])))
            for result, lists in zip(ranked, parts, strict=True)
        ]


def _start_of_list(lists: Sequence[Example], column: int) -> int:
    """The first column of the list that holds this column of the candidates."""
    ends = np.cumsum([len(part.candidates) for part in lists])
    return int(np.append(0, ends)[np.searchsorted(ends, column, side="right")])


class Generate(PolicyRanker):
    """Ranks by greedy free text: the candidates in the order in which the answer names them.

    Duplicates and ids that are not candidates are counted but take no rank. Candidates that the answer does not name are
    not ranked.
    """

    def __init__(
        self,
        policy: Policy,
        answers: AnswerTokens,
        engine: Engine,
        names: Names,
        max_new_tokens: int = 64,
    ) -> None:
        super().__init__(policy, answers, engine)
        self.names, self.max_new_tokens = names, max_new_tokens

    def rank(self, examples: Sequence[Example]) -> list[RankedExample]:
        """Generate one answer per example and read it."""
        policy = self.policy
        prompts = policy.prompt_batch([example.prompt for example in examples])
        greedy = Free(temperature=0.0, max_new_tokens=self.max_new_tokens)
        generators = [torch_generator(0, "unused by greedy decoding")] * len(examples)
        encoded = self.engine.encode(policy.model, prompts)
        completions = greedy.draw(
            self.engine, policy.model, encoded, 1, generators, Spelling(policy.end_token)
        ).tokens
        lengths = completions.mask.sum(1).tolist()
        ranked = []
        for example, text, length in zip(examples, policy.decode(completions), lengths, strict=True):
            question = self.names.question(example)
            column_of = {item: column for column, item in enumerate(question.titles)}
            kept = clean_ranking([item for item, _ in question.read(text).items], column_of)
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
