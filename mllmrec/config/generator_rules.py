"""Rules about rollouts that a server draws (``generator``); written as in `mllmrec.config.rules`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mllmrec.config.capabilities import capability
from mllmrec.config.phases import Phase, phases_of

Settings = Mapping[str, Any]


def served(cfg: Settings) -> list[tuple[Phase, Mapping[str, Any]]]:
    """The phases for which a server draws, with the settings that they see."""
    seen = [(phase, phase.settings(cfg)) for phase in phases_of(cfg) if "generator" in phase.kind.parts]
    return [(phase, own) for phase, own in seen if own.get("generator") is not None]


def somebody_asks_the_server(cfg: Settings) -> str | None:
    """There is a server, but no phase asks it."""
    if cfg.get("generator") is None or served(cfg):
        return None
    return (
        f"generator is set with method={cfg['method']['name']}, and only phases of kind grpo let a server draw: set generator=null, "
        "or choose a method with such a phase"
    )


def server_draws_free_tokens(cfg: Settings) -> str | None:
    """The rollout needs the probabilities of the model itself, or draws in rounds."""
    for _, seen in served(cfg):
        rollout = seen["rollout"]
        if isinstance(rollout.get("inner"), Mapping):
            return (
                f"generator with rollout._target_={rollout['_target_']}, which is made of several draws: choose rollout=free, "
                "reasoned or profiled, or generator=null"
            )
        if not capability(rollout, "by_server", False):
            return (
                f"generator with rollout._target_={rollout['_target_']}, which needs the probabilities of the model itself and draws "
                "no token that a server could draw: choose rollout=free, reasoned or profiled, or generator=null"
            )
    return None


def server_gets_an_adapter(cfg: Settings) -> str | None:
    """There is no adapter, or one that vLLM does not take."""
    if not served(cfg):
        return None
    lora = cfg["backbone"].get("lora") or {}
    if not lora.get("rank"):
        return (
            "generator with a backbone that trains all its weights: a server gets each update as an adapter; set "
            "backbone.lora.rank=16 with a pretrained backbone, or generator=null"
        )
    for phase in phases_of(cfg):
        if phase.kind.data == "sequences" or not phase.kind.trains:
            continue
        own = (phase.settings(cfg).get(phase.kind.name) or {}).get("lora") or {}
        dora = own.get("use_dora")
        if lora.get("use_dora") if dora is None else dora:
            return f"generator with the DoRA adapter of {phase.name}, which vLLM does not take: set peft=lora, or generator=null"
    return None


def server_reads_text(cfg: Settings) -> str | None:
    """Prompts show what only the policy here can read."""
    if served(cfg) and cfg["prompt"].get("item_tokens", "none") != "none":
        return (
            f"generator with prompt.item_tokens={cfg['prompt']['item_tokens']}: the server reads tokens of text alone; set "
            "prompt.item_tokens=none, or generator=null"
        )
    return None


def next_step_is_known(cfg: Settings) -> str | None:
    """The next step's prompts should be answered before this step's results choose them."""
    for _, seen in served(cfg):
        sampler = seen["sampler"]
        if seen["generator"].get("max_lag") and not capability(sampler, "plans_ahead", False):
            return (
                f"generator.max_lag={seen['generator']['max_lag']} with sampler._target_={sampler['_target_']}, which chooses the next "
                "step's prompts by what this step has shown: set generator.max_lag=0, or sampler=shuffled"
            )
    return None


def lag_has_a_ratio(cfg: Settings) -> str | None:
    """Completions are of an older adapter, and nothing corrects for it."""
    for _, seen in served(cfg):
        generator = seen["generator"]
        if not generator.get("max_lag") or generator.get("truncate_at", 2.0) is not None:
            continue
        if capability(seen.get("loss"), "on_policy_only", False):
            return (
                f"generator.max_lag={generator['max_lag']} and generator.truncate_at=null with loss._target_={seen['loss']['_target_']}, "
                "which has no ratio: nothing would correct for the older adapter; set generator.truncate_at=2.0"
            )
    return None


GENERATOR_RULES = (
    somebody_asks_the_server,
    server_draws_free_tokens,
    server_gets_an_adapter,
    server_reads_text,
    next_step_is_known,
    lag_has_a_ratio,
)
