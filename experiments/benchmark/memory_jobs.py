"""The jobs of the memory benchmark, each in a process of its own: ``python -m benchmark.memory_jobs JOB SETTINGS``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.measuring import device, now, run_job, versions
from benchmark.models import LINEAR_LAYERS, random_model
from mllmrec.engine.base import Engine
from mllmrec.engine.batches import TokenBatch
from mllmrec.engine.plain import Plain
from mllmrec.engine.shared_prefix import SharedPrefix


class Step:
    """Supervised steps of one model, by any way; the tokens are random."""

    def __init__(self, settings: Mapping[str, Any], precision: str) -> None:
        self.settings = settings
        self.mixed = precision == "mixed"
        dtype = "float32" if self.mixed else precision
        if Path(settings["model"]).is_dir():
            from transformers import AutoModelForCausalLM

            model: Any = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=getattr(torch, dtype))
            # Weights may still lie in the file alone; the first step would pay for reading them.
            for weight in model.parameters():
                weight.data = weight.data.clone()
            model.to(device())
        else:
            model = random_model(settings["model"], dtype, device())
        if settings["train"] == "lora":
            from peft import LoraConfig, get_peft_model

            torch.manual_seed(0)
            model = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, target_modules=LINEAR_LAYERS))
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    if "lora_B" in name:
                        weight.normal_(std=0.02)
        self.model = model.train()
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.weights, lr=1e-5, fused=True)
        generator = torch.Generator().manual_seed(0)
        vocabulary = int(model.config.vocab_size)
        rows = settings["prompts"] * settings["group"]
        self.prompts, self.completions = (
            torch.randint(5, vocabulary, (count, length), generator=generator).to(device())
            for count, length in (
                (settings["prompts"], settings["prompt_len"]),
                (rows, settings["completion_len"]),
            )
        )

    def __call__(self, way: str) -> None:
        """Forward, backward and update."""
        self.gradients(way)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def gradients(self, way: str) -> None:
        """Forward and backward, micro-batch by micro-batch."""
        for start in range(0, self.settings["prompts"], self.settings["micro_batch"]):
            self.loss(way, slice(start, start + self.settings["micro_batch"])).backward()

    def loss(self, way: str, part: slice) -> Tensor:
        """The micro-batch's share of the loss."""
        engine, checkpoints = engine_of(way)
        if checkpoints:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
            self.model.enable_input_require_grads()
        elif self.model.is_gradient_checkpointing:
            self.model.gradient_checkpointing_disable()
        group = self.settings["group"]
        prompts, completions = self.prompts[part], self.completions[part.start * group : part.stop * group]
        prompt_of = torch.arange(len(prompts), device=prompts.device).repeat_interleave(group)
        with torch.autocast(device().type, torch.bfloat16, enabled=self.mixed):
            encoded = engine.encode(self.model, whole(prompts))
            scores = engine.score(self.model, encoded, whole(completions), prompt_of, entropy=False)
        return -scores.logprobs.sum() / self.completions.numel()


def precision_of(way: str) -> str:
    """``float32``, ``bfloat16``, or ``mixed``: weights in float32 and arithmetic in bfloat16."""
    return way.partition("/")[2] or "float32"


def engine_of(way: str) -> tuple[Engine, bool]:
    """The engine of a way, and whether the model checkpoints its layers."""
    name, _, chunk = way.partition("/")[0].partition(":")
    if name == "streambp":
        return SharedPrefix(int(chunk)), False
    return (Plain() if name.startswith("plain") else SharedPrefix()), name.endswith("checkpointing")


def whole(ids: Tensor) -> TokenBatch:
    """Rows without padding."""
    return TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool))


def peak_of(work: Callable[[], None]) -> float:
    """MiB that ``work`` holds at most beyond what was there before.

    Loading a model may need more than a step, so the system must forget that peak, as Linux can.
    """
    if device().type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 2**10


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{key}:")))


def time_ways(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of each way's steps, which take turns, and how far its gradients are from the first way's."""
    ways = settings["ways"].split("+")
    steps = {precision: Step(settings, precision) for precision in {precision_of(way) for way in ways}}
    load, gradients = os.getloadavg()[0], {}
    for way in ways:
        step = steps[precision_of(way)]
        step.gradients(way)
        gradients[way] = torch.cat([weight.grad.float().flatten() for weight in step.weights])
        step.optimizer.zero_grad(set_to_none=True)
    first = gradients[ways[0]]
    errors = {way: float((own - first).norm() / first.norm()) for way, own in gradients.items()}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(settings["warmup"] + settings["repeats"]):
        for way in ways:
            begin = now()
            steps[precision_of(way)](way)
            seconds[way].append(now() - begin)
    return {
        "seconds": {way: own[settings["warmup"] :] for way, own in seconds.items()},
        "gradient_errors": errors,
        "load": [round(load, 2), round(os.getloadavg()[0], 2)],
        "versions": {**versions(), "threads": torch.get_num_threads(), "date": time.strftime("%Y-%m-%d")},
    }


def memory_of_way(settings: Mapping[str, Any]) -> dict[str, float]:
    """MiB that the first step adds to the process's peak, and that autograd keeps between forward and backward."""
    way = settings["ways"]
    step = Step(settings, precision_of(way))
    peak = peak_of(lambda: step(way))
    known = {weight.untyped_storage().data_ptr() for weight in step.model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step.loss(way, slice(0, settings["micro_batch"]))
    del loss
    return {"peak_mb": peak, "saved_mb": sum(kept.values()) / 2**20}


if __name__ == "__main__":
    run_job(time_ways, memory_of_way)
