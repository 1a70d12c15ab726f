"""Trains GRPO with several kinds of rollout from one SFT policy: held-out ranking against seconds of training.

    python experiments/compare_rollouts.py run=DIR rollouts=constrained,enumerate seeds=0,1 every=50 users=2000

``run`` is a run folder of ``mllmrec.train`` with a finished SFT phase. Any other ``key=value`` changes its configuration for the
GRPO phase (``grpo.max_steps=500``). Prints one JSON line for each ranking of the validation users; ``seconds`` of the clock and of
the processor, which other work on the machine disturbs less, leave the rankings out.
``experiments/enumerate.md`` has the results.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import redirect_stdout
from tempfile import TemporaryDirectory

from omegaconf import DictConfig, OmegaConf

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.config.kinds import GRPO
from mllmrec.config.phases import Phase
from mllmrec.errors import UserError
from mllmrec.evaluation.protocol import Protocol
from mllmrec.evaluation.protocols import main_protocol
from mllmrec.jobs.finished_run import FinishedRun, load_policy, open_policy
from mllmrec.phases.heldout import HeldOutMeasure
from mllmrec.phases.inputs import JobInputs, PhaseInputs
from mllmrec.phases.run import train_phase
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.run.folder import RunFolder

OWN = {"run": None, "rollouts": "constrained,enumerate", "seeds": "0", "every": 50, "users": 2000}


def now() -> dict[str, float]:
    """Seconds of the clock, and of the processor on this process's behalf."""
    return {"seconds": time.perf_counter(), "processor_seconds": time.process_time()}


class Clock:
    """Ranks the validation users on request, prints the result, and does not count the time for it."""

    def __init__(self, protocol: Protocol, words: dict[str, object]) -> None:
        self.protocol, self.words = protocol, words
        self.seconds = {"seconds": 0.0, "processor_seconds": 0.0}
        self.resumed, self.rankings = now(), 0

    def measure(self, inputs: JobInputs) -> dict[str, float]:
        """Rank the validation users and print a line."""
        if self.rankings:  # the first ranking is that of the policy before training
            self.seconds = {key: self.seconds[key] + end - self.resumed[key] for key, end in now().items()}
        metrics = self.protocol.measure(self.protocol.ranker(inputs.policy, inputs.answers, inputs.engine))
        rounded = {
            **{key: round(value, 2) for key, value in self.seconds.items()},
            **{key: round(value, 4) for key, value in metrics.items()},
        }
        line = {**self.words, "ranking": self.rankings, **rounded}
        print(json.dumps(line), file=sys.__stdout__, flush=True)
        self.rankings += 1
        self.resumed = now()
        return metrics


def compare(path: str, own: DictConfig, changes: list[str]) -> None:
    """Train the GRPO phase once for every seed and rollout."""
    run = open_policy(path, "sft", training=True)
    # No reasoning is shown. Prompts ask for it if the results' prompts do.
    cot = False if run.cfg.eval.cot is True else run.cfg.eval.cot
    settings = OmegaConf.merge(run.cfg.eval, {"split": "validation", "max_users": own.users, "cot": cot})
    protocol = main_protocol(settings, run.cfg.candidates.weighting, run.cfg.protocol_seed, run.prepared)
    for seed in str(own.seeds).split(","):
        for rollout in str(own.rollouts).split(","):
            composed = compose_checked("train", [f"rollout={rollout}"], CONFIG_DIR)
            if composed.faults:
                raise UserError("\n".join(composed.faults))
            heldout = {"users": own.users, "every": own.every, "keep": "last", "patience": None}
            cfg = OmegaConf.merge(
                newer_keys(composed.config, run.cfg),
                {key: run.cfg[key] for key in run.cfg if key != "rollout"},
                {"rollout": composed.config.rollout, "seed": int(seed), "heldout": heldout},
                OmegaConf.from_dotlist(changes),
            )
            check_config(cfg)
            train(
                run, cfg, path, Clock(protocol, {"rollout": rollout, "seed": int(seed), "every": own.every})
            )


def newer_keys(defaults: DictConfig, cfg: DictConfig) -> dict[str, object]:
    """Sections of numbers, with what a run of an earlier version does not have; not of parts, which the run has whole."""
    plain = {
        key: value
        for key, value in defaults.items()
        if isinstance(value, DictConfig) and "_target_" not in value
    }
    return {
        key: value for key, value in plain.items() if key not in cfg or "_target_" not in (cfg[key] or {})
    }


def train(run: FinishedRun, cfg: DictConfig, path: str, clock: Clock) -> None:
    """One GRPO phase from the run's SFT policy."""
    policy = load_policy(cfg, RunFolder(path), ["sft"])
    policy.asks = run.prepared.builder.asks_for_reasoning
    answers = AnswerTokens(run.prepared.builder, policy.encode_answers, policy.end_token)
    with TemporaryDirectory() as folder:
        job = JobInputs(cfg, run.prepared, policy, answers, run.engine, RunFolder(folder))
        measure = HeldOutMeasure(lambda: clock.measure(job), clock.protocol.objective)
        train_phase(PhaseInputs(Phase("grpo", GRPO), job, cfg), [], measure)


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    own = OmegaConf.merge(OWN, OmegaConf.from_dotlist([a for a in arguments if a.split("=")[0] in OWN]))
    if own.run is None:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        with redirect_stdout(sys.stderr):  # the progress bars go there
            compare(own.run, own, [a for a in arguments if a.split("=")[0] not in OWN])
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
