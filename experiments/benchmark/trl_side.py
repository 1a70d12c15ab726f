"""One step of TRL's GRPOTrainer, tuned or with its own defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
import trl.trainer.utils
from datasets import Dataset
from peft import LoraConfig
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmark.measuring import StepClock, device
from benchmark.models import LINEAR_LAYERS, random_model, random_prompts, random_tokenizer, reward_of
from benchmark.our_side import LEARNING_RATE, RANK, TEMPERATURE, TOP_P


def trl_settings(settings: Mapping[str, Any], tuned: bool) -> dict[str, Any]:
    """TRL's settings. Tuning sets the batch of a forward pass, checkpointing, and which rows the head projects.

    Stock has TRL's own defaults, with all prompts of a step in one generation as in the tuned case.
    """
    rollouts = settings["prompts"] * settings["group"]
    micro_batch = min(settings["trl_micro_batch"] if tuned else 8, rollouts)
    if rollouts % micro_batch:
        micro_batch = rollouts
    return {
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": rollouts // micro_batch,
        "gradient_checkpointing": not tuned,
        "head_rows": "completion" if tuned or device().type == "cuda" else "all",
    }


class _TimedTrainer(GRPOTrainer):
    """TRL's trainer; rollout and reference are timed."""

    clock: StepClock

    def _generate_single_turn(self, *arguments: Any, **keywords: Any) -> Any:
        with self.clock.part("rollout"):
            return super()._generate_single_turn(*arguments, **keywords)

    def _get_per_token_logps_and_entropies(self, *arguments: Any, **keywords: Any) -> Any:
        if torch.is_grad_enabled():
            return super()._get_per_token_logps_and_entropies(*arguments, **keywords)
        with self.clock.part("reference"):
            return super()._get_per_token_logps_and_entropies(*arguments, **keywords)


class _BetweenSteps(TrainerCallback):
    """Stops the clock at the end of an optimiser step, calls ``between``, and starts the clock again."""

    def __init__(self, clock: StepClock, between: Callable[[int], None]) -> None:
        self.clock, self.between = clock, between

    def on_train_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        """The first step begins."""
        self.clock.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        """A step ended."""
        self.clock.end()
        self.between(state.global_step - 1)
        self.clock.begin()


class TrlSide:
    """A GRPOTrainer with the model, the prompts, the reward and the settings of our side."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        steps: int,
        folder: str,
        *,
        tuned: bool = True,
        between: Callable[[int], None] = lambda index: None,
    ) -> None:
        """Build the trainer.

        Args:
            settings: of the cell.
            steps: number of steps in all.
            folder: for the trainer's own files.
            tuned: see `trl_settings`.
            between: called with 0, 1, ... after each step, outside TRL's time.
        """
        self.clock = StepClock()
        chosen = trl_settings(settings, tuned)
        self.compact_head = chosen.pop("head_rows") == "completion"
        size = settings["size"]
        prompts = random_prompts(size, settings["prompts"] * steps, settings["prompt_len"])
        self.trainer = _TimedTrainer(
            model=random_model(size, settings["dtype"], device()),
            reward_funcs=_rewards,
            args=GRPOConfig(
                output_dir=folder,
                use_cpu=device().type == "cpu",
                bf16=settings["dtype"] == "bfloat16",
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                max_steps=steps,
                num_generations=settings["group"],
                max_completion_length=settings["completion_len"],
                temperature=TEMPERATURE,
                top_p=TOP_P,
                top_k=0,
                beta=settings["beta"],
                loss_type="grpo",
                learning_rate=LEARNING_RATE,
                shuffle_dataset=False,
                dataloader_pin_memory=False,
                **chosen,
            ),
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            processing_class=random_tokenizer(size),
            peft_config=LoraConfig(
                r=RANK,
                lora_alpha=2 * RANK,
                lora_dropout=0.0,
                target_modules=LINEAR_LAYERS,
                task_type="CAUSAL_LM",
            ),
            callbacks=[_BetweenSteps(self.clock, between)],
        )
        self.trainer.clock = self.clock
        self.trainer.remove_callback(PrinterCallback)

    def take_adapters(self, model: torch.nn.Module) -> None:
        """Start from our side's adapters."""
        ours = {name.replace(".grpo.", ".default."): weight for name, weight in model.named_parameters()}
        for name, weight in cast(torch.nn.Module, self.trainer.model).named_parameters():
            if ".lora_" in name:
                weight.data.copy_(ours[name].data)

    def train(self) -> None:
        """All steps."""
        with head_on_completions(self.compact_head):
            self.trainer.train()


def _rewards(completions: list[str], **keywords: Any) -> list[float | None]:
    return [reward_of(text) for text in completions]


@contextmanager
def head_on_completions(wanted: bool) -> Iterator[None]:
    """Make TRL project only completion rows on a CPU too; without Triton it projects all rows."""
    asked = trl.trainer.utils._use_triton
    if wanted:
        trl.trainer.utils._use_triton = lambda device: True
    try:
        yield
    finally:
        trl.trainer.utils._use_triton = asked
