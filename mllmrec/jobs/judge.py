"""Opens a finished run whose policy judges reasoning (``cot_policy.reference``)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from mllmrec.cot.assess.reference import Judge, RunData
from mllmrec.prompts.examples import Example
from mllmrec.samples.prepare import prepare
from mllmrec.samples.prepared import Prepared


def open_judge(path: str, trust: Sequence[str] = ()) -> Judge:
    """The last policy of the run in the folder ``path``, with the run's data for its own users and for all users.

    Args:
        path: the run's folder.
        trust: packages and servers that its settings may name.

    Raises:
        UserError: as in `mllmrec.jobs.finished_run.open_policy`.
    """
    # The models' imports take seconds, and most jobs have no judge.
    from mllmrec.evaluation.ranking import candidate_scores
    from mllmrec.jobs.finished_run import open_policy

    run = open_policy(path, None, trust=trust)
    everyone = run.prepared
    if run.cfg.dataset.max_users is not None:
        settings = run.cfg.copy()
        settings.dataset.max_users = None
        everyone = prepare(settings, training=False, open_judge=partial(open_judge, trust=trust))

    def scores(examples: Sequence[Example]) -> np.ndarray:
        return candidate_scores(run.policy, run.answers, examples, constrained=True, engine=run.engine)

    candidates = run.cfg.candidates
    return Judge(_data(run.prepared), _data(everyone), candidates.num_negatives, candidates.weighting, scores)


def _data(prepared: Prepared) -> RunData:
    return RunData(
        prepared.interactions,
        prepared.items,
        prepared.samples["train"],
        prepared.builder,
        prepared.history_length,
        prepared.seed,
    )
