"""Checks of inference parts, with a random policy of 16 tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from mllmrec.engine.base import Engine
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.evaluation.ranking import RankedExample, Ranker
from mllmrec.inference.base import Inference, InferenceInputs
from mllmrec.prompts.examples import Example
from mllmrec.prompts.naming import Naming
from mllmrec.rollout.constrained import Constrained
from mllmrec.testing.expect import expect, shown
from mllmrec.testing.toys import toy_examples, toy_speaker

INFERENCE = (
    "an inference part's ranker returns a Ranker, whose rank gives each example a RankedExample with columns of its "
    "candidates, each at most once (see mllmrec.inference.base)"
)


def check_inference(part: Any, engine: Engine | None = None) -> None:
    """Check orders of candidates, that batches, repetition and targets do not change them, for every kind of answer.

    Args:
        part: the part.
        engine: runs the toy policy; None: the shared-prefix engine.

    Raises:
        AssertionError: it does something wrong.
    """
    expect(isinstance(part, Inference), f"it is {shown(part)}, not an Inference")
    kinds = [("constrained", 2)]
    if not part.needs_lists:
        kinds += [("likelihood", 1), ("generate", 1), ("reasoned", 1)]
    with torch.random.fork_rng(devices=[]):
        for ranking, places in kinds:
            _check_kind(part, toy_inputs(ranking, places, engine))


def toy_inputs(ranking: str = "likelihood", places: int = 1, engine: Engine | None = None) -> InferenceInputs:
    """A random policy of 16 tokens that answers about the toy examples; without inference, candidates keep their order.

    There are four training examples, and the reward is that of a hit.
    """
    speaker = toy_speaker(Constrained(), engine)
    names = speaker.names
    naming = Naming()
    builder = SimpleNamespace(
        ids=names.ids,
        titles=names.titles,
        naming=naming,
        places=places,
        answer=lambda item, column=None: naming.answer_text(names.ids[item], names.titles[item], column),
    )
    texts = {"ids": names.ids, "titles": names.titles, "details": [""] * len(names.ids)}
    prepared = SimpleNamespace(
        builder=builder,
        items=SimpleNamespace(**{name: np.array(given) for name, given in texts.items()}),
        captions={},
        train=[replace(example, places=places) for example in toy_examples(4)],
    )
    settings = {"ranking": ranking, "max_new_tokens": 4, "max_reasoning_tokens": 4, "batch_size": 2}
    protocol: Any = SimpleNamespace(
        settings=OmegaConf.create(settings),
        seed=0,
        prepared=prepared,
        ranker=lambda *parts: _AsListed(),
    )
    cfg = OmegaConf.create(
        {
            "seed": 0,
            "cache_dir": "unused",  # nothing of these items is kept
            "prompt": {"item_tokens": "none"},
            "reward": {"_target_": "mllmrec.rewards.hit_format.HitFormat"},
        }
    )
    return InferenceInputs(cfg, protocol, speaker.policy, speaker.answers, engine or SharedPrefix())


class _AsListed(Ranker):
    def rank(self, examples: Sequence[Example]) -> list[RankedExample]:
        return [RankedExample(np.arange(len(example.candidates))) for example in examples]


def _check_kind(part: Inference, inputs: InferenceInputs) -> None:
    examples, kind = toy_examples(2), inputs.protocol.settings.ranking
    found = _orders(part, inputs, [examples])
    for order, example in zip(found, examples, strict=True):
        count = len(example.candidates)
        proper = len(set(order)) == len(order) and set(order) <= set(range(count))
        expect(proper, f"it ranks the columns {order} of {count} candidates (eval.ranking={kind})")
    again = _orders(part, inputs, [examples])
    expect(again == found, f"the same examples are ranked as {found} and as {again} (eval.ranking={kind})")
    alone = _orders(part, inputs, [[example] for example in examples])
    expect(alone == found, f"ranked alone, examples are {alone}, and together {found} (eval.ranking={kind})")
    others = [
        replace(one, target=(one.target + 1) % 3, target_column=(one.target + 1) % 3) for one in examples
    ]
    blind = _orders(part, inputs, [others])
    expect(blind == found, f"other targets give other ranks: {blind} and {found} (eval.ranking={kind})")


def _orders(
    part: Inference, inputs: InferenceInputs, batches: Sequence[Sequence[Example]]
) -> list[list[int]]:
    ranker = copy.deepcopy(part).ranker(inputs)
    expect(isinstance(ranker, Ranker), f"its ranker returns {shown(ranker)}")
    found = []
    with ranker.ready():
        for batch in batches:
            ranked = ranker.rank(batch)
            proper = len(ranked) == len(batch) and all(isinstance(one, RankedExample) for one in ranked)
            expect(proper, f"it ranks {len(batch)} examples as {shown(ranked)}")
            found += [one.order.tolist() for one in ranked]
    return found
