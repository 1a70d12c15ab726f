"""A run's GRPO phase by TRL's GRPOTrainer, from the run's SFT policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

import torch
from datasets import Dataset
from hydra.utils import instantiate
from omegaconf import DictConfig
from peft.tuners.lora import LoraLayer
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmark.trl_side import head_on_completions, trl_settings
from mllmrec.config.kinds import GRPO
from mllmrec.config.phases import Phase
from mllmrec.engine.base import Engine
from mllmrec.engine.batches import pad
from mllmrec.errors import UserError
from mllmrec.jobs.finished_run import FinishedRun, load_policy
from mllmrec.models.policy import Policy
from mllmrec.phases.inputs import examples_of, plan_of
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.examples import Example, Forms
from mllmrec.randomness import seeded_globals
from mllmrec.rewards.base import Question, TextReward
from mllmrec.run.folder import RunFolder
from mllmrec.samples.item_texts import described_items
from mllmrec.step.names import Names

SFT, TRAINED = "sft", "default"  # adapters; TRL knows the trained one by this name
LOSS_TYPES = {"sequence_mean": "grpo", "token_mean": "dapo", "constant": "dr_grpo"}

Rank = Callable[[Policy, AnswerTokens, Engine], Any]


class Counts(Protocol):
    """Takes the rollouts of a step."""

    def add(
        self, texts: Sequence[str], questions: Sequence[Question], rewards: Sequence[float], tokens: int
    ) -> None:
        """R texts, questions and rewards, and the tokens of all texts."""


class TrlRun:
    """TRL's trainer with the run's prompts, reward and settings."""

    def __init__(
        self, run: FinishedRun, cfg: DictConfig, path: str, folder: str, *, adapter: str, micro_batch: int
    ) -> None:
        """Build the trainer.

        Args:
            run: the finished run, for its data and its engine.
            cfg: its configuration for the GRPO phase, with a free rollout.
            path: its folder.
            folder: for the trainer's own files.
            adapter: ``continued`` or ``stacked``.
            micro_batch: completions in a forward pass.

        Raises:
            UserError: TRL cannot do what the configuration says.
        """
        reward = instantiate(cfg.reward)
        refuse_what_trl_lacks(cfg, reward)
        reward.meet_items(described_items(cfg, run.prepared))
        self.run, self.cfg, self.reward = run, cfg, reward
        self.steps = _examples(cfg, run)
        names = Names.of(run.prepared.builder)
        self.questions = [names.question(example) for step in self.steps for example in step]
        self.policy = start_policy(cfg, path, adapter)
        # TRL changes how its model runs, so another copy ranks.
        self.ranked = start_policy(cfg, path, adapter)
        self.stacked = self.policy.lora is not None and adapter == "stacked"
        if self.policy.lora is None and cfg.grpo.beta > 0:
            # TRL reads the reference from where the model lies.
            start = Path(folder) / "start"
            self.policy.model.save_pretrained(start)
            self.policy.model.config._name_or_path = str(start)
        self.counts: Counts | None = None
        self.trainer = self._trainer(folder, micro_batch)

    def _trainer(self, folder: str, micro_batch: int) -> GRPOTrainer:
        cfg, policy = self.cfg, self.policy
        prompts = [policy.render(example.prompt) for step in self.steps for example in step]
        # Our rollouts end with this token alone.
        policy.model.generation_config.eos_token_id = policy.end_token
        trainer = _SamePrompts(
            policy,
            model=policy.model,
            reward_funcs=self._rewards,
            args=grpo_config(cfg, len(self.steps), folder, micro_batch, policy.device),
            train_dataset=Dataset.from_dict({"prompt": prompts, "place": list(range(len(prompts)))}),
            processing_class=policy.tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        if self.stacked:
            with (
                policy.reference()
            ):  # at its end the policy's own adapters are active again, and not TRL's copy
                pass
        return trainer

    def train(self, counts: Counts, rank: Rank) -> None:
        """Train all steps; ``rank`` is called before the first, every ``heldout.every`` updates, and at the end."""
        self.counts = counts
        self.trainer.add_callback(_Rankings(self.cfg.heldout.every, lambda: self._rank(rank)))
        with head_on_completions(True), self._reference():
            self.trainer.train()

    def _reference(self) -> AbstractContextManager[Any]:
        """TRL's references are the model without any adapter, or with a copy of the trained one; here it is the SFT adapter."""
        if not self.stacked:
            return nullcontext()
        return patch("trl.trainer.grpo_trainer.use_adapter", lambda *_, **__: self.policy.reference())

    def _rank(self, rank: Rank) -> None:
        current = self.policy.changed_weights()
        with torch.no_grad():
            for name, weight in self.ranked.changed_weights().items():
                weight.copy_(current[name])
        rank(self.ranked, self.run.answers, self.run.engine)

    def _rewards(
        self, completion_ids: list[list[int]], place: list[int], **others: Any
    ) -> list[float | None]:
        assert self.counts is not None
        # TRL's own texts lack special tokens, which make an answer invalid.
        texts = self.policy.decode(pad(completion_ids, self.policy.padding_token, side="right"))
        asked = [self.questions[one] for one in place]
        found = [
            self.reward.judge(text, question)["reward"] for text, question in zip(texts, asked, strict=True)
        ]
        self.counts.add(texts, asked, found, sum(map(len, completion_ids)))
        return [*found]


class _SamePrompts(GRPOTrainer):
    """TRL's trainer, with prompts encoded as ours are, whatever start tokens the tokenizer would add."""

    def __init__(self, policy: Policy, **others: Any) -> None:
        self.policy = policy
        super().__init__(**others)

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return self.policy.encode_rendered(prompts), None, {}


class _Rankings(TrainerCallback):
    def __init__(self, every: int, rank: Callable[[], None]) -> None:
        self.every, self.rank = every, rank

    def on_train_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        """Before the first step."""
        self.rank()

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        """After an update."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self.rank()


def grpo_config(
    cfg: DictConfig, steps: int, folder: str, micro_batch: int, device: torch.device
) -> GRPOConfig:
    """TRL's settings for a GRPO phase of ``steps`` rollout steps, tuned as in the step benchmark."""
    grpo, updates = cfg.grpo, steps * cfg.grpo.iterations
    chosen = trl_settings(
        {"prompts": grpo.prompts_per_step, "group": grpo.group_size, "trl_micro_batch": micro_batch},
        tuned=True,
    )
    chosen.pop("head_rows")
    return GRPOConfig(
        output_dir=folder,
        use_cpu=device.type == "cpu",
        bf16=False,  # no autocast: weights and arithmetic have the types that our policy has
        seed=cfg.seed,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        shuffle_dataset=False,
        max_steps=updates,
        num_generations=grpo.group_size,
        num_iterations=grpo.iterations,
        max_completion_length=cfg.rollout.max_new_tokens,
        temperature=cfg.rollout.temperature,
        top_p=cfg.rollout.top_p,
        top_k=0,
        beta=grpo.beta,
        use_bias_correction_kl=False,
        loss_type=LOSS_TYPES[grpo.aggregation],
        scale_rewards=cfg.advantage.scale,
        epsilon=cfg.loss.epsilon_low,
        epsilon_high=cfg.loss.epsilon_high,
        importance_sampling_level=cfg.loss.level,
        optim="adamw_torch_fused",
        learning_rate=grpo.learning_rate,
        lr_scheduler_type="constant_with_warmup" if grpo.schedule == "constant" else grpo.schedule,
        warmup_steps=round(grpo.warmup_ratio * updates),
        weight_decay=grpo.weight_decay,
        max_grad_norm=grpo.max_grad_norm,
        **chosen,
    )


def start_policy(cfg: DictConfig, path: str, adapter: str) -> Policy:
    """The run's SFT policy with its GRPO phase begun; with LoRA, the adapter `TRAINED` trains.

    Args:
        cfg: the configuration of the GRPO phase.
        path: the run's folder.
        adapter: ``continued``: the SFT phase's adapter goes on, with GRPO's scaling; ``stacked``: a new one on top of it.

    Raises:
        UserError: SFT's adapter does not have the form of GRPO's.
    """
    policy = load_policy(cfg, RunFolder(path), [SFT])
    with seeded_globals(cfg.seed, "stage", "grpo"):
        policy.begin_phase(TRAINED, cfg.grpo.lora, keep_reference=False)
    if policy.lora is not None and adapter == "continued":
        _continue(policy)
    policy.model.train()
    return policy


@torch.no_grad()
def _continue(policy: Policy) -> None:
    """Give the new adapter the values of SFT's, which goes.

    GRPO's adapter may have another scaling than SFT's. Its B is changed so that the policy is the same, and a step of the
    same learning rate is as large as in a new adapter.
    """
    for layer in (module for module in policy.model.modules() if isinstance(module, LoraLayer)):
        shapes = [
            layer.lora_A[name].weight.shape if name in layer.lora_A else None for name in (SFT, TRAINED)
        ]
        if shapes[0] != shapes[1] or None in shapes:
            raise UserError(
                "adapter=continued with adapters of SFT and GRPO on other layers or of other ranks: set adapter=stacked, or "
                "give grpo.lora SFT's rank and target_modules"
            )
        layer.lora_A[TRAINED].weight.copy_(layer.lora_A[SFT].weight)
        scale = layer.scaling[SFT] / layer.scaling[TRAINED]
        layer.lora_B[TRAINED].weight.copy_(layer.lora_B[SFT].weight * scale)
    policy.model.set_adapter(TRAINED)
    policy.model.delete_adapter(SFT)
    policy.phases[:] = [TRAINED]


def _examples(cfg: DictConfig, run: FinishedRun) -> list[list[Example]]:
    """The examples of every step, as our GRPO phase shows them."""
    phase, size = Phase("grpo", GRPO), cfg.grpo.prompts_per_step
    plan = plan_of(cfg, run.prepared, phase, batch_size=size, sampler=instantiate(cfg.sampler))
    forms = Forms(examples_of(cfg, run.prepared, phase))
    steps = [[forms[code] for code in codes] for codes in plan]
    short = next((place for place, step in enumerate(steps) if len(step) < size), None)
    if short is not None:
        raise UserError(
            f"step {short + 1} ends a pass over the prompts with fewer than {size}, and TRL's steps are all alike: set "
            f"grpo.max_steps={short}, or another grpo.prompts_per_step"
        )
    return steps


def refuse_what_trl_lacks(cfg: DictConfig, reward: Any) -> None:
    """Refuse a run that TRL cannot repeat.

    Raises:
        UserError: it names all that TRL cannot do.
    """
    faults = []
    if not isinstance(reward, TextReward):
        faults.append("reward: it does not judge one completion at a time")
    for group, name in (
        ("advantage", "mllmrec.rl.advantages.GroupRelative"),
        ("loss", "mllmrec.rl.losses.ClippedRatio"),
        ("sampler", "mllmrec.step.sampler.Shuffled"),
        ("reference", "mllmrec.step.reference.Frozen"),
    ):
        if cfg[group]._target_ != name:
            faults.append(f"{group}: only {name}")
    faults += [f"{key}: none" for key in ("shapers", "regularizers", "teacher") if cfg.get(key)]
    if cfg.grpo.kl != "k3":
        faults.append("grpo.kl: only k3")
    if cfg.grpo.skip_zero_variance not in ("auto", "never"):
        faults.append("grpo.skip_zero_variance: only auto or never")
    if cfg.prompt.item_tokens != "none":
        faults.append("prompt.item_tokens: only none")
    if faults:
        raise UserError("systems=trl cannot do what this run does:\n" + "\n".join(faults))
