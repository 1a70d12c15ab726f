"""The description beside exported weights, ``mllmrec.json``: how prompts are written, the items, and an example.

Whoever reads it needs no part of this package to write the prompts that the policy was trained on.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from mllmrec.evaluation.calibration import calibration
from mllmrec.evaluation.ranking import candidate_scores
from mllmrec.inference.base import described as way_of_ranking
from mllmrec.jobs.finished_run import FinishedRun
from mllmrec.models.chat import rendered
from mllmrec.models.policy import Policy
from mllmrec.prompts.examples import Example

NAME = "mllmrec.json"
_INSIDE = "MLLMREC PROMPT"  # stands for a prompt while the text around it is looked for
_SHOWN = 3  # items of the example's history
_LISTED = 5  # and of its candidates


def described(run: FinishedRun) -> dict[str, Any]:
    """The content of ``mllmrec.json``, but for ``base`` and ``weights``, which depend on the form of the export.

    Returns:
        ``prompt``: wording and numbers; ``chat``: what the chat template puts around a prompt; ``items``: id, label, title,
        details and caption as prompts show them, and whether the item may be recommended; ``evaluation``: how the run ranks; ``example``: a
        made-up history, candidates, the whole text, and each answer's log-probability.
    """
    prepared, builder, policy = run.prepared, run.prepared.builder, run.policy
    naming, settings = builder.naming, run.cfg.eval
    offered = prepared.items.offered
    asks = prepared.asks_under(settings)
    return {
        "prompt": {
            "template": asdict(builder.template),
            "domain": builder.domain,
            "label": naming.label,
            "answer": naming.answer,
            "form": naming.form,
            "places": builder.places,
            "history_length": prepared.history_length,
            "candidates_listed": prepared.trained_list,
            "experience": [builder.clean(text) for text in builder.experience],
            "asks_for_reasoning": asks,
            "profile": prepared.use_of_cot(settings).placement == "profile",
        },
        "chat": {
            **_around(policy, asks),
            "system": policy.system,
            "add_special_tokens": not policy.tokenizer.chat_template,
            "score_end_token": not naming.ends_itself,
        },
        "evaluation": {
            "ranking": settings.ranking,
            "calibrate": settings.get("calibrate", "none"),
            "normalise": settings.get("normalise", "none"),
        },
        "items": [
            {
                "id": item_id,
                "label": builder.label(item),
                "title": builder.titles[item],
                "details": builder.details(item),
                "caption": builder.caption(item),
                "offered": bool(offered[item]),
            }
            for item, item_id in enumerate(builder.ids)
        ],
        "example": _example(run),
    }


def ranks_directly(run: FinishedRun) -> bool:
    """Whether the run ranks by log-probabilities of answers alone, as ``rank.py`` does, which is then part of an export."""
    settings, prepared = run.cfg.eval, run.prepared
    return (
        settings.ranking in ("likelihood", "constrained", "generate")
        and prepared.builder.places == 1
        and not prepared.asks_under(settings)
        and not calibration(settings)
        and not way_of_ranking(run.cfg.get("inference"))
    )


def _around(policy: Policy, asks: bool) -> dict[str, str | None]:
    """The text before and after a prompt; None if the chat template does more than that."""
    text = rendered(policy.tokenizer, _INSIDE, policy.system, asks)
    before, found, after = text.partition(_INSIDE)
    whole = bool(found) and _INSIDE not in after
    return {"before": before if whole else None, "after": after if whole else None}


def _example(run: FinishedRun) -> dict[str, Any]:
    builder = run.prepared.builder
    # Not a user's history, which may be nobody else's business.
    items = np.flatnonzero(run.prepared.items.offered)
    history = items[: min(_SHOWN, run.prepared.history_length)]
    candidates = items[len(history) :][: min(_LISTED, run.prepared.trained_list)]
    prompt = builder.prompt(history.tolist(), candidates.tolist())
    example = Example("export", "export", prompt, int(candidates[0]), candidates, 0, False, history=history)
    with torch.no_grad():
        scores = candidate_scores(run.policy, run.answers, [example], constrained=False, engine=run.engine)[0]
    return {
        "history": [builder.ids[item] for item in history],
        "candidates": [builder.ids[item] for item in candidates],
        "prompt": prompt,
        "text": run.policy.render(prompt),
        "answers": [builder.answer(item, column) for column, item in enumerate(candidates.tolist())],
        "log_probabilities": [round(float(score), 6) for score in scores],
    }
