"""The policy as rollouts and losses meet it: it encodes prompts, completes them and scores completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mllmrec.engine.base import Engine, TokenScores
from mllmrec.engine.batches import TokenBatch
from mllmrec.errors import UserError
from mllmrec.models.policy import Policy
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.examples import Example
from mllmrec.randomness import torch_generator
from mllmrec.rl.batch import POLICY, KnownScores, RolloutBatch
from mllmrec.rollout.base import Completions, Histories, PlainRollout, Spelling, Turn
from mllmrec.step.answer_tokens import answer_segments
from mllmrec.step.going_on import Tail, grown_rows, left_to_say, prompts_with
from mllmrec.step.names import Names
from mllmrec.step.together import copies_of, drawn_together, scored_together

if TYPE_CHECKING:
    from mllmrec.step.served import Served  # needs an optional package


class Speaker:
    """A policy with an engine that runs it, the tokens of its answers, and a way to draw."""

    def __init__(
        self,
        policy: Policy,
        answers: AnswerTokens,
        engine: Engine,
        draw: PlainRollout,
        names: Names,
        *,
        seed: int = 0,
        purpose: str = "rollouts",
        micro_batch_size: int = 64,
    ) -> None:
        """Put the parts together.

        Args:
            policy: the policy.
            answers: tokens of every item's answer.
            engine: runs the policy's model.
            draw: how completions are drawn; its temperature is that of all scores.
            names: ids and titles of the items.
            seed: the run's seed.
            purpose: names the draws, so that two phases draw differently.
            micro_batch_size: completions through the model at once where they are scored.
        """
        self.policy, self.answers, self.engine = policy, answers, engine
        self.plain, self.names, self.seed = draw, names, seed
        self.purpose, self.micro_batch_size = purpose, micro_batch_size
        self.generated_tokens = 0
        self.served: Served | None = None  # a server that draws in the policy's place
        self._reasoning = policy.reasoning_tokens() if draw.reasons else None

    @property
    def longest(self) -> int:
        """The most tokens that a completion can have."""
        around = self._reasoning.around if self._reasoning is not None else 0
        longest = self.answers.longest_list if self.plain.lists else self.answers.longest
        return self.plain.longest(longest, around)

    @property
    def histories(self) -> Histories:
        """Writes prompts about other histories.

        Raises:
            ValueError: nobody does.
        """
        if self.names.histories is None:
            raise ValueError("this speaker writes no prompts, so no part can show another history")
        return self.names.histories

    def spelling(self, examples: Sequence[Example]) -> Spelling:
        """The tokens of the answers and tags of some examples."""
        answers: list[list[list[int]]] = []
        if self.plain.constrained:
            tokens = self.answers.lines if self.plain.lists else self.answers
            answers = [tokens.among(example.candidates.tolist()) for example in examples]
        leads = self.answers.leads if self.plain.lists else []
        return Spelling(self.policy.end_token, answers, self._reasoning, leads)

    @property
    def device(self) -> torch.device:
        """The policy's device."""
        return self.policy.device

    def complete(
        self,
        examples: Sequence[Example],
        turn: Turn,
        *,
        which: Sequence[int] | None = None,
        prompts: Sequence[str] | None = None,
        round_: str | int = 0,
        source: str = POLICY,
        draw: PlainRollout | None = None,
    ) -> RolloutBatch:
        """G completions of each prompt; see `mllmrec.rollout.base.Speaker`.

        The draws of an example depend only on the seed, the step, the round and the example; an example that stands
        among the N several times is drawn differently each time.

        Raises:
            NoProbabilities: the policy's probabilities are not numbers.
            UserError: a server's completions cannot be used.
        """
        places = list(range(len(examples))) if which is None else list(which)

        def complete(part: slice) -> RolloutBatch:
            asked = [examples[place] for place in places[part]]
            texts = [one.prompt for one in asked] if prompts is None else prompts[part]
            tokens = self.policy.prompt_batch(texts) if prompts is None else self._prompts(texts)
            generators = self._generators(examples, places[part], turn, round_)
            drawn, encoded = self._drawn(tokens, turn, generators, self.spelling(asked), draw)
            known = KnownScores(encoded, drawn.scores) if turn.gradients else None
            batch = self._batch(examples, turn, places[part], tokens, drawn, source, known)
            segments = drawn.segments
            if segments is None and not self.plain.constrained:
                segments = answer_segments(self.policy, batch.completions, batch.texts)
            return replace(batch, segments=segments)

        return drawn_together(self, len(places), complete, examples)

    def ask_ahead(self, examples: Sequence[Example], turn: Turn) -> None:
        """Let the server begin with the completions of a later step; `complete` takes them, and counts the prompts."""
        assert self.served is not None
        prompts = self.policy.encode_rendered([self.policy.render(one.prompt) for one in examples])
        draws = self._generators(examples, range(len(examples)), turn, 0)
        self.served.ask_ahead(self.plain, prompts, turn.group_size, draws, self.spelling(examples))

    def _generators(
        self, examples: Sequence[Example], places: Sequence[int], turn: Turn, round_: str | int
    ) -> list[torch.Generator]:
        purpose = (self.purpose, turn.step, *(() if round_ == 0 else ("round", round_)))
        named = [(one.sample_id, *copy) for one, copy in zip(examples, copies_of(examples), strict=True)]
        return [torch_generator(self.seed, *purpose, *named[place]) for place in places]

    def _drawn(
        self,
        tokens: TokenBatch,
        turn: Turn,
        generators: Sequence[torch.Generator],
        spelling: Spelling,
        draw: PlainRollout | None = None,
    ) -> tuple[Completions, Any]:
        """The completions of some prompts, and the prompts as the engine encoded them."""
        draw = draw or self.plain
        draw = draw.greedy() if turn.greedy else draw
        if self.served is not None and not turn.greedy:
            spelling = self.served.with_written(draw, tokens, turn.group_size, generators, spelling)
        model = self.policy.model
        training = model.training
        model.train(training and turn.gradients)
        try:
            with torch.set_grad_enabled(turn.gradients):
                encoded = self.engine.encode(model, tokens)
                drawn = draw.draw(self.engine, model, encoded, turn.group_size, generators, spelling)
        finally:
            model.train(training)
        if drawn.generated is not None:
            self.generated_tokens += drawn.generated
        elif drawn.weights is None:
            self.generated_tokens += int(drawn.tokens.mask.sum())
        return drawn, encoded

    def go_on(
        self,
        batch: RolloutBatch,
        rows: Sequence[int],
        kept: Sequence[int],
        inserted: Sequence[str],
        turn: Turn,
        *,
        round_: str | int,
        source: str = POLICY,
    ) -> RolloutBatch:
        """See `mllmrec.rollout.base.Speaker`.

        Raises:
            NoProbabilities: the policy's probabilities are not numbers.
            UserError: a row becomes too long for the policy.
        """
        told = self.policy.encode_answers(inserted)
        all_tails = [Tail(row, count, own) for row, count, own in zip(rows, kept, told, strict=True)]
        all_places = batch.example_of[list(rows)].tolist()
        copies, purpose = copies_of(batch.examples), (self.purpose, turn.step, "round", round_)
        draws = [
            (
                *purpose,
                batch.examples[place].sample_id,
                *copies[place],
                "row",
                all_places[:number].count(place),
            )
            for number, place in enumerate(all_places)
        ]

        def go_on(part: slice) -> RolloutBatch:
            tails, places = all_tails[part], all_places[part]
            tokens = prompts_with(batch, tails)
            # A list is as long as before, wherever it goes on.
            if not self.plain.lists or any(told):
                tokens = self._fitting(tokens)
            generators = [torch_generator(self.seed, *draw) for draw in draws[part]]
            spelling = self.spelling([batch.examples[place] for place in places])
            if spelling.reasoning is not None:
                # What is kept has opened the reasoning already.
                spelling = replace(spelling, reasoning=replace(spelling.reasoning, opening=[]))
            if self.plain.lists:
                spelling = left_to_say(spelling, batch, tails)
            drawn, _ = self._drawn(tokens, replace(turn, group_size=1, gradients=False), generators, spelling)
            grown = grown_rows(batch, tails, drawn)
            texts = self.policy.decode(grown.completions)
            grown = replace(grown, texts=texts, sources=(source,) * len(tails))
            if drawn.segments is None and not self.plain.constrained:
                grown = replace(grown, segments=answer_segments(self.policy, grown.completions, texts))
            return grown

        grown = drawn_together(self, len(all_tails), go_on, batch.examples)
        return replace(grown, prompts=batch.prompts, prompt_of=batch.prompt_of[list(rows)])

    def _batch(
        self,
        examples: Sequence[Example],
        turn: Turn,
        places: Sequence[int],
        prompts: TokenBatch,
        drawn: Completions,
        source: str,
        known: KnownScores | None,
    ) -> RolloutBatch:
        example_of = torch.tensor(places)[drawn.prompt_of.cpu()]
        return RolloutBatch(
            step=turn.step,
            examples=examples,
            questions=[self.names.question(example) for example in examples],
            prompts=prompts,
            prompt_of=drawn.prompt_of,
            example_of=example_of,
            group_of=example_of,
            completions=drawn.tokens,
            learnt=drawn.decisions,
            choices=drawn.choices,
            finished=drawn.finished,
            texts=self.policy.decode(drawn.tokens),
            sources=() if source == POLICY else (source,) * len(example_of),
            weights=drawn.weights,
            order=None if drawn.order is None else drawn.order.cpu(),
            behaviour=drawn.behaviour,
            known=known,
        )

    @property
    def room(self) -> int:
        """The most tokens of a prompt."""
        return self.policy.max_length - self.longest

    def fits(self, prompts: Sequence[str]) -> list[bool]:
        """Whether the policy takes each of these prompts, with the longest answer after it."""
        return (self.policy.prompt_batch(list(prompts)).mask.sum(1) <= self.room).tolist()

    def _prompts(self, texts: Sequence[str]) -> TokenBatch:
        """Prompts that a part wrote, which no check before the training has seen.

        Raises:
            UserError: one is too long for the policy.
        """
        return self._fitting(self.policy.prompt_batch(list(texts)))

    def _fitting(self, tokens: TokenBatch) -> TokenBatch:
        """The same prompts.

        Raises:
            UserError: one is too long for the policy.
        """
        if tokens.ids.shape[1] > self.room:
            raise UserError(
                f"a prompt with a hint or question of a rollout or teacher has {tokens.ids.shape[1]} tokens, and with "
                f"{self.longest} for an answer the policy takes {self.room}: shorten it, show less with prompt.history_length or "
                f"candidates.num_negatives, or {self.policy.remedy}"
            )
        return tokens

    def pieces(self, batch: RolloutBatch) -> list[list[str]]:
        """The text of each token of each completion; the end token has none."""
        ids, mask = batch.completions
        used = torch.unique(ids[mask])[:, None]
        texts = self.policy.decode(TokenBatch(used, torch.ones_like(used, dtype=torch.bool)))
        text_of = dict(zip(used[:, 0].tolist(), texts, strict=True))
        return [[text_of[token] for token in row[real].tolist()] for row, real in zip(ids, mask, strict=True)]

    @torch.no_grad()
    def score(
        self,
        batch: RolloutBatch,
        *,
        prompts: Sequence[str] | None = None,
        model: Any = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """(R, T) log-probabilities of a batch's learnt tokens, without a graph.

        Args:
            batch: the completions.
            prompts: (P,) texts that take the places of the batch's prompts; None: its own.
            model: who scores; None: the policy as it is now, in evaluation mode.
            rows: the rows to score; others get zeros. None: all with a learnt token.
        """
        shown = batch.prompts if prompts is None else self._prompts(prompts)
        if rows is None:
            rows = batch.learnt.any(1).nonzero()[:, 0]
        own = model is None
        model = self.policy.model if own else model

        def score(rows: Tensor, found: Tensor) -> None:
            for part in rows.split(self.micro_batch_size):
                if len(part):
                    scores = self.scores(model, batch, part, prompts=shown, entropy=False)
                    found[part] = scores.logprobs.to(found.dtype)

        training = model.training
        if own:
            model.eval()
        try:
            return scored_together(rows, torch.zeros(batch.learnt.shape, device=self.device), score)
        finally:
            if own:
                model.train(training)

    def scores(
        self,
        model: Any,
        batch: RolloutBatch,
        rows: Tensor,
        *,
        prompts: TokenBatch | None = None,
        known: KnownScores | None = None,
        entropy: bool = True,
        certainty: bool = False,
    ) -> TokenScores:
        """Scores of some rows; with a graph where gradients are on.

        Args:
            model: who scores.
            batch: the completions.
            rows: (r,) on the policy's device.
            prompts: take the places of the batch's prompts; None: its own.
            known: what the rollout's own pass has computed, if that pass is still valid.
            entropy: whether to compute entropies.
            certainty: compute `certainty_of` in place of the entropies, unless the scores are known.
        """
        if known is not None and known.scores is not None:
            return TokenScores(known.scores.logprobs[rows], known.scores.entropy[rows])
        prompt_of = batch.prompt_of[rows]
        if known is not None:
            encoded = known.encoded
        else:
            shown = batch.prompts if prompts is None else prompts
            used, prompt_of = prompt_of.unique(return_inverse=True)
            encoded = self.engine.encode(model, TokenBatch(shown.ids[used], shown.mask[used]))
        return self.engine.score(
            model,
            encoded,
            TokenBatch(batch.completions.ids[rows], batch.completions.mask[rows]),
            prompt_of,
            scored=batch.learnt[rows],
            choices=None if batch.choices is None else batch.choices.rows(rows),
            temperature=self.plain.temperature,
            entropy=entropy,
            **({"certainty": True} if certainty else {}),  # engines of one's own may have none
        )
