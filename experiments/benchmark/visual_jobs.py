"""The jobs of the efficiency benchmark, each in a process of its own: ``python -m benchmark.visual_jobs JOB SETTINGS``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from benchmark.measuring import added_memory, device, now, run_job, versions
from benchmark.models import LINEAR_LAYERS
from benchmark.visual_models import FORMS, MERGE, VISION_TOKENS, ItemPrompt, random_vision_model
from mllmrec.randomness import torch_generator

RANK, LEARNING_RATE = 16, 1e-4


class PlainStep:
    """One policy, a Qwen3-VL with LoRA on its language model, and the same prompt in one or both forms.

    Everything but the input is the same code and the same weights.
    """

    def __init__(self, settings: Mapping[str, Any], forms: tuple[str, ...] = FORMS) -> None:
        self.prompt = ItemPrompt(settings)
        self.processor = self.prompt.processor(settings["min_pixels"])
        self.inputs = {
            form: {
                name: value.to(device()) for name, value in self.prompt.inputs(form, self.processor).items()
            }
            for form in forms
        }
        base = random_vision_model(settings["size"], self.prompt.tokenizer, device())
        # The tower's layers have other names, so the tower is frozen.
        lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=LINEAR_LAYERS)
        self.model = get_peft_model(base, lora)
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, LEARNING_RATE, fused=True)
        shape = (settings["group"], 1, settings["completion_len"])
        generator = torch_generator(0, "completions")
        # The vision tokens come last, and no answer contains one.
        vocabulary = len(self.prompt.tokenizer) - len(VISION_TOKENS)
        self.completions = torch.randint(vocabulary, shape, generator=generator).to(device())

    @torch.no_grad()
    def see(self) -> None:
        """Run the vision tower over all images of the prompt."""
        inputs = self.inputs["visual"]
        self.model.get_base_model().get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])

    @torch.no_grad()
    def read(self, form: str) -> None:
        """Run one forward pass of the prompt, images included."""
        self.model(**self.inputs[form], use_cache=True, logits_to_keep=1)

    def step(self, form: str) -> None:
        """Run the prompt's forward pass, then forward and backward of prompt and each of G completions, then AdamW.

        The loss is that of the policy gradient with advantages of 1 and -1 in turn: minus the mean of advantage times
        log-probability over the completions' tokens.
        """
        self.read(form)
        for number, completion in enumerate(self.completions):
            advantage = 1.0 if number % 2 == 0 else -1.0
            loss = -advantage * self._logprobs(form, completion).mean() / len(self.completions)
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _logprobs(self, form: str, completion: Tensor) -> Tensor:
        """(1, T) log-probabilities of a (1, T) completion after the prompt."""
        length = completion.shape[1]
        inputs = dict(self.inputs[form])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], completion], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, length))
        logits = self.model(**inputs, use_cache=False, logits_to_keep=length + 1).logits[:, :-1]
        chosen = logits.gather(2, completion[:, :, None])[:, :, 0]
        return chosen - logits.logsumexp(2)


def time_forms(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Tokens of both forms, and seconds: times the text prompt, then the visual one, and repeats."""
    side = PlainStep(settings)
    tokens = {form: side.inputs[form]["input_ids"].shape[1] for form in FORMS}
    per_image = int(side.inputs["visual"]["image_grid_thw"][0].prod()) // MERGE**2
    seconds: dict[str, dict[str, list[float]]] = {"prepare": {}, "vision": {}, "forward": {}, "step": {}}
    for _ in range(settings["warmup"] + settings["repeats"]):
        for form in FORMS:
            _time(seconds["prepare"], form, partial(side.prompt.inputs, form, side.processor))
            _time(seconds["forward"], form, partial(side.read, form))
            _time(seconds["step"], form, partial(side.step, form))
        _time(seconds["vision"], "visual", side.see)
    found = {
        part: {form: median(tries[settings["warmup"] :]) for form, tries in of_form.items()}
        for part, of_form in seconds.items()
    }
    return {
        "prompt_tokens": tokens,
        "tokens_per_image": per_image,
        **{f"{part}_s": of_form for part, of_form in found.items()},
        "ratio": {
            "tokens": tokens["visual"] / tokens["text"],
            **{part: found[part]["visual"] / found[part]["text"] for part in ("forward", "step")},
        },
        "all_s": {
            part: {form: tries[settings["warmup"] :] for form, tries in of_form.items()}
            for part, of_form in seconds.items()
        },
        "device": torch.cuda.get_device_name() if device().type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def memory_of_text(settings: Mapping[str, Any]) -> dict[str, float]:
    """MiB of the text form's first step; see `added_memory`."""
    side = PlainStep(settings, ("text",))
    return {"text": added_memory(lambda: side.step("text"))}


def memory_of_visual(settings: Mapping[str, Any]) -> dict[str, float]:
    """MiB of the visual form's first step; see `added_memory`."""
    side = PlainStep(settings, ("visual",))
    return {"visual": added_memory(lambda: side.step("visual"))}


def _time(seconds: dict[str, list[float]], form: str, work: Callable[[], object]) -> None:
    begin = now()
    work()
    seconds.setdefault(form, []).append(now() - begin)


if __name__ == "__main__":
    run_job(time_forms, memory_of_text, memory_of_visual)
