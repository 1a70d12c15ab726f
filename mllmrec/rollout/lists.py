"""Ranked lists of candidates: each place takes one of those that are left, so every list is well formed.

The probability of a list is that of a Plackett-Luce draw whose weights may change with what was named before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mllmrec.engine.base import Engine
from mllmrec.engine.batches import pad
from mllmrec.prompts.trie import AnswerTrie, choice_sets
from mllmrec.rollout.answer_scores import score_rows
from mllmrec.rollout.base import Completions, PlainRollout, Spelling
from mllmrec.rollout.draw import inverse_cdf, uniforms


class Listed(PlainRollout):
    """Draws lists, place by place. Only the tokens that choose an item are learnt; a token's segment is its place."""

    constrained = True
    lists = True
    max_new_tokens = None

    def __init__(self, temperature: float = 1.0) -> None:
        """Set the temperature; 0 takes the most likely token."""
        self.temperature = temperature

    def draw(
        self,
        engine: Engine,
        model: Any,
        encoded: Any,
        group_size: int,
        generators: Sequence[torch.Generator],
        spelling: Spelling,
    ) -> Completions:
        """Draw ``group_size`` lists for each prompt; see `PlainRollout`."""
        lists = self._write(engine, model, encoded, group_size, generators, spelling)
        device = next(model.parameters()).device
        tokens = pad([one.tokens for one in lists], spelling.end, side="right")
        ids, width = tokens.ids, tokens.ids.shape[1]
        # Each item of each list is a path in the trie of what was left.
        items = [item for one in lists for item in one.items]
        sets, open_places = choice_sets([item.left for item in items], [item.tokens for item in items])
        among = torch.full((len(lists), width), -1)
        decisions = torch.zeros(len(lists), width, dtype=torch.bool)
        segments = torch.full((len(lists), width), -1)
        number = 0
        for row, one in enumerate(lists):
            for place, item in enumerate(one.items):
                part = slice(item.begin, item.begin + len(item.tokens))
                among[row, part] = sets.set_of[number, : len(item.tokens)]
                decisions[row, part] = open_places[number, : len(item.tokens)]
                segments[row, part] = place
                number += 1
        choices = sets._replace(set_of=among).to(device)
        prompt_of = torch.arange(len(lists), device=device) // group_size
        scores = score_rows(
            engine,
            model,
            encoded,
            tokens.to(device),
            prompt_of,
            decisions.to(device),
            choices,
            temperature=self.temperature or 1.0,
        )
        return Completions(
            tokens=tokens.to(device),
            prompt_of=prompt_of,
            decisions=decisions.to(device),
            choices=choices,
            finished=torch.ones(len(ids), dtype=torch.bool, device=device),
            scores=scores,
            segments=segments.to(device),
        )

    @torch.no_grad()
    def _write(
        self,
        engine: Engine,
        model: Any,
        encoded: Any,
        group_size: int,
        generators: Sequence[torch.Generator],
        spelling: Spelling,
    ) -> list[_List]:
        lists = [_List(spelling, row // group_size) for row in range(len(generators) * group_size)]
        longest = max(len(answer) for options in spelling.answers for answer in options)
        numbers = uniforms(generators, group_size, len(spelling.leads), longest).flatten(0, 1)
        decoder = engine.decoder(model, encoded, group_size)
        alive = list(range(len(lists)))
        while True:
            logits = decoder.logits.cpu()
            for place, row in enumerate(alive):
                one = lists[row]
                token = one.forced()
                if token is None:
                    options = sorted(one.node.children)
                    token = options[self._chosen(logits[place, options], numbers[row, one.place, one.depth])]
                one.say(token)
            on = [place for place, row in enumerate(alive) if not lists[row].whole]
            if not on:
                return lists
            if len(on) < len(alive):
                decoder.keep(torch.tensor(on, device=decoder.logits.device))
                alive = [alive[place] for place in on]
            decoder.advance(
                torch.tensor([lists[row].tokens[-1] for row in alive], device=decoder.logits.device)
            )

    def _chosen(self, logits: Tensor, number: Tensor) -> int:
        if self.temperature == 0:
            return int(logits.argmax())
        return int(inverse_cdf(torch.softmax(logits / self.temperature, -1)[None], number[None])[0])


@dataclass(frozen=True)
class _Item:
    begin: int  # its first token in the list
    tokens: list[int]
    left: AnswerTrie  # what could be named


class _List:
    """A list that is being written."""

    def __init__(self, spelling: Spelling, prompt: int) -> None:
        self.leads, self.end = spelling.leads, spelling.end
        self.left = [list(answer) for answer in spelling.answers[prompt]]
        self.tokens: list[int] = []
        self.items: list[_Item] = []
        self.waiting = list(self.leads[0])  # tokens that are not chosen
        self.trie = AnswerTrie(self.left)
        self.node, self.begin = self.trie.root, 0  # what is said of an item, and where it begins
        self.whole = False  # whether the list has its end token

    @property
    def place(self) -> int:
        """The place that is being filled, from 0."""
        return len(self.items)

    @property
    def depth(self) -> int:
        """Tokens of the item that is being named."""
        return len(self.tokens) - self.begin

    def forced(self) -> int | None:
        """The next token if it is the only one that is possible."""
        if self.waiting:
            return self.waiting[0]
        return next(iter(self.node.children)) if len(self.node.children) == 1 else None

    def say(self, token: int) -> None:
        """Append the next token."""
        self.tokens.append(token)
        if self.waiting:
            self.waiting.pop(0)
            self.begin = len(self.tokens)
            self.whole = not self.waiting and self.place == len(self.leads)
            return
        self.node = self.node.step(token)
        if self.node.answer is None:
            return
        said = self.tokens[self.begin :]
        self.items.append(_Item(self.begin, said, self.trie))
        self.left.remove(said)
        self.begin = len(self.tokens)
        if self.place == len(self.leads):
            self.waiting = [self.end]
            return
        self.waiting = list(self.leads[self.place])
        self.trie = AnswerTrie(self.left)
        self.node = self.trie.root
