"""Reasoning, then an answer: the policy thinks freely up to a budget, and then names one of the candidates.

With ``answer="enumerated"`` the reasoning is drawn and the answer is not; ``reasoned.md`` in this folder derives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from mllmrec.engine.base import ChoiceSets, Engine, TokenScores
from mllmrec.engine.batches import TokenBatch, pad
from mllmrec.prompts.markup import THINK_CLOSE
from mllmrec.prompts.trie import AnswerTrie, choice_sets
from mllmrec.rollout.answer_scores import score_rows
from mllmrec.rollout.base import Completions, PlainRollout, Spelling
from mllmrec.rollout.draw import TRIES, draw, inverse_cdf, uniforms
from mllmrec.rollout.written import Wanted, Written, behaviour_of


class Reasoned(PlainRollout):
    """Draws G pieces of reasoning for each prompt, and after each an answer among the candidates.

    The policy closes its reasoning itself; at the limit, or if it ends the completion, it is closed by force. Forced tokens
    are not learnt. Such a completion does not count as finished.
    """

    constrained = True
    reasons = True
    by_server = True
    max_new_tokens = None

    def __init__(
        self,
        answer: Literal["sampled", "enumerated"] = "enumerated",
        temperature: float = 1.0,
        max_reasoning_tokens: int = 64,
        learn_cut_off: bool = True,
    ) -> None:
        """Set how to draw.

        Args:
            answer: draw one answer after each piece of reasoning, or take all with their probabilities.
            temperature: of both draws and of the log-probabilities in the loss; 0 takes the most likely token.
            max_reasoning_tokens: the budget, with the closing tag.
            learn_cut_off: whether the tokens of reasoning that was closed by force are learnt.
        """
        self.answer, self.temperature = answer, temperature
        self.max_reasoning_tokens, self.learn_cut_off = max_reasoning_tokens, learn_cut_off
        self.every_answer = answer == "enumerated"

    def rows(self, group_size: int, candidates: int) -> int:
        """G, or G * C if every answer is a row."""
        return group_size * (candidates if self.every_answer else 1)

    def longest(self, answer: int, around: int) -> int:
        """The budget, the tags and an answer."""
        return around + self.max_reasoning_tokens + answer

    def wanted(self, spelling: Spelling) -> Wanted:
        """The reasoning. Answers stay with the policy, which has the probabilities of all candidates."""
        words = spelling.reasoning
        assert words is not None
        return Wanted(
            words.opening, self.max_reasoning_tokens, spelling.end, self.temperature, stop=THINK_CLOSE
        )

    def draw(
        self,
        engine: Engine,
        model: Any,
        encoded: Any,
        group_size: int,
        generators: Sequence[torch.Generator],
        spelling: Spelling,
    ) -> Completions:
        """Draw reasoning and answers; see `PlainRollout`."""
        said, closed = self.reason(engine, model, encoded, group_size, generators, spelling)
        rows = self.answers_after(engine, model, encoded, said, closed, group_size, spelling)
        # Rows of the same reasoning share what was written. The answer's tokens are not written one after another.
        rows = replace(rows, generated=self.written(said, group_size))
        if self.every_answer:
            return rows
        return _taken(rows, self._pick(rows, spelling.answers, group_size, generators))

    @torch.no_grad()
    def reason(
        self,
        engine: Engine,
        model: Any,
        encoded: Any,
        group_size: int,
        generators: Sequence[torch.Generator],
        spelling: Spelling,
    ) -> tuple[list[list[int]], list[bool]]:
        """Draw reasoning; arguments as in `draw`.

        Returns:
            The drawn tokens of each of B * G rows, with those of a closing tag, and whether there is one.
        """
        words = spelling.reasoning
        assert words is not None
        if spelling.written is not None:
            rows_and_ends = [words.until_closed(row, spelling.end) for row in spelling.written.rows]
            return [row for row, _ in rows_and_ends], [ends for _, ends in rows_and_ends]
        numbers = uniforms(generators, group_size, self.max_reasoning_tokens, TRIES).flatten(0, 1)
        decoder = engine.decoder(model, encoded, group_size)
        rows = len(numbers)
        for token in words.opening:
            decoder.advance(torch.full((rows,), token, device=decoder.logits.device))
        said: list[list[int]] = [[] for _ in range(rows)]
        closed = [False] * rows
        alive = list(range(rows))
        for step in range(self.max_reasoning_tokens):
            chosen = draw(decoder.logits, numbers[alive, step], self.temperature)
            goes_on = [place for place, token in enumerate(chosen.tolist()) if token != spelling.end]
            for place in goes_on:
                said[alive[place]].append(int(chosen[place]))
            done = words.closed([said[alive[place]] for place in goes_on])
            for place, ends in zip(goes_on, done, strict=True):
                closed[alive[place]] = ends
            on = [place for place, ends in zip(goes_on, done, strict=True) if not ends]
            if not on:
                break
            if len(on) < len(alive):
                kept = torch.tensor(on, device=chosen.device)
                chosen = chosen[kept]
                decoder.keep(kept)
                alive = [alive[place] for place in on]
            if step + 1 < self.max_reasoning_tokens:
                decoder.advance(chosen)
        return said, closed

    def written(self, said: Sequence[Sequence[int]], group_size: int) -> int:
        """How many of the tokens of B * G pieces of reasoning were drawn one after another."""
        return sum(map(len, said))

    def answers_after(
        self,
        engine: Engine,
        model: Any,
        encoded: Any,
        said: Sequence[Sequence[int]],
        closed: Sequence[bool],
        group_size: int,
        spelling: Spelling,
    ) -> Completions:
        """All answers after each piece of reasoning, with their probabilities.

        Args:
            engine: runs the model.
            model: a causal language model.
            encoded: the B prompts.
            said: tokens of B * G pieces of reasoning.
            closed: whether each ends with a closing tag; if not, it is closed by force.
            group_size: G.
            spelling: tokens of answers and tags.

        Returns:
            A prompt's G * C rows, reasoning by reasoning. The weights of the rows after one piece sum to one.
        """
        rows = self._answered(said, closed, group_size, spelling, next(model.parameters()).device)
        assert rows.segments is not None
        scores = score_rows(
            engine,
            model,
            encoded,
            rows.tokens,
            rows.prompt_of,
            rows.decisions,
            rows.choices,
            temperature=self.temperature or 1.0,
        )
        weights = torch.where(rows.segments == 0, scores.logprobs.detach(), 0.0).sum(1).exp()
        if not self.learn_cut_off:
            learnt = rows.decisions & (rows.finished[:, None] | (rows.segments == 0))
            rows = replace(rows, decisions=learnt)
        return replace(rows, scores=scores, weights=weights)

    def _answered(
        self,
        said: Sequence[Sequence[int]],
        closed: Sequence[bool],
        group_size: int,
        spelling: Spelling,
        device: torch.device,
    ) -> Completions:
        """Each piece of reasoning with each candidate's answer: a prompt's G * C rows, reasoning by reasoning."""
        words = spelling.reasoning
        assert words is not None
        tries = [AnswerTrie(own) for own in spelling.answers]
        sets, open_places = choice_sets(
            [trie for trie, own in zip(tries, spelling.answers, strict=True) for _ in own],
            [answer for own in spelling.answers for answer in own],
        )
        # Of each row: its tokens, its reasoning, its answer among all answers, where its answer begins.
        rows, reasoning_of, path_of, begins = [], [], [], []
        firsts = [0]
        for own in spelling.answers:
            firsts.append(firsts[-1] + len(own))
        for place, tokens in enumerate(said):
            head = [*words.opening, *tokens, *words.rest(tokens, closed[place])]
            prompt = place // group_size
            for column, answer in enumerate(spelling.answers[prompt]):
                rows.append([*head, *answer])
                reasoning_of.append(place)
                path_of.append(firsts[prompt] + column)
                begins.append(len(head))
        written = pad(rows, spelling.end, side="right")
        place_of = torch.arange(written.ids.shape[1])
        begin, path = torch.tensor(begins)[:, None], torch.tensor(path_of)
        in_answer = written.mask & (place_of >= begin)
        within = (place_of - begin).clamp(0, sets.set_of.shape[1] - 1)
        among = torch.where(in_answer, sets.set_of[path].gather(1, within), -1)
        decides = in_answer & open_places[path].gather(1, within)
        first, drawn = len(words.opening), torch.tensor([len(tokens) for tokens in said])[reasoning_of]
        in_reasoning = (place_of >= first) & (place_of < first + drawn[:, None])
        finished = torch.tensor(closed)[reasoning_of]
        behaviour = None
        if spelling.written is not None:
            known = self.known(spelling.written, said)
            behaviour = behaviour_of([known[place] for place in reasoning_of], first, written.ids)
        return Completions(
            tokens=written.to(device),
            prompt_of=(torch.tensor(reasoning_of) // group_size).to(device),
            decisions=(decides | in_reasoning).to(device),
            choices=ChoiceSets(among, sets.tokens).to(device),
            finished=finished.to(device),
            segments=torch.where(in_answer, 0, -1).to(device),
            behaviour=None if behaviour is None else behaviour.to(device),
        )

    def known(self, written: Written, said: Sequence[Sequence[int]]) -> list[list[float]]:
        """The server's log-probabilities of what is kept of its rows."""
        return [list(own[: len(kept)]) for own, kept in zip(written.logprobs, said, strict=True)]

    def _pick(
        self,
        rows: Completions,
        answers: Sequence[Sequence[Sequence[int]]],
        group_size: int,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """(B * G,) rows: one answer after each piece of reasoning."""
        assert rows.weights is not None
        probabilities = rows.weights.double().cpu()
        picked, start = [], 0
        for own, numbers in zip(answers, uniforms(generators, group_size), strict=True):
            each = probabilities[start : start + group_size * len(own)].view(group_size, len(own))
            columns = each.argmax(1) if self.temperature == 0 else inverse_cdf(each, numbers)
            picked.append(start + torch.arange(group_size) * len(own) + columns)
            start += group_size * len(own)
        return torch.cat(picked).to(rows.weights.device)


def _taken(rows: Completions, picked: Tensor) -> Completions:
    """Some rows, without the columns that they do not need."""
    width = int(rows.tokens.mask[picked].sum(1).max())
    assert rows.choices is not None
    assert rows.segments is not None
    assert rows.scores is not None
    return Completions(
        tokens=TokenBatch(rows.tokens.ids[picked, :width], rows.tokens.mask[picked, :width]),
        prompt_of=rows.prompt_of[picked],
        decisions=rows.decisions[picked, :width],
        choices=ChoiceSets(rows.choices.set_of[picked, :width], rows.choices.tokens),
        finished=rows.finished[picked],
        scores=TokenScores(rows.scores.logprobs[picked, :width], rows.scores.entropy[picked, :width]),
        segments=rows.segments[picked, :width],
        order=None if rows.order is None else rows.order[picked],
        behaviour=None if rows.behaviour is None else rows.behaviour[picked, :width],
        generated=rows.generated,
    )
