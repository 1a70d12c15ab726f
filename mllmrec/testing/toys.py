"""Toy batches, and a toy policy that speaks: small enough to check in the head, and complete."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mllmrec.engine.base import Engine
from mllmrec.engine.batches import TokenBatch, pad
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.prompts.builder import ItemTexts, PromptBuilder, load_template
from mllmrec.prompts.examples import Example
from mllmrec.prompts.profiles import SecondPrompt
from mllmrec.prompts.reasoning_tokens import ReasoningTokens
from mllmrec.rl.batch import Question, RolloutBatch
from mllmrec.rollout.base import PlainRollout
from mllmrec.step.names import Names
from mllmrec.step.speaker import Speaker
from mllmrec.text_encoders.base import TextEncoder
from mllmrec.text_encoders.described import DescribedItems

# The target is item 1 of 1 and 2: right, right with its title, the other one, one that is not listed, none, reasoned.
TEXTS = (
    "[ITEM_1]",
    "[ITEM_1] Red Lamp",
    "[ITEM_2] Blue Lamp",
    "[ITEM_9] Old Clock",
    "a lamp",
    "",
    "<think>\nred again\n</think>\n[ITEM_1] Red Lamp",
)
VOCABULARY, END = 16, 1
_IDS, _TITLES = ("1", "2", "3"), ("Red Lamp", "Blue Lamp", "Old Clock")
# Each item's answer. The last two share a token, so that one answer is chosen in two steps.
_ANSWERS = ([7, END], [8, 9, END], [8, 10, END])
_OPEN, _CLOSE = 11, 12  # around reasoning
_LEADS = ([13], [14])  # in front of each item of a list
_PIECES = {
    _OPEN: "<think>\n",
    _CLOSE: "\n</think>\n",
    7: "[ITEM_1]",
    8: "[ITEM_",
    9: "2]",
    10: "3]",
    13: "1.",
    14: "\n2.",
}


def toy_examples(count: int = 2, describes: bool = False) -> list[Example]:
    """Examples with prompts of different lengths and three candidates each; the targets are items 1, 2, 3, 1, ...

    The history of each has the two other items. With ``describes`` the prompts ask for a profile.
    """
    second = None
    if describes:
        builder = PromptBuilder(ItemTexts(_IDS, _TITLES), load_template("compact"))
        second = SecondPrompt(builder, np.array([0, 1, 2]))
    return [
        Example(
            sample_id=f"sample {place}",
            user_id=f"user {place}",
            prompt="likes lamps " * (place % 2 + 1),
            target=place % 3,
            candidates=np.array([0, 1, 2]),
            target_column=place % 3,
            has_reasoning=bool(place % 2),
            history=np.array([(place + 1) % 3, (place + 2) % 3]),
            second=second,
        )
        for place in range(count)
    ]


def toy_batch(
    texts: Sequence[str] = TEXTS,
    *,
    rewards: Sequence[float] | None = None,
    group_of: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
) -> RolloutBatch:
    """A batch of these completions, with every field filled in.

    Args:
        texts: R completions.
        rewards: (R,); None: none yet.
        group_of: (R,) also the example of each row; None: one group.
        weights: (R,) probabilities, if the rows are all answers.
    """
    groups = torch.tensor([0] * len(texts) if group_of is None else list(group_of))
    count = int(groups.max()) + 1
    lengths = [len(text.split()) % 3 + 2 for text in texts]
    rows = [
        [2 + (row + place) % 12 for place in range(length - 1)] + [END] for row, length in enumerate(lengths)
    ]
    completions = pad(rows, 0, side="right")
    noise = torch.Generator().manual_seed(0)

    def logprobs() -> Tensor:
        return torch.where(completions.mask, -torch.rand(completions.ids.shape, generator=noise) - 0.1, 0.0)

    given = None if rewards is None else torch.tensor(list(rewards))
    columns = torch.arange(completions.ids.shape[1]).expand_as(completions.ids)
    return RolloutBatch(
        step=0,
        examples=toy_examples(count),
        questions=[Question(_IDS[0], {_IDS[0]: _TITLES[0], _IDS[1]: _TITLES[1]})] * count,
        prompts=pad([[2, 3, 4][: 1 + place % 3] for place in range(count)], 0, side="left"),
        prompt_of=groups,
        example_of=groups,
        group_of=groups,
        completions=completions,
        learnt=completions.mask,
        choices=None,
        finished=torch.ones(len(texts), dtype=torch.bool),
        texts=list(texts),
        weights=None if weights is None else torch.tensor(list(weights)),
        segments=torch.where(completions.mask, columns.clamp_max(1), -1),
        order=torch.tensor([int((groups[:row] == group).sum()) for row, group in enumerate(groups)]),
        old=logprobs(),
        reference=logprobs(),
        teacher=logprobs(),
        rewards=given,
        place_rewards=None if given is None else torch.stack([given, given.flip(0)], 1),
        greedy=None if given is None else torch.full((count,), float(given[0]))[groups],
    )


def toy_items() -> DescribedItems:
    """The three items, with vectors by hand: the texts are encoded by nobody, since an encoder may have to be downloaded."""
    return _ToyItems(_IDS, _TITLES, seed=0)


class _ToyItems(DescribedItems):
    def vectors(self, encoder: TextEncoder) -> np.ndarray:
        """The first two are alike (cosine 0.6); the third is the first one's opposite."""
        return np.array([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]], dtype=np.float32)


class _ToyPolicy:
    """As much of a policy as speaking needs: words are tokens 2 to 6, answers the tokens of `_ANSWERS`."""

    end_token, padding_token, max_length = END, 0, 1 << 20

    def __init__(self) -> None:
        self.model = _toy_model()
        self.device = torch.device("cpu")

    def prompt_batch(self, prompts: Sequence[str]) -> TokenBatch:
        """Each word is one token."""
        return pad(self.encode_prompts(prompts), self.padding_token, side="left")

    def encode_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Each word is one token; a prompt without words is one token, too."""
        return [row or [2] for row in self.encode_answers(prompts)]

    def encode_answers(self, answers: Sequence[str]) -> list[list[int]]:
        """Each word is one token."""
        return [[2 + sum(word.encode()) % 5 for word in answer.split()] for answer in answers]

    def reasoning_tokens(self) -> ReasoningTokens:
        """One token opens reasoning, another closes it."""
        texts = {_OPEN: "<think>\n", _CLOSE: "\n</think>\n"}

        def decode(rows: Sequence[Sequence[int]]) -> list[str]:
            return ["".join(texts.get(token, f"w{token} ") for token in row) for row in rows]

        return ReasoningTokens([_OPEN], [_CLOSE], [], frozenset({_CLOSE}), decode)

    def decode(self, completions: TokenBatch) -> list[str]:
        """Answers as answers; every other token as a word."""
        rows = zip(completions.ids, completions.mask, strict=True)
        return [
            re.sub(
                r"(?<=.)\[",
                " [",
                "".join(_PIECES.get(token, f"w{token} ") for token in ids[mask].tolist() if token != END),
            )
            for ids, mask in rows
        ]


class _ToyHistories:
    """Prompts are titles."""

    @staticmethod
    def shown(example: Example) -> list[int]:
        return example.history.tolist()

    @staticmethod
    def with_history(example: Example, history: Sequence[int]) -> Example:
        return replace(example, prompt=" ".join(["likes", *(_TITLES[item] for item in history)]))

    @staticmethod
    def described(item: int) -> tuple[str, str]:
        return f"[ITEM_{_IDS[item]}]", _TITLES[item]


class _ToyAnswers:
    """Answers, and lists of two of them."""

    longest, longest_list = 3, 8
    leads = _LEADS

    @staticmethod
    def among(candidates: Sequence[int]) -> list[list[int]]:
        return [list(_ANSWERS[item]) for item in candidates]

    @property
    def lines(self) -> _ToyLines:
        """The same without the end token."""
        return _ToyLines()


class _ToyLines:
    longest = 2

    @staticmethod
    def among(candidates: Sequence[int]) -> list[list[int]]:
        return [list(_ANSWERS[item][:-1]) for item in candidates]


def toy_speaker(rollout: Any, engine: Engine | None = None, seed: int = 0) -> Speaker:
    """A random policy of 16 tokens that completes and scores, as the real one does."""
    plain: PlainRollout = rollout.plain
    policy: Any = _ToyPolicy()
    answers: Any = _ToyAnswers()
    names = Names(_IDS, _TITLES, histories=_ToyHistories())
    return Speaker(policy, answers, engine or SharedPrefix(), plain, names, seed=seed)


@functools.cache
def _toy_model() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=4,
        max_position_embeddings=64,
        eos_token_id=END,
        pad_token_id=0,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Qwen3ForCausalLM(config).eval()
