"""ReST-RL's search at inference (arXiv 2508.19576, github.com/THUDM/ReST-RL): a tree of ranked lists, guided by a value model.

A node is the beginning of a list. The policy draws how it goes on, and the value model says what it is worth.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from hydra.utils import instantiate

from mllmrec.engine.batches import pad
from mllmrec.errors import UserError
from mllmrec.evaluation.ranking import PolicyRanker, RankedExample, Ranker
from mllmrec.inference.base import Inference, InferenceInputs
from mllmrec.inference.tree import Node, back_up, expand, select
from mllmrec.inference.values import ValueModel, last_states, prefix_returns
from mllmrec.prompts.answers import ranked_text
from mllmrec.prompts.examples import Example
from mllmrec.randomness import numpy_generator
from mllmrec.rewards.base import Reward
from mllmrec.rollout.answer_scores import score_answers
from mllmrec.rollout.base import Turn
from mllmrec.rollout.lists import Listed
from mllmrec.samples.item_texts import described_items
from mllmrec.screen.progress import track
from mllmrec.step.collector import Collector
from mllmrec.step.names import Names
from mllmrec.step.speaker import Speaker

log = logging.getLogger(__name__)


class ValueSearch(Inference):
    """Ranks by the best-valued complete list that the search finds. Items that it does not name are not ranked.

    The value model learns from lists that the policy draws for training prompts, paid by the run's own reward. The authors
    collect these with the same tree search.
    """

    needs_package = ("sklearn", "'mllmrec[text]'")
    needs_lists = True
    skips_reasoning = True

    def __init__(
        self,
        iterations: int = 30,
        samples: int = 5,
        children: int = 3,
        exploration: float = 0.2,
        eps: float = 0.1,
        temperature: float = 0.7,
        value_prompts: int = 256,
        value_lists: int = 8,
    ) -> None:
        """Set how to search.

        Args:
            iterations: nodes that are expanded, or visited again, for each user.
            samples: continuations drawn at a node.
            children: distinct continuations of largest value that stay.
            exploration: weight of the term that prefers nodes with few visits.
            eps: keeps that term finite.
            temperature: of the draws.
            value_prompts: training prompts that the value model learns from.
            value_lists: lists drawn for each of them.

        Raises:
            ValueError: a number is too small.
        """
        counts = {
            "iterations": iterations,
            "samples": samples,
            "children": children,
            "value_lists": value_lists,
        }
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name}={count}: must be 1 or more")
        if value_prompts < 2:
            raise ValueError(f"value_prompts={value_prompts}: must be 2 or more")
        for name, number in {"exploration": exploration, "eps": eps, "temperature": temperature}.items():
            if number <= 0:
                raise ValueError(f"{name}={number:g}: must be above 0")
        self.iterations, self.samples, self.children = iterations, samples, children
        self.exploration, self.eps, self.temperature = exploration, eps, temperature
        self.value_prompts, self.value_lists = value_prompts, value_lists

    def ranker(self, inputs: InferenceInputs) -> Ranker:
        """See `Inference`. The value model is fitted when the ranking begins.

        Raises:
            UserError: prompts show images, or the run's reward needs more than an answer.
        """
        if inputs.cfg.prompt.get("item_tokens", "none") == "image":
            raise UserError(
                "inference=value_search with prompt.item_tokens=image: its value model reads only tokens of text; choose "
                "inference=best_of_n"
            )
        reward: Reward = instantiate(inputs.cfg.reward)
        if reward.needs:
            raise UserError(
                f"inference=value_search with reward._target_={inputs.cfg.reward['_target_']}, which needs "
                f"{', '.join(sorted(reward.needs))}: choose a run whose reward judges answers alone, such as reward=rank_list"
            )
        reward.meet_items(described_items(inputs.cfg, inputs.protocol.prepared))
        return ValueSearchRanker(self, inputs, reward)


@dataclass(frozen=True)
class _Asked:
    """One user's prompt, and how its lists are spelled."""

    example: Example
    prompt: list[int]
    lines: list[list[int]]  # of each candidate
    leads: list[list[int]]  # of each place

    def tokens(self, path: Sequence[int], leads_on: bool = False) -> list[int]:
        """Prompt and prefix; with ``leads_on``, up to where the next item is named."""
        said = [
            token for place, column in enumerate(path) for token in (*self.leads[place], *self.lines[column])
        ]
        return [*self.prompt, *said, *(self.leads[len(path)] if leads_on else ())]

    def left(self, path: Sequence[int]) -> list[int]:
        """Columns that are not named yet."""
        return [column for column in range(len(self.lines)) if column not in path]


class ValueSearchRanker(PolicyRanker):
    """Searches for all users of a batch side by side."""

    generated_tokens = 0  # tokens of the continuations that were drawn, and of the value model's lists

    def __init__(self, part: ValueSearch, inputs: InferenceInputs, reward: Reward) -> None:
        """Take the parts.

        Args:
            part: the settings.
            inputs: the policy and the protocol.
            reward: what the value model predicts.
        """
        super().__init__(inputs.policy, inputs.answers, inputs.engine)
        self.part, self.inputs, self.reward = part, inputs, reward
        self.builder, self.seed = inputs.protocol.prepared.builder, inputs.protocol.seed
        self.at_once = 4 * int(inputs.protocol.settings.batch_size)
        self.values: ValueModel | None = None

    @contextmanager
    def ready(self) -> Iterator[None]:
        """No gradients and evaluation mode in this block; the first time it fits the value model."""
        with super().ready():
            if self.values is None:
                self._learn()
            yield

    def _learn(self) -> None:
        """Fit the value model to lists that the policy draws for training prompts."""
        part, train = self.part, self.inputs.protocol.prepared.train
        chosen = numpy_generator(self.seed, "value prompts").permutation(len(train))[: part.value_prompts]
        rollout = Listed(part.temperature)
        speaker = Speaker(
            self.policy,
            self.answers,
            self.engine,
            rollout,
            Names.of(self.builder),
            seed=self.seed,
            purpose="value lists",
        )
        collector = Collector(speaker, rollout, self.reward)
        rows: list[list[int]] = []
        returns: list[float] = []
        groups: list[int] = []
        size = max(1, self.at_once // part.value_lists)
        blocks = [chosen[start : start + size].tolist() for start in range(0, len(chosen), size)]
        for block in track(blocks, "value model", len(chosen), "prompts", weigh=len):
            examples = [train[index] for index in block]
            batch = collector.collect(examples, Turn(0, part.value_lists))
            for place, asked in enumerate(self._asked(examples)):
                own = (batch.example_of == place).nonzero()[:, 0].tolist()
                columns = {item: column for column, item in enumerate(batch.questions[place].titles)}
                lists = [[columns[item] for item, _ in batch.answers[row].items] for row in own]
                known = prefix_returns(lists, [float(batch.judged()[row]) for row in own])
                rows += [asked.tokens(prefix) for prefix in known]
                returns += known.values()
                groups += [block[place]] * len(known)
        states = last_states(self.policy, rows, self.at_once)
        self.generated_tokens += speaker.generated_tokens
        self.values = ValueModel(states, np.array(returns), np.array(groups))
        log.info(
            "value model: %d prefixes of %d training prompts; it explains %.3f of the variance for other prompts",
            *(len(rows), len(chosen), self.values.explained),
        )

    def rank(self, examples: Sequence[Example]) -> list[RankedExample]:
        """The best-valued complete list of each user; if none is complete, the best beginning goes on as the policy likes it."""
        asked = self._asked(examples)
        roots = [Node(()) for _ in asked]
        places = self.builder.places
        for _ in range(self.part.iterations):
            reached = [select(root, self.part.exploration, self.part.eps) for root in roots]
            growing = []
            for user, node in enumerate(reached):
                if len(node.path) == places:
                    back_up(node, node.value, 1)
                else:
                    growing.append((asked[user], node))
            self._expand(growing)
        return [self._ranked(one, root) for one, root in zip(asked, roots, strict=True)]

    def _asked(self, examples: Sequence[Example]) -> list[_Asked]:
        prompts = self.policy.encode_prompts([one.prompt for one in examples])
        lines, leads = self.answers.lines, self.answers.leads
        return [
            _Asked(example, list(prompt), lines.among(example.candidates.tolist()), leads)
            for example, prompt in zip(examples, prompts, strict=True)
        ]

    def _expand(self, growing: Sequence[tuple[_Asked, Node]]) -> None:
        if not growing:
            return
        drawn = []
        for (one, node), probabilities in zip(growing, self._next(growing), strict=True):
            draw = numpy_generator(self.seed, "value search", one.example.sample_id, *node.path)
            left = one.left(node.path)
            drawn.append(draw.choice(left, size=self.part.samples, p=probabilities).tolist())
        steps = [
            (one, (*node.path, column))
            for (one, node), columns in zip(growing, drawn, strict=True)
            for column in dict.fromkeys(columns)
        ]
        worth = iter(self.worth(steps))
        for (one, node), columns in zip(growing, drawn, strict=True):
            self.generated_tokens += sum(len(one.lines[column]) for column in columns)
            values = {column: next(worth) for column in dict.fromkeys(columns)}
            expand(node, columns, values, self.part.children)

    def worth(self, prefixes: Iterable[tuple[_Asked, Sequence[int]]]) -> list[float]:
        """The value of each prefix."""
        assert self.values is not None
        rows = [one.tokens(path) for one, path in prefixes]
        return self.values(last_states(self.policy, rows, self.at_once)).tolist()

    def _next(self, growing: Sequence[tuple[_Asked, Node]]) -> list[np.ndarray]:
        """Probabilities of the items that are left, as the next one."""
        rows = [one.tokens(node.path, leads_on=True) for one, node in growing]
        options = [[one.lines[column] for column in one.left(node.path)] for one, node in growing]
        policy = self.policy
        encoded = self.engine.encode(
            policy.model, pad(rows, policy.padding_token, side="left").to(policy.device)
        )
        scored = score_answers(
            self.engine,
            policy.model,
            encoded,
            options,
            policy.padding_token,
            policy.device,
            temperature=self.part.temperature,
            entropy=False,
        )
        weights = scored.logprobs.double().exp().cpu().numpy()
        bounds = np.cumsum([len(one) for one in options])[:-1]
        return [own / own.sum() for own in np.split(weights, bounds)]

    def _ranked(self, one: _Asked, root: Node) -> RankedExample:
        places = self.builder.places
        leaves = list(root.leaves())
        whole = [leaf for leaf in leaves if len(leaf.path) == places]
        path = max(whole or leaves, key=lambda leaf: leaf.value).path
        while len(path) < places:
            (probabilities,) = self._next([(one, Node(path))])
            path = (*path, one.left(path)[int(probabilities.argmax())])
        candidates = one.example.candidates.tolist()
        text = ranked_text([self.builder.answer(candidates[column], column) for column in path])
        return RankedExample(np.array(path, dtype=np.int64), text=text)
