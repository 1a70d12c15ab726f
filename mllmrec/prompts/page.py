"""Writes ``prompts.md``: some prompts of a run, word by word as the policy reads them, with the wanted answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mllmrec.cache import atomic_path
from mllmrec.prompts.examples import Example, Examples
from mllmrec.prompts.profiles import profile_text
from mllmrec.prompts.questions import Questions
from mllmrec.randomness import numpy_generator

SHOWN = 2  # prompts of each kind per section


@dataclass(frozen=True)
class PromptSet:
    """One set of prompts of a run."""

    title: str
    examples: Examples
    positions: Sequence[int]  # positions of the examples that are used
    questions: Questions | None = None  # given if each prompt asks about one candidate


def write_prompts(path: Path, render: Callable[[str], str], sets: Sequence[PromptSet], seed: int) -> None:
    """Write a page with prompts of every set: some with reasoning and some without, if the set has both.

    Args:
        path: the file of the page.
        render: puts a prompt into the chat template.
        sets: the sets of prompts.
        seed: the run's seed; it decides which prompts are shown.
    """
    lines = [
        "# Some prompts of this run",
        "",
        "Word by word as the policy reads them, the chat template included, each with the answer that is wanted.",
    ]
    for shown in sets:
        lines += ["", f"## {shown.title}"]
        for example in _chosen(shown, seed):
            lines += ["", f"### {_heading(shown.examples, example)}"]
            for prompt, answer in _asked(shown, example):
                lines += ["", *_fenced(render(prompt)), "", "Answer:", "", *_fenced(answer)]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _chosen(shown: PromptSet, seed: int) -> Iterator[Example]:
    """A few random examples of each kind: first without reasoning, then with it."""
    examples = shown.examples
    order = numpy_generator(seed, "prompts shown", shown.title).permutation(np.asarray(shown.positions))
    for kind in (False, True):
        for position in order[examples.carriers[order] == kind][:SHOWN]:
            yield examples[int(position)]


def _heading(examples: Examples, example: Example) -> str:
    count = len(example.candidates)
    listed = f"the target is candidate {example.target_column + 1} of {count}"
    if examples.list_size:
        listed += f", listed {examples.list_size} at a time; the prompt that lists it"
    elif examples.list_size == 0:
        listed = f"{count} candidates, none of them listed"
    reasoning = ", with reasoning" if example.has_reasoning else ""
    return f"Sample `{example.sample_id}`{reasoning}: {listed}"


def _asked(shown: PromptSet, example: Example) -> list[tuple[str, str]]:
    """(prompt, answer) pairs about an example."""
    if shown.questions is None:
        (listing,) = (part for part in shown.examples.in_lists(example) if part.target_column >= 0)
        builder = shown.examples.builder
        answer = builder.answer(example.target, listing.target_column)
        if listing.second is not None:
            profile = profile_text(example.reasoning) if example.reasoning else "(a profile)"
            return [
                (listing.prompt, profile),
                (listing.second.about(example.reasoning or "(the profile)"), answer),
            ]
        return [(listing.prompt, example.reasoned_answer or answer)]
    questions = shown.questions
    other = int(example.candidates[0 if example.target_column else -1])
    return [
        (questions.prompt(example.history.tolist(), example.target), questions.positive),
        (questions.prompt(example.history.tolist(), other), questions.negative),
    ]


def _fenced(text: str) -> list[str]:
    """A code block with a fence that is longer than any fence in the text."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", text.rstrip("\n"), fence]
