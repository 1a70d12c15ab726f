"""Calls exchangeable parts once on a toy batch, to find parts with a wrong result before any data are read.

Each trial takes a part as the configuration builds it and raises `Wrong` with what the part did. `CONTRACTS` says what
it should have done. Shapes: B prompts, G rollouts for each, R = B * G rows, T tokens, V ids.
"""

from __future__ import annotations

import functools
import json
import math
import pydoc
import tempfile
from collections.abc import Callable, Collection, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from mllmrec.config.rules import rolls_out
from mllmrec.errors import UserError, failure

Settings = Mapping[str, Any]

CONTRACTS = {
    "reward": (
        "a reward takes a completion and a Question and returns a dict with the key reward and a key for each of its "
        "parts; every value is a finite number, and the reward is within bounds (see mllmrec.rewards.base)"
    ),
    "advantage": (
        "an advantage takes rewards (B, G) and weights (B, G) or None, and returns finite numbers as a tensor (B, G) (see "
        "mllmrec.rl.advantages)"
    ),
    "loss": (
        "a loss takes log-probabilities (R, T), old ones (R, T), advantages (R,) and a mask (R, T), and returns "
        "TokenLoss(terms, clipped_low, clipped_high), each (R, T); the terms are finite and have a gradient (see "
        "mllmrec.rl.losses)"
    ),
    "rollout": "a rollout returns Rollouts of B * G rows, prompt by prompt (see mllmrec.rollout.base)",
    "caption": (
        "a captioner yields (item id, caption or None) once for each item that it gets, and its identity is a dict of "
        "JSON values (see mllmrec.captions.base)"
    ),
}


class Wrong(Exception):
    """A part has an unusable result or attribute; the message says which."""


def trial_faults(settings: Settings, faulty: Collection[str] = ()) -> list[str]:
    """Faults of the parts that the run would use: one line for each, with its class and what the class should return.

    Args:
        settings: the resolved settings.
        faulty: sections with known faults. They are not tried.
    """
    method = settings.get("method")
    if not isinstance(method, Mapping) or "method" in faulty:
        return []
    stages = method.get("stages") or []
    used = ["caption"]
    if rolls_out(stages):
        used += ["reward", "rollout"]
    if "grpo" in stages:
        used += ["advantage", "loss"]
    faults = []
    for group in used:
        section = settings.get(group)
        if group in faulty or not isinstance(section, Mapping) or section.get("_target_") is None:
            continue
        what = _tried(group, section, settings)
        if what is not None:
            faults.append(f"{group}._target_={section['_target_']}: {what}; {CONTRACTS[group]}")
    return faults


def _tried(group: str, section: Settings, settings: Settings) -> str | None:
    short = {"max_new_tokens": _LONGEST} if group == "rollout" and "max_new_tokens" in section else {}
    try:
        part = instantiate({**section, **short})
    except InstantiationException:
        # The check of the components already reported this error of the constructor.
        return None
    try:
        _TRIALS[group](part, settings)
    except Wrong as wrong:
        return str(wrong)
    except UserError:
        # The part needs something that only the job provides. If the job does not, it raises the same message.
        return None
    except Exception as error:
        return f"it fails on a toy batch ({failure(error)})"
    return None


# --- rewards -----------------------------------------------------------------------------------------------------------

# The candidates are items 1 and 2; item 1 is the target. The answers: right, right with its title, the other candidate,
# an item that is not listed, no item, nothing, right after reasoning.
_COMPLETIONS = (
    "[ITEM_1]",
    "[ITEM_1] Red Lamp",
    "[ITEM_2] Blue Lamp",
    "[ITEM_9] Old Clock",
    "a lamp",
    "",
    "<think>\nred again\n</think>\n[ITEM_1] Red Lamp",
)


def _try_reward(reward: Any, settings: Settings) -> None:
    from mllmrec.rewards.base import Question

    question = Question("1", {"1": "Red Lamp", "2": "Blue Lamp"})
    parts = getattr(reward, "parts", None)
    if not isinstance(parts, (tuple, list)) or not all(isinstance(name, str) for name in parts):
        raise Wrong(f"its parts are {parts!r}, not a list of names")
    low, high = _bounds(reward)
    for completion in _COMPLETIONS:
        given = reward(completion, question)
        if not isinstance(given, Mapping):
            raise Wrong(f"it returns {_shown(given)} for {completion!r}")
        for name in ("reward", *parts):
            if name not in given:
                raise Wrong(f"it returns {dict(given)!r} for {completion!r}, without {name}")
            if not _is_number(given[name]):
                raise Wrong(f"it returns {name}={given[name]!r} for {completion!r}")
        if not low - 1e-6 <= given["reward"] <= high + 1e-6:
            raise Wrong(
                f"it returns reward={given['reward']:g} for {completion!r}, outside its bounds {low:g} and {high:g}"
            )


def _bounds(reward: Any) -> tuple[float, float]:
    bounds = getattr(reward, "bounds", None)
    if isinstance(bounds, (tuple, list)) and len(bounds) == 2 and all(map(_is_number, bounds)):
        low, high = bounds
        if low <= high:
            return low, high
    raise Wrong(f"its bounds are {bounds!r}, not the lowest and the highest reward")


# --- advantages and losses ---------------------------------------------------------------------------------------------


def _try_advantage(advantage: Any, settings: Settings) -> None:
    import torch

    # A group with one hit of four, and a group of equal rewards, whose standard deviation is zero.
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.3, 0.3, 0.3, 0.3]])
    weights = None
    if getattr(pydoc.locate(str(settings["rollout"]["_target_"])), "every_answer", False):
        weights = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])
    given = advantage(rewards.clone(), weights)
    _expect_tensor("it returns", given, (2, 4))
    if not given.is_floating_point() or not bool(given.isfinite().all()):
        raise Wrong(
            f"for rewards {[[round(float(one), 3) for one in row] for row in rewards]} it returns {given.tolist()}"
        )


def _try_loss(loss: Any, settings: Settings) -> None:
    import torch

    logprobs = torch.tensor([[-0.5, -1.0, 0.0], [-2.0, -0.1, -0.4], [-0.3, 0.0, 0.0]], requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])
    advantages = torch.tensor([1.0, -1.0, 0.0])
    # The first update on a rollout, where old and new log-probabilities are equal, and a later update.
    for old in (logprobs.detach().clone(), logprobs.detach() + 0.3 * mask):
        given = loss(logprobs, old, advantages, mask)
        missing = [name for name in ("terms", "clipped_low", "clipped_high") if not hasattr(given, name)]
        if missing:
            raise Wrong(f"it returns {_shown(given)}, without {', '.join(missing)}")
        for name in ("terms", "clipped_low", "clipped_high"):
            _expect_tensor(f"its {name} are", getattr(given, name), (3, 3))
        if not bool(given.terms[mask].isfinite().all()):
            raise Wrong(f"its terms are {given.terms.tolist()}")
        if not given.terms.requires_grad:
            raise Wrong("its terms carry no gradient")


# --- rollouts ----------------------------------------------------------------------------------------------------------

_END = 1
_PROMPTS = ([2, 3, 4], [5, 6])
_ANSWERS = (
    [[7, _END], [8, 9, _END], [8, 10, _END]],
) * 2  # of both prompts, with a choice at the second token, too
_GROUP, _VOCABULARY, _LONGEST = 2, 16, 4


def _try_rollout(sampler: Any, settings: Settings) -> None:
    import torch

    from mllmrec.engine.batches import pad
    from mllmrec.engine.shared_prefix import SharedPrefix

    for name in ("constrained", "temperature", "max_new_tokens"):
        if not hasattr(sampler, name):
            raise Wrong(f"it has no attribute {name}")
    engine = (
        instantiate(settings["engine"]) if isinstance(settings.get("engine"), Mapping) else SharedPrefix()
    )
    model, prompts = _toy_model(), pad(_PROMPTS, 0, side="left")
    generators = [torch.Generator().manual_seed(row) for row in range(len(_PROMPTS))]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        encoded = engine.encode(model, prompts)
        answers = _ANSWERS if sampler.constrained else []
        given = sampler(engine, model, encoded, _GROUP, generators, answers, _END)
    _check_rollouts(given, len(_ANSWERS[0]) if getattr(sampler, "every_answer", False) else _GROUP)


def _check_rollouts(given: Any, group: int) -> None:
    import torch

    from mllmrec.rollout.base import Rollouts

    if not isinstance(given, Rollouts):
        raise Wrong(f"it returns {_shown(given)}")
    rows, (ids, mask) = len(_PROMPTS) * group, given.completions
    width = ids.shape[-1]
    _expect_tensor("its completions are", ids, (rows, width))
    for name, tensor, shape in (
        ("mask is", mask, (rows, width)),
        ("prompt_of is", given.prompt_of, (rows,)),
        ("decisions are", given.decisions, (rows, width)),
        ("finished is", given.finished, (rows,)),
    ):
        _expect_tensor(f"its {name}", tensor, shape)
    if mask.dtype != torch.bool or given.decisions.dtype != torch.bool or given.finished.dtype != torch.bool:
        raise Wrong("its mask, decisions and finished are not all of type bool")
    if not bool(mask[:, 0].all()) or bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        raise Wrong(f"its mask {mask.tolist()} is not padded on the right")
    if bool((given.decisions & ~mask).any()):
        raise Wrong("its decisions go beyond its completions")
    if not bool(((ids >= 0) & (ids < _VOCABULARY)).all()):
        raise Wrong(f"its completions {ids.tolist()} have ids outside the vocabulary of {_VOCABULARY}")
    if given.prompt_of.tolist() != [row // group for row in range(rows)]:
        raise Wrong(
            f"its prompt_of is {given.prompt_of.tolist()}, but row r of {rows} must answer prompt r // {group}"
        )
    if given.weights is not None:
        _expect_tensor("its weights are", given.weights, (rows,))
        if not bool((given.weights.isfinite() & (given.weights >= 0)).all()):
            raise Wrong(f"its weights are {given.weights.tolist()}")


@functools.cache
def _toy_model() -> Any:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=_VOCABULARY,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=4,
        max_position_embeddings=64,
        eos_token_id=_END,
        pad_token_id=0,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Qwen3ForCausalLM(config).eval()


# --- captions ----------------------------------------------------------------------------------------------------------


def _try_captioner(captioner: Any, settings: Settings) -> None:
    from PIL import Image

    # No trial for captioners that cost money or need a model, or that read captions of known items from a file.
    if not captioner.reads_images or captioner.estimate(1) is not None:
        return
    try:
        json.dumps(captioner.identity())
    except TypeError as error:
        raise Wrong(f"its identity is {captioner.identity()!r} ({error})") from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "red.png"
        Image.new("RGB", (32, 32), "red").save(path)
        given = list(captioner.caption_images([("1", path)]))
    pairs = [pair for pair in given if isinstance(pair, tuple) and len(pair) == 2]
    if len(given) != 1 or len(pairs) != 1 or pairs[0][0] != "1" or not isinstance(pairs[0][1], str | None):
        raise Wrong(f"for item 1 it yields {given!r}")


# --- shared by several trials ------------------------------------------------------------------------------------------


def _expect_tensor(what: str, given: Any, shape: tuple[int, ...]) -> None:
    import torch

    if not isinstance(given, torch.Tensor):
        raise Wrong(f"{what} {_shown(given)}, not a tensor")
    if tuple(given.shape) != shape:
        raise Wrong(f"{what} a tensor of shape {tuple(given.shape)}, but {shape} is needed")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _shown(value: Any) -> str:
    return f"a {type(value).__name__} ({value!r:.60})" if value is not None else "nothing"


_TRIALS: dict[str, Callable[[Any, Settings], None]] = {
    "reward": _try_reward,
    "advantage": _try_advantage,
    "loss": _try_loss,
    "rollout": _try_rollout,
    "caption": _try_captioner,
}
