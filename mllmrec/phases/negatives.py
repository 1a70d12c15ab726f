"""Negatives that a phase draws from the candidates in a prompt."""

from __future__ import annotations

from mllmrec.errors import UserError
from mllmrec.prompts.examples import Example
from mllmrec.randomness import numpy_generator


def target_and_negatives(example: Example, count: int, *, seed: int, stage: str, step: int) -> list[int]:
    """The target and ``count`` distinct other candidates; they depend only on the arguments.

    Raises:
        UserError: the prompt has too few candidates.
    """
    others = example.candidates[example.candidates != example.target]
    if len(others) < count:
        raise UserError(
            f"{stage}.negatives={count}, but the prompt of sample {example.sample_id} lists {len(others)} "
            "candidates beside the target: ask for fewer, or raise candidates.num_negatives"
        )
    generator = numpy_generator(seed, f"{stage}-negatives", step, example.sample_id)
    return [example.target, *generator.choice(others, count, replace=False).tolist()]
