"""Trains GRPO from one SFT policy by mllmrec and by TRL: held-out ranking against seconds of training.

    python experiments/same_run_trl.py run=DIR systems=ours,ours_free,trl every=50 users=500 grpo.max_steps=500

``run`` is a run folder of ``mllmrec.train`` with a finished SFT phase. Any other ``key=value`` changes its configuration for the
GRPO phase of all systems. ``systems``:

- ``ours``: the run's own rollout. ``ours_NAME``: another one of ``conf/rollout/``, such as ``ours_free``.
- ``trl``: TRL's GRPOTrainer, which samples as ``ours_free`` does. ``adapter=continued`` (the default) trains the SFT phase's adapter
  further, as TRL offers it. ``adapter=stacked`` trains a new adapter on top of it, as mllmrec does: the same weights, but slower.
  ``trl_micro_batch=4`` is TRL's number of completions in a forward pass.

Prompts, their order, reward, group size, optimiser and number of steps are the same in all systems. Free completions may have as
many tokens as the longest answer. Prints one JSON line for each ranking of the validation users by ``eval.ranking``, and at the end
how long each system took to TRL's best NDCG@3. The keys of a ranking:

- ``step``: rollout steps so far. ``seconds``: of training, without rankings and set-up.
- ``tokens``: completion tokens so far. Constrained rollouts draw whole answers, and their tokens count without being decoded.
- ``valid``: share of the rollouts since the last ranking that are a valid answer. ``reward``: their mean reward.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from tempfile import TemporaryDirectory
from typing import TextIO

from benchmark.cells import KEEP_MEMORY, OFFLINE
from omegaconf import DictConfig, OmegaConf

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.config.kinds import GRPO
from mllmrec.config.phases import Phase
from mllmrec.engine.base import Engine
from mllmrec.errors import UserError
from mllmrec.evaluation.protocol import Protocol
from mllmrec.evaluation.protocols import main_protocol
from mllmrec.jobs.finished_run import FinishedRun, load_policy, open_policy
from mllmrec.models.policy import Policy
from mllmrec.phases.heldout import HeldOutMeasure
from mllmrec.phases.inputs import JobInputs, PhaseInputs
from mllmrec.phases.run import train_phase
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.rewards.hit_format import named_items
from mllmrec.rl.batch import Question, RolloutBatch
from mllmrec.run.folder import RunFolder

OWN = {
    "run": None,
    "systems": "ours,trl",
    "every": 50,
    "users": 500,
    "adapter": "continued",
    "trl_micro_batch": 4,
}
ADAPTERS = ("continued", "stacked")


class Tally:
    """What the rollouts since the last ranking were like, and how many there were."""

    def __init__(self) -> None:
        self.steps = self.tokens = 0
        self._valid: list[bool] = []
        self._rewards: list[float] = []

    def add(
        self, texts: Sequence[str], questions: Sequence[Question], rewards: Sequence[float], tokens: int
    ) -> None:
        """Count the rollouts of a step.

        Args:
            texts: R completions.
            questions: R, the question that each answers.
            rewards: R.
            tokens: in all completions.
        """
        self.steps += 1
        self.tokens += tokens
        self._rewards += rewards
        self._valid += [
            named_items(text, question, needs_title=False) is not None
            for text, question in zip(texts, questions, strict=True)
        ]

    def take(self) -> dict[str, float | None]:
        """The numbers of a line; the next ones start anew."""
        valid, rewards = self._valid, self._rewards
        self._valid, self._rewards = [], []
        return {
            "tokens": self.tokens,
            "valid": sum(valid) / len(valid) if valid else None,
            "reward": sum(rewards) / len(rewards) if rewards else None,
        }


class Referee:
    """Ranks the validation users on request, prints a line, and does not count the time for it."""

    def __init__(self, system: str, protocol: Protocol, out: TextIO) -> None:
        """Start with nothing trained; ``out`` takes the lines."""
        self.system, self.protocol, self.out = system, protocol, out
        self.tally = Tally()
        self.lines: list[dict[str, object]] = []
        self._seconds, self._resumed = 0.0, 0.0

    def rank(self, policy: Policy, answers: AnswerTokens, engine: Engine) -> dict[str, float]:
        """Rank the validation users; returns all metrics. The first call starts the clock."""
        self.stop()
        metrics = self.protocol.measure(self.protocol.ranker(policy, answers, engine))
        line = {
            "system": self.system,
            "step": self.tally.steps,
            "seconds": self._seconds,
            **self.tally.take(),
            **{name: metrics[name] for name in ("NDCG@3", "HR@1")},
        }
        self.lines.append(line)
        print(json.dumps(_rounded(line)), file=self.out, flush=True)
        self._resumed = time.perf_counter()
        return metrics

    def stop(self) -> None:
        """Stop the clock until the next ranking has ended."""
        if self.lines and self._resumed:
            self._seconds += time.perf_counter() - self._resumed
        self._resumed = 0.0

    def first_with(self, ndcg: float) -> dict[str, object] | None:
        """The first ranking with at least this NDCG@3."""
        for line in self.lines:
            if line["NDCG@3"] >= ndcg:  # type: ignore[operator]
                return {"step": line["step"], "seconds": line["seconds"]}
        return None


@dataclass(frozen=True)
class WatchedPhase(PhaseInputs):
    """A phase that counts its rollouts."""

    tally: Tally = field(default_factory=Tally)

    def remember(self, batch: RolloutBatch) -> None:
        """Count a step's rollouts."""
        asked = [batch.question(row) for row in range(len(batch))]
        # Where rows are all answers and not draws, nothing was generated.
        tokens = int(batch.completions.mask.sum()) if batch.weights is None else 0
        self.tally.add(batch.texts, asked, batch.judged().tolist(), tokens)


def compare(own: DictConfig, changes: list[str], out: TextIO) -> None:
    """Train every system and print its lines, then the seconds to the same NDCG@3.

    Raises:
        UserError: a setting is wrong, or TRL cannot do what the run does.
    """
    systems = str(own.systems).split(",")
    wrong = [name for name in systems if name not in ("ours", "trl") and not name.startswith("ours_")]
    if wrong:
        raise UserError(
            f"systems={','.join(wrong)}: there are ours, ours_NAME with a rollout's name, and trl"
        )
    if own.adapter not in ADAPTERS:
        raise UserError(f"adapter={own.adapter} is none of {', '.join(ADAPTERS)}")
    run = open_policy(own.run, "sft", training=True)
    # No reasoning is shown. Prompts ask for it if the results' prompts do.
    cot = False if run.cfg.eval.cot is True else run.cfg.eval.cot
    chosen = {"split": "validation", "max_users": own.users, "cot": cot, "ks": [1, 3]}
    settings = OmegaConf.merge(run.cfg.eval, chosen)
    protocol = main_protocol(settings, run.cfg.candidates.weighting, run.cfg.protocol_seed, run.prepared)
    # A wrong setting of the last system should not wait for the first one.
    configs = [settings_of(run, system, own, changes) for system in systems]
    referees = []
    for system, cfg in zip(systems, configs, strict=True):
        referee = Referee(system, protocol, out)
        if system == "trl":
            _train_trl(run, cfg, own, referee)
        else:
            train_ours(run, cfg, own.run, referee)
        referees.append(referee)
    if "trl" in systems:
        best = max(line["NDCG@3"] for line in referees[systems.index("trl")].lines)  # type: ignore[type-var]
        reached = {one.system: one.first_with(best) for one in referees}  # type: ignore[arg-type]
        print(json.dumps(_rounded({"best NDCG@3 of trl": best, "first reached": reached})), file=out)


def settings_of(run: FinishedRun, system: str, own: DictConfig, changes: list[str]) -> DictConfig:
    """The configuration of a system's GRPO phase; TRL's has our free rollout, whose settings are TRL's too."""
    cfg = run.cfg
    heldout = {"users": own.users, "every": own.every, "keep": "last", "patience": None}
    name = "free" if system == "trl" else system.removeprefix("ours").removeprefix("_")
    if name:
        rollout = _rollout(name).copy()
        if "temperature" in rollout:
            rollout.temperature = cfg.rollout.get("temperature", rollout.temperature)
        if name == "free":
            rollout.max_new_tokens = run.answers.longest
        cfg = OmegaConf.merge({key: cfg[key] for key in cfg if key != "rollout"}, {"rollout": rollout})
    cfg = OmegaConf.merge(cfg, {"heldout": heldout}, OmegaConf.from_dotlist(changes))
    check_config(cfg)
    return cfg


@cache
def _rollout(name: str) -> DictConfig:
    composed = compose_checked("train", [f"rollout={name}"], CONFIG_DIR)
    if composed.faults:
        raise UserError("\n".join(composed.faults))
    return composed.config.rollout


def train_ours(run: FinishedRun, cfg: DictConfig, path: str, referee: Referee) -> None:
    """One GRPO phase from the run's SFT policy."""
    policy = load_policy(cfg, RunFolder(path), ["sft"])
    answers = AnswerTokens(run.prepared.builder, policy.encode_answers, policy.end_token)
    with TemporaryDirectory() as folder:
        job = JobInputs(cfg, run.prepared, policy, answers, run.engine, RunFolder(folder))
        measure = HeldOutMeasure(
            lambda: referee.rank(policy, answers, run.engine), referee.protocol.objective
        )
        train_phase(WatchedPhase(Phase("grpo", GRPO), job, cfg, tally=referee.tally), [], measure)


def _train_trl(run: FinishedRun, cfg: DictConfig, own: DictConfig, referee: Referee) -> None:
    try:
        from benchmark.trl_run import TrlRun
    except ModuleNotFoundError as error:
        raise UserError(f"systems=trl needs TRL ({error}): pip install trl==1.16.0") from error
    with TemporaryDirectory() as folder:
        trl = TrlRun(run, cfg, own.run, folder, adapter=own.adapter, micro_batch=own.trl_micro_batch)
        trl.train(referee.tally, referee.rank)


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    own = OmegaConf.merge(OWN, OmegaConf.from_dotlist([a for a in arguments if a.split("=")[0] in OWN]))
    if own.run is None:
        print(__doc__, file=sys.stderr)
        return 2
    out = sys.stdout
    try:
        with redirect_stdout(sys.stderr):  # the progress bars go there
            compare(own, [a for a in arguments if a.split("=")[0] not in OWN], out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # Neither side should spend its time on returning memory and faulting it in again; see `benchmark.cells`.
    if any(os.environ.get(name) != value for name, value in KEEP_MEMORY.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY, **OFFLINE})
    sys.exit(main(sys.argv[1:]))
