"""Trained stages kept for other jobs: what several runs have in common is trained once.

A stage is found by the content of everything that made its weights: training data, texts and reasoning, the settings
that were read, the versions of the libraries and this package's own source. The warm-up reads neither texts nor prompts,
only item sequences, so experiments on prompts, candidates and reasoning share it where their policies begin alike. Jobs
that need the same stage at the same time wait for the one that trains it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save_file

from mllmrec.cache import fingerprint
from mllmrec.data.text import input_fingerprint
from mllmrec.models.policy import Policy
from mllmrec.prepare import Prepared
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.run_folder import RunFolder
from mllmrec.stages.warmup import training_sequences

log = logging.getLogger(__name__)

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
_MEASURED = {"heldout": ("users", "every"), "eval": ("ranking", "num_negatives", "weighting", "ks")}
_READ_BY_WARMUP = ("seed", "backbone", "trainer")
_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "lightning")
_WEIGHTS, _LOG, _COST = "weights.safetensors", "log.csv", "cost.json"


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
        code = {
            "libraries": {name: _version(name) for name in _LIBRARIES},
            "source": source_fingerprint(),
        }
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

    @contextmanager
    def alone(self, stages: Sequence[str]) -> Iterator[None]:
        """Keep other jobs from training the same until the block ends."""
        place = self.place(stages)
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{place}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.warning("waiting for another job that trains the same %s", stages[-1])
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def restore(self, stages: Sequence[str], cfg: DictConfig, policy: Policy, folder: RunFolder) -> bool:
        """Bring policy, log and cost to where they stood after ``stages``; False where that is not stored.

        Args:
            stages: in order, of which the policy has been through all but the last.
            cfg: of the run.
            policy: after the stage before the last, or as the backbone built it.
            folder: of the run, whose log holds no other stages.
        """
        place = self.place(stages)
        if not (place / _WEIGHTS).is_file():
            return False
        if stages[-1] != "warmup":
            policy.begin_stage(stages[-1], cfg[stages[-1]].lora, keep_reference=False)
        stored = load_file(place / _WEIGHTS)
        with torch.no_grad():
            for name, weight in policy.changed_weights().items():
                if name in stored:
                    weight.copy_(stored[name])
        if (place / _LOG).exists():
            shutil.copyfile(place / _LOG, folder.log_path)
        for stage, cost in json.loads((place / _COST).read_text(encoding="utf-8")).items():
            folder.record_cost(stage, cost)
        log.info("%s: trained by an earlier job (%s)", ", ".join(stages), place.name)
        return True

    def keep(self, stages: Sequence[str], policy: Policy, folder: RunFolder) -> None:
        """Store the policy after ``stages``, as it is now."""
        place = self.place(stages)
        temporary = place.with_name(f".{place.name}.part")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        weights = {
            name: weight.detach().cpu().contiguous() for name, weight in policy.changed_weights().items()
        }
        save_file(weights, temporary / _WEIGHTS)
        if folder.log_path.exists():
            shutil.copyfile(folder.log_path, temporary / _LOG)
        costs = folder.metrics()["cost"]
        known = json.dumps({stage: costs[stage] for stage in stages})
        (temporary / _COST).write_text(known, encoding="utf-8")
        temporary.rename(place)


class _Digest:
    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=8)

    def add(self, name: str, value: bytes) -> None:
        # With its length, so that no two lists of parts are one text.
        self._hash.update(f"{name}:{len(value)}:".encode())
        self._hash.update(value)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def data_fingerprint(prepared: Prepared) -> str:
    """A hash of everything in the data that training can see (16 hexadecimal digits)."""
    digest = _Digest()
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
    digest = _Digest()
    digest.add("tokens", np.ascontiguousarray(answers.first_tokens()).tobytes())
    for sequence in sequences:
        digest.add("sequence", np.ascontiguousarray(sequence).tobytes())
    for name, weight in policy.model.state_dict().items():
        digest.add(name, weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@cache
def source_fingerprint() -> str:
    """A hash of this package's source (16 hexadecimal digits)."""
    import mllmrec

    root = Path(mllmrec.__file__).parent
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
