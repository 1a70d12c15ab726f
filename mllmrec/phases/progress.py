"""How far a phase has come, for a later attempt at the same job."""

from __future__ import annotations

from typing import Any

from mllmrec.phases.base import PhaseModule
from mllmrec.phases.inputs import PhaseInputs
from mllmrec.run.progress import SavedProgress
from mllmrec.store.plain import plain, restored


class PhaseProgress(SavedProgress):
    """Saves beside the weights the parts' state, answers that a later phase learns, and the cost so far."""

    def __init__(self, inputs: PhaseInputs, module: PhaseModule) -> None:
        """Take the phase."""
        super().__init__(inputs.phase.name, inputs.checkpoints, inputs.job.schedule)
        self.inputs, self.module = inputs, module
        policy = inputs.job.policy
        self._read_before = (policy.prompts_read, policy.prompt_tokens_read)
        self._shared = {"builder": inputs.job.prepared.builder}  # made anew by each attempt

    def state_dict(self) -> dict[str, Any]:
        """See `SavedProgress`."""
        job, policy = self.inputs.job, self.inputs.job.policy
        return super().state_dict() | {
            "module": plain(self.module.progress(), self._shared),
            "drawn": plain(job.drawn.get(self.name, []), self._shared),
            "step_seconds": list(job.timer.seconds),
            "prompts": policy.prompts_read - self._read_before[0],
            "prompt_tokens": policy.prompt_tokens_read - self._read_before[1],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `SavedProgress`."""
        super().load_state_dict(state)
        job, policy = self.inputs.job, self.inputs.job.policy
        self.module.take_up(restored(state["module"], self._shared))
        drawn = restored(state["drawn"], self._shared)
        if drawn:
            job.drawn[self.name] = drawn
        job.timer.earlier, job.timer.seconds = self.earlier, list(state["step_seconds"])
        policy.prompts_read += state["prompts"]
        policy.prompt_tokens_read += state["prompt_tokens"]

    def save_files(self) -> None:
        """See `SavedProgress`."""
        super().save_files()
        self.module.save_files()
