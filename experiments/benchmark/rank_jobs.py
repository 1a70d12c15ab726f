"""The job of the ranking benchmark: ``python -m benchmark.rank_jobs rank SETTINGS``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from benchmark.measuring import device, now, run_job, versions
from benchmark.models import RandomCatalogue, random_model, random_prompts, random_tokenizer
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.evaluation.ranking import candidate_scores
from mllmrec.models.policy import Policy
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.builder import PromptBuilder
from mllmrec.prompts.examples import Example

BATCHES = (1, 2, 4, 8, 16, 32, 64)


def rank(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Rank in the three ways alternately, one user at a time, another user each time."""
    size, candidates, warmup = settings["size"], settings["candidates"], 1
    catalogue = RandomCatalogue(size, candidates, settings["answer_len"])
    policy = Policy(random_model(size, settings["dtype"], device()).eval(), random_tokenizer(size))
    # This needs its own model, because the engine leaves its attention function in the model that it runs.
    library_model = random_model(size, settings["dtype"], device()).eval()
    answers = AnswerTokens(cast(PromptBuilder, catalogue), policy.encode_answers, policy.end_token)
    rows = torch.tensor([answers.of(item)[:-1] for item in range(candidates)], device=device())
    prompts = random_prompts(size, warmup + settings["repeats"], settings["prompt_len"])
    ids = torch.tensor(policy.encode_prompts(prompts), device=device())

    batch_size = best_batch_size(library_model, ids[0], rows)
    seconds: dict[str, list[float]] = {"ours": [], "forward": [], "generate": []}
    same, moved, difference = True, 0, 0.0
    for user, prompt in enumerate(prompts):
        example = Example(str(user), str(user), prompt, 0, np.arange(candidates), 0, False)
        ours = _timed(
            seconds["ours"],
            candidate_scores,
            policy,
            answers,
            [example],
            constrained=False,
            engine=SharedPrefix(),
        )[0]
        forward = _timed(seconds["forward"], forward_scores, library_model, ids[user], rows, batch_size)
        forward = forward.double().cpu().numpy()
        _timed(
            seconds["generate"],
            library_model.generate,
            ids[user, None],
            do_sample=False,
            max_new_tokens=settings["answer_len"],
        )
        places = np.argsort(-ours, kind="stable") != np.argsort(-forward, kind="stable")
        same, moved = same and not places.any(), max(moved, int(places.sum()))
        difference = max(difference, float(np.abs(ours - forward).max()))
    per_user = {name: median(found[warmup:]) for name, found in seconds.items()}
    return {
        **{f"{name}_s": found for name, found in per_user.items()},
        **{f"{name}_users_per_s": 1 / found for name, found in per_user.items()},
        "ratio": per_user["forward"] / per_user["ours"],
        "ratio_generate": per_user["generate"] / per_user["ours"],
        "same_ranking": same,
        "most_places_moved": moved,
        "largest_score_difference": difference,
        "forward_batch_size": batch_size,
        "all_s": {name: found[warmup:] for name, found in seconds.items()},
        "device": torch.cuda.get_device_name() if device().type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


@torch.no_grad()
def forward_scores(model: Any, prompt: Tensor, rows: Tensor, batch_size: int) -> Tensor:
    """Log-probabilities of C answers, each after a copy of the prompt, with logits only at the answers' places.

    Args:
        model: of transformers.
        prompt: (P,).
        rows: (C, T).
        batch_size: answers in one forward pass.

    Returns:
        (C,).
    """
    length = rows.shape[1]
    scores = []
    for part in rows.split(batch_size):
        sequences = torch.cat([prompt.expand(len(part), -1), part], 1)
        logits = model(sequences, use_cache=False, logits_to_keep=length + 1).logits[:, :-1].float()
        chosen = logits.gather(2, part[:, :, None])[:, :, 0]
        scores.append((chosen - logits.logsumexp(2)).sum(1))
    return torch.cat(scores)


def best_batch_size(model: Any, prompt: Tensor, rows: Tensor) -> int:
    """The batch size that scores most answers per second; each is tried twice on one batch, which is also the warm-up."""
    speeds: dict[int, float] = {}
    for batch_size in sorted({min(batch_size, len(rows)) for batch_size in BATCHES}):
        tries: list[float] = []
        for _ in range(2):
            _timed(tries, forward_scores, model, prompt, rows[:batch_size], batch_size)
        speeds[batch_size] = batch_size / min(tries)
    return max(speeds, key=lambda batch_size: speeds[batch_size])


@torch.no_grad()
def _timed(seconds: list[float], work: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    begin = now()
    result = work(*arguments, **keywords)
    seconds.append(now() - begin)
    return result


if __name__ == "__main__":
    run_job(rank)
