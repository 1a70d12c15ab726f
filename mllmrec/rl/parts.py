"""What all parts of a step have in common: rollouts, rewards, shapers, advantages, losses, regularizers, references."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Fields of a batch that are computed only if a part asks for them.
REFERENCE, TEACHER, OLD, GREEDY = "reference", "teacher", "old", "greedy"
COMPUTED = frozenset({REFERENCE, TEACHER, OLD, GREEDY})


class Part:
    """A part of a step. It takes plain parameters, says what it needs, and keeps only state that can be saved."""

    # Names of a batch's fields: reference, teacher, old, greedy. Settings may decide, but not about the teacher.
    needs: frozenset[str] = frozenset()

    def metrics(self) -> dict[str, float]:
        """Numbers to log after a step, by name."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What the part has learnt from the steps so far."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` returned.

        Raises:
            ValueError: this part keeps no state, but there is one.
        """
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, but was given {', '.join(state)}")
