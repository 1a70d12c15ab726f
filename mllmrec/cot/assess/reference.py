"""What reasoning does to the answers of a finished run's policy, which has read none of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from mllmrec.cot.assess.prediction import lift
from mllmrec.progress import track


class Effect(NamedTuple):
    """The effect of one text."""

    lift: float  # nats, see `lift`
    agreement: (
        float  # probability of the likeliest candidate given the text: `modal_share` of endless many draws
    )


def effects_of(run: str, texts: Mapping[str, str], draw: str, batch_size: int = 16) -> dict[str, Effect]:
    """Sample id → effect of a text in the prompt, among the candidates alone.

    Samples that the run does not train on are left out: it knows neither their history nor their target.

    Args:
        run: folder of the run whose last policy is asked.
        texts: reasoning by sample id.
        draw: names the negatives; another name measures on other ones.
        batch_size: samples at once.

    Raises:
        UserError: no such run.
    """
    # The run's preparation imports this package.
    from mllmrec.evaluation.ranking import candidate_scores
    from mllmrec.finished_run import open_run

    opened = open_run(run, None)
    examples = opened.prepared.redraw(draw)
    places = {examples.samples.sample_id(index): index for index in range(len(examples))}
    wanted = [sample for sample in texts if sample in places]
    found: dict[str, Effect] = {}
    batches = [wanted[start : start + batch_size] for start in range(0, len(wanted), batch_size)]
    for batch in track(batches, "CoT effects", len(wanted), "samples", weigh=len):
        with torch.no_grad():
            told, plain = (
                torch.as_tensor(
                    candidate_scores(
                        opened.policy,
                        opened.answers,
                        [examples.with_reasoning(places[sample], text) for sample, text in said.items()],
                        constrained=True,
                        engine=opened.engine,
                    )
                )
                for said in ({sample: texts[sample] for sample in batch}, dict.fromkeys(batch))
            )
        columns = np.array([examples[places[sample]].target_column for sample in batch])
        gains = lift(told, plain, columns).tolist()
        shares = told.softmax(1).amax(1).tolist()
        found |= {sample: Effect(*both) for sample, *both in zip(batch, gains, shares, strict=True)}
    return found
