"""Types and bounds of the sections of training phases; see `mllmrec.config.schema`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mllmrec.config.schema import (
    Count,
    CountOrZero,
    NotNegative,
    Positive,
    Schedule,
    Section,
    Share,
    ShareBelowOne,
)


class Optimised(Section):
    """The optimiser settings that every phase has."""

    epochs: Positive
    max_steps: Count | None
    learning_rate: Positive
    schedule: Schedule
    warmup_ratio: Share
    weight_decay: NotNegative
    max_grad_norm: Positive


class Warmup(Optimised):
    """``warmup``."""

    batch_size: Count
    length: Annotated[int, Field(ge=2, description="each item is learnt from the item before it")]
    dropout: ShareBelowOne


class LoraChange(Section):
    """A phase's adapter settings that differ from those of the backbone."""

    rank: Count = 16
    alpha: Positive = 16
    dropout: ShareBelowOne = 0.0
    target_modules: list[str] | str = "all-linear"
    use_dora: bool | None = None
    use_rslora: bool | None = None


class Sft(Optimised):
    """``sft``."""

    batch_size: Count
    micro_batch_size: Count
    loss_on: Literal["answer", "candidates", "all"]
    reasoning_weight: Positive = 1.0  # runs of earlier versions have no such key
    lora: LoraChange | None


class SftMore(Optimised):
    """``sft_more``."""

    prompts_per_step: Count
    new_negatives: bool
    micro_batch_size: Count
    loss_on: Literal["answer", "candidates", "all"]
    reasoning_weight: Positive = 1.0  # runs of earlier versions have no such key
    lora: LoraChange | None


class Grpo(Optimised):
    """``grpo``."""

    prompts_per_step: Count
    new_negatives: bool
    group_size: Annotated[int, Field(ge=2, description="one completion has no group to be compared with")]
    micro_batch_size: Count
    iterations: Count
    beta: NotNegative
    kl: Literal["k1", "k2", "k3", "k1+", "k3+"]
    log_kl: bool = False
    max_generated_tokens: Count | None = None
    aggregation: Literal["token_mean", "sequence_mean", "constant", "sequence_sum", "micro_batch_mean"]
    skip_zero_variance: Literal["auto", "always", "never", "drop"]
    # Runs of earlier versions have no such keys.
    entropy_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    off_policy_limit: NotNegative | None = None
    kl_ratio: bool = False
    lora: LoraChange | None
    rollouts_shown: CountOrZero


class Dpo(Optimised):
    """``dpo``."""

    prompts_per_step: Count
    new_negatives: bool
    negatives: Count
    micro_batch_size: Count
    beta: Positive
    lora: LoraChange | None


class ExpertIteration(Optimised):
    """``expert_iteration``."""

    prompts_per_round: Count
    new_negatives: bool
    group_size: Count
    threshold: float
    repeats: Literal["once", "all"]
    loss_on: Literal["answer", "candidates"]
    batch_size: Count
    micro_batch_size: Count
    lora: LoraChange | None


class Pointwise(Optimised):
    """``pointwise``."""

    batch_size: Count
    negatives: Count
    micro_batch_size: Count
    lora: LoraChange | None


class TrainingFree(Section):
    """``training_free``."""

    epochs: Positive
    max_steps: Count | None
    prompts_per_step: Count
    new_negatives: bool
    group_size: Annotated[int, Field(ge=2, description="one answer has no other to be compared with")]
    micro_batch_size: Count
    most_experiences: Count
    most_tokens: Count
