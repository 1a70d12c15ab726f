"""A profile of the user first, then an answer in a second prompt that shows the profile and no history.

What is not in the profile cannot reach the answer. So a profile is worth what the ranking from it is worth, and that is its
reward: the expected reward of the answer, over all candidates. It is exact, and no answer is drawn (compare
`mllmrec.rollout.reasoned`). MOTIF (Mitra and Ulukus 2025) trains the first of several rounds in this way, and estimates the
expectation from drawn continuations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from mllmrec.engine.base import ChoiceSets, Engine
from mllmrec.engine.batches import pad
from mllmrec.prompts.examples import Example
from mllmrec.prompts.profiles import written_profile
from mllmrec.rl.batch import RolloutBatch, join
from mllmrec.rl.groups import Groups
from mllmrec.rollout.base import Completions, Judge, Speaker, Spelling, Turn
from mllmrec.rollout.enumerated import Enumerated
from mllmrec.rollout.reasoned import Reasoned
from mllmrec.rollout.written import behaviour_of

ANSWERS = "answers"  # the source of the rows that answer a second prompt


class Profiled(Reasoned):
    """Draws G profiles for each prompt, and takes every candidate's answer after each, weighted by its probability.

    A prompt's profiles are a group. So are the answers after one profile; the policy learns them as well, unless
    ``learn_answers`` is false. At the limit a profile is closed by force, and does not count as finished.
    """

    describes = True
    judges = True
    several_groups = True

    def __init__(
        self,
        temperature: float = 1.0,
        max_reasoning_tokens: int = 64,
        learn_cut_off: bool = True,
        learn_answers: bool = True,
    ) -> None:
        """Set how to draw.

        Args:
            temperature: of the draw and of the log-probabilities in the loss; 0 takes the most likely token.
            max_reasoning_tokens: the budget, with the closing tag.
            learn_cut_off: whether the tokens of profiles that were closed by force are learnt.
            learn_answers: whether answers are learnt too, and not only profiles.
        """
        super().__init__("enumerated", temperature, max_reasoning_tokens, learn_cut_off)
        self.learn_answers = self.every_answer = learn_answers

    def rows(self, group_size: int, candidates: int) -> int:
        """G: the answers come from another draw."""
        return group_size

    def longest(self, answer: int, around: int) -> int:
        """The budget and the tags, or an answer."""
        return max(around + self.max_reasoning_tokens, answer)

    def __call__(
        self, examples: Sequence[Example], speaker: Speaker, judge: Judge, turn: Turn
    ) -> RolloutBatch:
        """Profiles and the answers after them, judged; see `Rollout`."""
        turn = replace(turn, gradients=False)  # the rows belong to two sets of prompts
        written = speaker.complete(examples, turn)
        which = written.example_of.tolist()
        answered = judge(
            speaker.complete(
                examples,
                replace(turn, group_size=1),
                which=which,
                prompts=second_prompts([examples[place] for place in which], written.texts),
                round_=ANSWERS,
                source=ANSWERS,
                draw=Enumerated(self.temperature or 1.0),
            )
        )
        assert answered.weights is not None
        # Answers come profile by profile.
        after = Groups(answered.prompt_of.cpu(), answered.weights.cpu())
        written = replace(
            written,
            rewards=after.mean(answered.judged()),
            parts={name: after.mean(values) for name, values in answered.parts.items()},
        )
        if not self.learn_answers:
            return written
        everything = torch.full_like(written.completions.ids, -1)
        written = replace(
            written,
            weights=torch.ones_like(answered.weights[: len(written)]),
            choices=ChoiceSets(everything, everything.new_full((1, 1), -1)),
            segments=everything,
        )
        return join([written, replace(answered, group_of=len(examples) + after.group_of)])

    def draw(
        self,
        engine: Engine,
        model: Any,
        encoded: Any,
        group_size: int,
        generators: Sequence[torch.Generator],
        spelling: Spelling,
    ) -> Completions:
        """Draw profiles; see `PlainRollout`."""
        said, closed = self.reason(engine, model, encoded, group_size, generators, spelling)
        words = spelling.reasoning
        assert words is not None
        device = next(model.parameters()).device
        ends = [[] if done else words.closing for done in closed]
        rows = [[*words.opening, *tokens, *end] for tokens, end in zip(said, ends, strict=True)]
        written = pad(rows, spelling.end, side="right")
        first = len(words.opening)
        last = first + torch.tensor([len(tokens) for tokens in said])[:, None]
        place = torch.arange(written.ids.shape[1])
        learnt = (place >= first) & (place < last)
        finished = torch.tensor(closed)
        if not self.learn_cut_off:
            learnt &= finished[:, None]
        behaviour = None
        if spelling.written is not None:
            behaviour = behaviour_of(self.known(spelling.written, said), first, written.ids).to(device)
        return Completions(
            tokens=written.to(device),
            prompt_of=torch.arange(len(rows), device=device) // group_size,
            decisions=learnt.to(device),
            choices=None,
            finished=finished.to(device),
            generated=sum(map(len, said)),
            segments=torch.full_like(written.ids, -1).to(device),
            behaviour=behaviour,
        )


def second_prompts(examples: Sequence[Example], texts: Sequence[str]) -> list[str]:
    """The prompt after each profile.

    Args:
        examples: R examples that ask for one.
        texts: R completions.
    """
    prompts = []
    for example, text in zip(examples, texts, strict=True):
        if example.second is None:
            raise ValueError(f"the prompt of sample {example.sample_id} does not ask for a profile")
        prompts.append(example.second.about(written_profile(text)))
    return prompts
