"""Seconds of a GRPO step with and without drawing ahead (``generator.max_lag``), against a server of completions.

python experiments/draw_ahead.py model=FOLDER url=http://127.0.0.1:8000/v1
python experiments/draw_ahead.py model=FOLDER delay=1.0

Without a url the server is that of the tests: vLLM's protocol around the model in this process, with ``delay`` seconds of sleep
before each answer, which stand for a server that computes elsewhere. `docs/vllm.md` has the figures.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from command_line import WrongUse, read_settings

PROJECT = Path(__file__).parents[1]


@dataclass
class Settings:
    """The command line."""

    model: str = ""  # folder of a pretrained model
    url: str = ""  # of a running server; empty: one of our own
    delay: float = 1.0  # seconds before each answer of our own
    steps: int = 8
    prompts: int = 8  # a step
    group_size: int = 8
    tokens: int = 32  # of each completion


def seconds_per_step(settings: Settings, url: str, max_lag: int, folder: Path) -> float:
    """The median step of a short job."""
    command = [
        *(sys.executable, "-m", "mllmrec.train", "method=grpo_only", "cot_policy=none", "mix_ratio=0"),
        *(
            "backbone=hf",
            f"backbone.path={settings.model}",
            "backbone.lora.rank=8",
            "prompt.template=compact",
        ),
        *("backbone.dtype=float32", "prompt.history_length=3", "rollout=free", "dataset.num_users=200"),
        *(f"rollout.max_new_tokens={settings.tokens}", "generator=vllm", f"generator.base_url={url}"),
        *(f"generator.max_lag={max_lag}", f"grpo.max_steps={settings.steps}", "grpo.micro_batch_size=16"),
        *(f"grpo.prompts_per_step={settings.prompts}", f"grpo.group_size={settings.group_size}"),
        # Random answers earn nothing; the entropy keeps the updates at work.
        "+regularizers.entropy._target_=mllmrec.rl.regularizers.EntropyBonus",
        *("heldout.users=0", "eval.max_users=2", "eval.resamples=10", "logger=none", "baselines={}"),
        *(f"hydra.run.dir={folder}", f"cache_dir={folder.parent / 'cache'}"),
    ]
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "metrics.json").read_text())["cost"]["grpo"]["seconds_per_step"]


def main(settings: Settings) -> None:
    """Both settings, and their ratio."""
    if not settings.model:
        raise WrongUse("model is not set: give the folder of a pretrained model")
    url = settings.url
    if not url:
        sys.path.insert(0, str(PROJECT / "tests"))
        from loopback_vllm import LoopbackVllm

        url = LoopbackVllm(settings.model, delay=settings.delay, max_model_len=4096).url
    with tempfile.TemporaryDirectory() as place:
        waits, ahead = (seconds_per_step(settings, url, lag, Path(place) / f"lag{lag}") for lag in (0, 1))
    print(f"max_lag=0 {waits:.2f} s a step, max_lag=1 {ahead:.2f} s: {waits / ahead:.2f} times as fast")


if __name__ == "__main__":
    try:
        main(read_settings(Settings, sys.argv[1:], {}))
    except WrongUse as wrong:
        sys.exit(str(wrong))
