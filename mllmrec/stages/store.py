"""Trained stages kept for other jobs: what several runs have in common is trained once.

A stage is found by the content of everything that made its weights: training data, texts and reasoning, the settings
that were read, the versions of the libraries and this package's own source. The warm-up reads neither texts nor prompts,
only item sequences, so experiments on prompts, candidates and reasoning share it where their policies begin alike.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save_file

from mllmrec.cache import Digest, fingerprint
from mllmrec.data.text import input_fingerprint
from mllmrec.models.policy import Policy
from mllmrec.prepare import Prepared
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.run_folder import RunFolder
from mllmrec.stages.heldout import Selection
from mllmrec.stages.warmup import training_sequences
from mllmrec.trained_once import alone, code_fingerprints, hand_over, keeping

SHARED = ("warmup", "sft")
# Sections and root keys that decide a stage's weights, beside those of the stages and the content of the data.
_READ = (
    "seed",
    "protocol_seed",
    "backbone",
    "prompt",
    "cot",
    "candidates",
    "mixing",
    "engine",
    "trainer",
)
# What the stored log shows of held-out users.
_MEASURED = {
    "heldout": ("users", "every", "keep", "patience"),
    "eval": ("ranking", "num_negatives", "weighting", "ks"),
}
_READ_BY_WARMUP = ("seed", "backbone", "trainer")
_WEIGHTS = "weights.safetensors"
# What held-out rankings chose, and the weights that were not kept.
_SELECTION, _OTHER = "selection.json", "other.safetensors"


class StageStore:
    """The folder of trained stages of one data set under one configuration."""

    def __init__(
        self,
        folder: Path,
        cfg: DictConfig,
        prepared: Prepared,
        policy: Policy,
        answers: AnswerTokens,
        stages: Sequence[str],
    ) -> None:
        """Fix what all stages have in common.

        Args:
            folder: of the store.
            cfg: of the run.
            prepared: the data.
            policy: before its first stage.
            answers: of the policy.
            stages: that the run trains, in order.
        """
        self.folder = folder
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
        self._settings = plain
        code = code_fingerprints()
        self._common = {
            "settings": {name: plain[name] for name in _READ},
            "measured": {
                f"{part}.{key}": plain[part][key] for part, keys in _MEASURED.items() for key in keys
            },
            "item_vectors": plain["method"].get("item_vectors"),
            "data": data_fingerprint(prepared),
            **code,
        }
        self._of_warmup = {"settings": {name: plain[name] for name in _READ_BY_WARMUP}, **code}
        if "warmup" in stages:
            sequences = training_sequences(prepared.train.samples, cfg.warmup.length)
            self._of_warmup["data"] = warmup_fingerprint(sequences, policy, answers)

    def place(self, stages: Sequence[str]) -> Path:
        """Where the policy after ``stages`` is kept, whether it is there or not."""
        common = self._of_warmup if list(stages) == ["warmup"] else self._common
        trained = {name: self._settings[name] for name in stages}
        return self.folder / fingerprint({**common, "stages": list(stages), "trained": trained})

    def alone(self, stages: Sequence[str]) -> AbstractContextManager[None]:
        """Keep other jobs from training the same until the block ends."""
        return alone(self.place(stages), stages[-1])

    def restore(
        self, stages: Sequence[str], cfg: DictConfig, policy: Policy, folder: RunFolder
    ) -> tuple[Selection | None, bool]:
        """Bring policy, log and cost to where they stood after ``stages``.

        Args:
            stages: in order, of which the policy has been through all but the last.
            cfg: of the run.
            policy: after the stage before the last, or as the backbone built it.
            folder: of the run, whose log holds no other stages.

        Returns:
            What held-out rankings chose in the last stage, and whether it was stored at all.
        """
        place = self.place(stages)
        if not (place / _WEIGHTS).is_file():
            return None, False
        if stages[-1] != "warmup":
            policy.begin_stage(stages[-1], cfg[stages[-1]].lora, keep_reference=False)
        stored = load_file(place / _WEIGHTS)
        with torch.no_grad():
            for name, weight in policy.changed_weights().items():
                if name in stored:
                    weight.copy_(stored[name])
        hand_over(place, folder)
        return _read_selection(place, policy), True

    def keep(
        self, stages: Sequence[str], policy: Policy, folder: RunFolder, selection: Selection | None
    ) -> None:
        """Store the policy after ``stages``, as it is now, and the weights that the last of them did not keep."""
        weights = {
            name: weight.detach().cpu().contiguous() for name, weight in policy.changed_weights().items()
        }
        with keeping(self.place(stages), folder, stages) as place:
            save_file(weights, place / _WEIGHTS)
            if selection is not None:
                _write_selection(place, selection)


def _write_selection(place: Path, selection: Selection) -> None:
    steps = {"kept": selection.kept, "best_step": selection.best_step, "last_step": selection.last_step}
    (place / _SELECTION).write_text(json.dumps(steps), encoding="utf-8")
    save_file({name: weight.cpu().contiguous() for name, weight in selection.other.items()}, place / _OTHER)


def _read_selection(place: Path, policy: Policy) -> Selection | None:
    if not (place / _SELECTION).is_file():
        return None
    steps = json.loads((place / _SELECTION).read_text(encoding="utf-8"))
    return Selection(**steps, other=load_file(place / _OTHER, device=str(policy.device)))


def data_fingerprint(prepared: Prepared) -> str:
    """A hash of everything in the data that training can see (16 hexadecimal digits)."""
    digest = Digest()
    interactions, train = prepared.interactions, prepared.samples["train"]
    for name, array in (
        ("items", interactions.items),
        ("offsets", interactions.offsets),
        ("users", train.users),
        ("positions", train.positions),
        ("validation", prepared.samples["validation"].positions),
        ("chosen", prepared.mixture.chosen),
    ):
        digest.add(name, np.ascontiguousarray(array).tobytes())
    texts = [
        prepared.items.ids.tolist(),
        prepared.items.titles.tolist(),
        interactions.user_ids.tolist(),
        sorted(prepared.captions.items()),
        [
            "" if prepared.cot is None else prepared.cot.reasoning(prepared.train.cot_key(int(index))) or ""
            for index in prepared.mixture.chosen
        ],
    ]
    digest.add("texts", json.dumps(texts, ensure_ascii=True).encode())
    # Of images, those that prompts may show.
    for item in filter(prepared.items.images.get, prepared.builder.marked):
        digest.add("image", f"{item}:{input_fingerprint(prepared.items.images[item])}".encode())
    return digest.hexdigest()


def warmup_fingerprint(sequences: Sequence[np.ndarray], policy: Policy, answers: AnswerTokens) -> str:
    """A hash of what a warm-up begins with (16 hexadecimal digits).

    Args:
        sequences: of item codes.
        policy: before its first stage.
        answers: of the policy, for the token of each item.
    """
    digest = Digest()
    digest.add("tokens", np.ascontiguousarray(answers.first_tokens()).tobytes())
    for sequence in sequences:
        digest.add("sequence", np.ascontiguousarray(sequence).tobytes())
    for name, weight in policy.model.state_dict().items():
        digest.add(name, weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
