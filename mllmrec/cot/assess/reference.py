"""The lift of reasoning under the policy of a finished run, which has seen none of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from mllmrec.cot.assess.prediction import lift
from mllmrec.progress import track


def lifts_of(
    run: str, texts: Mapping[str, str], draw: str = "assess", batch_size: int = 16
) -> dict[str, torch.Tensor]:
    """Sample id → nats by which a text in the prompt raises the true answer's log-probability (see `lift`).

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
    found: dict[str, torch.Tensor] = {}
    batches = [wanted[start : start + batch_size] for start in range(0, len(wanted), batch_size)]
    for batch in track(batches, "CoT lifts", len(wanted), "samples", weigh=len):
        with torch.no_grad():
            scores = [
                candidate_scores(
                    opened.policy,
                    opened.answers,
                    [examples.with_reasoning(places[sample], text) for sample, text in told.items()],
                    constrained=True,
                    engine=opened.engine,
                )
                for told in ({sample: texts[sample] for sample in batch}, dict.fromkeys(batch))
            ]
        columns = np.array([examples[places[sample]].target_column for sample in batch])
        found |= dict(zip(batch, lift(scores[0], scores[1], columns), strict=True))
    return found
