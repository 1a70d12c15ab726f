"""Rules about settings that contradict each other or this machine. Each is a small function: a fault, or None.

A rule's docstring describes its fault. Every rule reads the resolved configuration as plain dictionaries. The schema
reports an absent or malformed section, so `broken_rules` skips a rule that lacks a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from mllmrec.config.capabilities import capability
from mllmrec.config.data_rules import DATA_RULES
from mllmrec.config.generator_rules import GENERATOR_RULES
from mllmrec.config.inference_rules import INFERENCE_RULES
from mllmrec.config.kinds import KINDS
from mllmrec.config.label_rules import LABEL_RULES
from mllmrec.config.model_rules import MODEL_RULES
from mllmrec.config.part_rules import PART_RULES
from mllmrec.config.phase_rules import PHASE_RULES
from mllmrec.config.phases import phases_of
from mllmrec.config.reasoning_rules import REASONING_RULES
from mllmrec.config.shaper_rules import SHAPER_RULES

Settings = Mapping[str, Any]
Rule = Callable[[Settings], "str | None"]


def cot_needs_policy(cfg: Settings) -> str | None:
    """CoT should be mixed in, but nothing writes it."""
    if cfg["cot_policy"]["_target_"] is None and cfg["mix_ratio"] > 0:
        return (
            f"mix_ratio={cfg['mix_ratio']} with cot_policy=none: no reasoning exists to mix in; set mix_ratio=0 or "
            "choose a cot_policy"
        )
    return None


def evaluated_cot_needs_policy(cfg: Settings) -> str | None:
    """Evaluation prompts should show CoT, but nothing writes it."""
    if cfg["cot_policy"]["_target_"] is None and cfg["eval"]["cot"] is True:
        return "eval.cot=true with cot_policy=none: no reasoning exists to show; set eval.cot=auto or choose a cot_policy"
    return None


def chosen_by_confidence(cfg: Settings) -> str | None:
    """Samples should be chosen by confidence, but nothing computes one."""
    if cfg["mixing"]["select"] != "confidence" or cfg["mix_ratio"] == 0:
        return None
    if capability(cfg["cot_policy"], "gives_confidence", False):
        return None
    return "mixing.select=confidence: this cot_policy gives no confidence; set cot_policy=confident or mixing.select=random"


def cutoffs_within_candidates(cfg: Settings) -> str | None:
    """A K of HR@K exceeds the number of candidates, so the metric says nothing."""
    negatives = cfg["eval"]["num_negatives"]
    largest = max(cfg["eval"]["ks"])
    if isinstance(negatives, int) and largest > negatives + 1:
        return (
            f"eval.ks={list(cfg['eval']['ks'])}: {largest} exceeds the {negatives + 1} candidates; lower eval.ks or "
            "raise eval.num_negatives"
        )
    return None


def listed_candidates_end(cfg: Settings) -> str | None:
    """A prompt should list the whole catalogue. Generated answers need such a list, since they are chosen from it."""
    if cfg["eval"]["num_negatives"] != "full" or cfg["eval"]["ranking"] == "pointwise":
        return None
    if cfg["eval"]["ranking"] == "generate" or _ranks_by_lists(cfg):
        return (
            f"eval.ranking={cfg['eval']['ranking']} with eval.num_negatives=full: the prompt cannot list the whole catalogue; set "
            f"{'' if _ranks_by_lists(cfg) else 'eval.ranking=likelihood or constrained, or '}eval.num_negatives to a number"
        )
    if cfg["eval"].get("listing") == "all":
        return (
            "eval.listing=all with eval.num_negatives=full: the prompt cannot list the whole catalogue; set "
            "eval.listing=trained or none, or eval.num_negatives to a number"
        )
    return None


def _ranks_by_lists(cfg: Settings) -> bool:
    """Whether users are ranked by ranked lists, which the policy writes among the candidates of its prompt."""
    return cfg["prompt"].get("places", 1) > 1


def generated_answers_are_listed(cfg: Settings) -> str | None:
    """Answers are generated, which needs a prompt that lists all candidates, but prompts list fewer."""
    asked, trained = cfg["eval"]["num_negatives"], cfg["candidates"]["num_negatives"]
    if not (cfg["eval"]["ranking"] == "generate" or _ranks_by_lists(cfg)) or asked == "full":
        return None
    listing = cfg["eval"].get("listing", "trained")
    if listing == "none" or (listing == "trained" and asked > trained):
        longer = "" if asked <= trained else f" (a longer list than the {trained + 1} of training prompts)"
        return (
            f"eval.ranking={cfg['eval']['ranking']} with eval.listing={listing} and eval.num_negatives={asked}: the prompt must "
            f"list all candidates, since the answer names {'some' if _ranks_by_lists(cfg) else 'one'}; set "
            f"eval.listing=all{longer}, or {f'eval.num_negatives={trained}' if _ranks_by_lists(cfg) else 'eval.ranking=likelihood'}"
        )
    return None


def renormalised_scores_are_of_one_list(cfg: Settings) -> str | None:
    """Constrained scores add up to 1 in each list, so scores from different lists do not compare."""
    asked, trained = cfg["eval"]["num_negatives"], cfg["candidates"]["num_negatives"]
    if cfg["eval"]["ranking"] != "constrained" or _ranks_by_lists(cfg) or asked == "full" or asked <= trained:
        return None
    if cfg["eval"].get("listing", "trained") != "trained":
        return None
    return (
        f"eval.ranking=constrained with eval.listing=trained and eval.num_negatives={asked}: probabilities would be "
        f"renormalised within each list of {trained + 1}, so scores from different lists would not compare; set "
        "eval.ranking=likelihood, or eval.listing=none or all"
    )


def corrected_scores_exist(cfg: Settings) -> str | None:
    """Scores should be corrected, but the ranking has none that could be, or no list has an order."""
    evaluated, places = cfg["eval"], cfg["prompt"].get("places", 1)
    calibrate, normalise = (evaluated.get(name, "none") for name in ("calibrate", "normalise"))
    asked = [
        f"eval.{name}={value}"
        for name, value in (("calibrate", calibrate), ("normalise", normalise))
        if value != "none"
    ]
    if not asked:
        return None
    where, ranking = " and ".join(asked), evaluated["ranking"]
    if ranking not in ("likelihood", "constrained"):
        return f"{where} with eval.ranking={ranking}: only likelihoods can be corrected; set eval.ranking=likelihood"
    if places > 1:
        return f"{where} with prompt.places={places}: ranked lists are written, not scored; set them to none"
    if normalise == "tokens" and ranking == "constrained":
        return (
            "eval.normalise=tokens with eval.ranking=constrained, whose probabilities add up to 1 whatever the lengths: set "
            "eval.ranking=likelihood"
        )
    unlisted = evaluated["num_negatives"] == "full" or evaluated.get("listing") == "none"
    if calibrate == "permute" and unlisted:
        return "eval.calibrate=permute without a list of candidates, which could have orders: set eval.calibrate=history"
    if calibrate == "permute" and evaluated.get("orders") == 1:
        return "eval.calibrate=permute with eval.orders=1: one order is the list as it is; set eval.orders to 2 or more"
    return None


def baselines_have_names_of_their_own(cfg: Settings) -> str | None:
    """A baseline has the name of a phase, so the rankings of one would replace those of the other."""
    names = [*KINDS, *(phase.name for phase in phases_of(cfg))]
    taken = {"zero_shot", *names, *(f"{name}_{which}" for name in names for which in ("best", "last"))}
    clash = sorted(taken & set(cfg.get("baselines") or {}))
    if clash:
        return f"baselines.{clash[0]}: the rankings of a phase have this name; give the baseline another"
    return None


def accelerator_exists(cfg: Settings) -> str | None:
    """The requested device does not exist. Imports torch only if a device was requested."""
    wanted = cfg["trainer"]["accelerator"]
    if wanted not in ("gpu", "mps"):
        return None
    import torch

    there = torch.cuda.is_available() if wanted == "gpu" else torch.backends.mps.is_available()
    if there:
        return None
    return f"trainer.accelerator={wanted}: PyTorch finds no such device here; set trainer=cpu or trainer=auto"


def several_devices_train_together(cfg: Settings) -> str | None:
    """Several devices should train what only one can."""
    devices = cfg["trainer"].get("devices", 1)
    if devices == 1:
        return None
    asked = f"trainer.devices={devices}"
    if cfg["method"]["recommender"] is not None:
        return f"{asked} with method={cfg['method']['name']}: recommenders train on one device; set trainer.devices=1"
    for phase in phases_of(cfg):
        if not phase.kind.trains:
            return (
                f"{asked} with phase {phase.name}, which trains no weights and asks writers that answer each process "
                "differently; set trainer.devices=1"
            )
    if cfg.get("generator") is not None:
        return f"{asked} with a generator: a server takes the weights of one process; set trainer.devices=1 or generator=null"
    if cfg["prompt"]["item_tokens"] == "vector":
        return (
            f"{asked} with prompt.item_tokens=vector: the recommender behind the vectors trains on one device; set "
            "trainer.devices=1 or prompt.item_tokens=none"
        )
    if cfg["trainer"]["accelerator"] == "mps":
        return f"{asked} with trainer.accelerator=mps: there is one such device; set trainer.devices=1"
    return None


def divided_weights_run_whole(cfg: Settings) -> str | None:
    """Weights should be divided among devices, but a part reaches into the model, or exchanges its weights."""
    if cfg["trainer"].get("devices", 1) == 1 or cfg["trainer"].get("strategy") != "fsdp2":
        return None
    if not str(cfg["engine"]["_target_"]).endswith(".plain.Plain"):
        return "trainer.strategy=fsdp2 with an engine that runs parts of the model: set engine=plain, or trainer=ddp"
    if cfg["backbone"].get("quantization"):
        return "trainer.strategy=fsdp2 with backbone.quantization: quantised weights cannot be divided; use trainer=ddp"
    references = [phase.settings(cfg).get("reference") for phase in phases_of(cfg) if phase.kind.rolls_out]
    if any(one and str(one["_target_"]).endswith(".Ema") for one in references):
        return "trainer.strategy=fsdp2 with reference=ema, which exchanges weights: set reference=frozen, or trainer=ddp"
    return None


_DEEPSPEED = (0, 19, 4)  # the oldest that sums the gradients of several passes at once


def deepspeed_can_divide(cfg: Settings) -> str | None:
    """DeepSpeed should divide the optimiser's state, but it is missing, or would change what is computed."""
    trainer = cfg["trainer"]
    if trainer.get("devices", 1) == 1 or trainer.get("strategy") != "deepspeed":
        return None
    if find_spec("deepspeed") is None:
        return (
            "trainer.strategy=deepspeed needs deepspeed: pip install 'mllmrec[deepspeed]', or use trainer=fsdp2, which divides "
            "the optimiser's state too"
        )
    here = version("deepspeed")
    if tuple(map(int, re.findall(r"\d+", here)[:3])) < _DEEPSPEED:
        return f"trainer.strategy=deepspeed needs a later DeepSpeed than {here}: pip install 'mllmrec[deepspeed]'"
    if trainer.get("precision") not in ("32-true", "bf16-true"):
        return (
            f"trainer.strategy=deepspeed with trainer.precision={trainer.get('precision')}: DeepSpeed would keep the weights "
            "in that type; set trainer.precision=bf16-true or 32-true"
        )
    if cfg["backbone"].get("quantization"):
        return "trainer.strategy=deepspeed with backbone.quantization has never been run: use trainer=ddp"
    return None


CONTRADICTIONS: tuple[Rule, ...] = (
    cot_needs_policy,
    evaluated_cot_needs_policy,
    chosen_by_confidence,
    cutoffs_within_candidates,
    listed_candidates_end,
    generated_answers_are_listed,
    renormalised_scores_are_of_one_list,
    corrected_scores_exist,
    baselines_have_names_of_their_own,
    several_devices_train_together,
    divided_weights_run_whole,
    deepspeed_can_divide,
    *PHASE_RULES,
    *PART_RULES,
    *SHAPER_RULES,
    *DATA_RULES,
    *MODEL_RULES,
    *REASONING_RULES,
    *LABEL_RULES,
    *INFERENCE_RULES,
    *GENERATOR_RULES,
)


def broken_rules(cfg: Settings, rules: tuple[Rule, ...] = CONTRADICTIONS) -> list[str]:
    """The faults that the rules find in ``cfg``."""
    faults = []
    for rule in rules:
        try:
            fault = rule(cfg)
        except (KeyError, TypeError, AttributeError, ValueError, ZeroDivisionError):
            # A value is absent or of a wrong type; the schema reports that.
            continue
        if fault is not None:
            faults.append(fault)
    return faults
