"""Experience from counts: which traits the items of right answers have that those of wrong answers lack. No model is used.

A trait is a word of the item's title, a tag of its caption, or what it shares with the history. Over all compared groups so
far that have an answer with the trait, its *gain* is the mean of (share of winners with it) - (share of losers with it),
from -1 to 1.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from mllmrec.experience.base import Answer, Contrast, ExperienceWriter
from mllmrec.experience.library import Library, Operation
from mllmrec.randomness import numpy_generator
from mllmrec.reasoners.base import HistoryItem
from mllmrec.reasoners.counting import content_words, tags_or_words

_RELATIONS = {
    "repeat": "is one of the history",
    "latest": "shares a trait with the latest one",
    "frequent": "has the trait that is most frequent in the history",
}
_STRONG = 0.5  # gains from here on are said more strongly


class CountedExperience(ExperienceWriter):
    """Adds traits with enough gain, rewords those whose gain has changed, and deletes those that have lost it."""

    def __init__(
        self, least_groups: int = 4, least_gain: float = 0.2, most_new: int = 4, seed: int = 0
    ) -> None:
        """Set what counts as experience.

        Args:
            least_groups: compared groups that a trait must have been in.
            least_gain: smallest absolute gain of a new experience; below half of it an experience is deleted.
            most_new: experiences added in a step, the best supported ones.
            seed: of the order among equally supported traits.
        """
        if least_groups < 1 or most_new < 1 or not 0 < least_gain <= 1:
            raise ValueError(
                "least_groups and most_new must be at least 1, and least_gain above 0 and at most 1"
            )
        self.least_groups, self.least_gain = least_groups, least_gain
        self.most_new, self.seed = most_new, seed
        self._groups: Counter[str] = Counter()
        self._sums: defaultdict[str, float] = defaultdict(float)

    def operations(self, contrasts: Sequence[Contrast], library: Library, domain: str) -> list[Operation]:
        """Count the groups of this step, then compare all counts with the library."""
        for contrast in contrasts:
            for trait, difference in differences(contrast).items():
                self._groups[trait] += 1
                self._sums[trait] += difference
        changed: list[Operation] = []
        new: list[Operation] = []
        for trait in self._groups:
            known = library.get(trait)
            gain = self.gain(trait)
            text, support = worded(trait, gain, domain), abs(gain) * math.sqrt(self._groups[trait])
            if known is None:
                if self._groups[trait] >= self.least_groups and abs(gain) >= self.least_gain:
                    new.append(Operation("add", trait, text, support))
            elif abs(gain) < self.least_gain / 2:
                changed.append(Operation("delete", trait))
            else:
                changed.append(Operation("keep" if text == known.text else "modify", trait, text, support))
        new.sort(key=lambda one: (-one.support, numpy_generator(self.seed, "experience", one.key).random()))
        return [*changed, *new[: self.most_new]]

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return {"groups": dict(self._groups), "sums": dict(self._sums)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        self._groups, self._sums = Counter(state["groups"]), defaultdict(float, state["sums"])

    def gain(self, trait: str) -> float:
        """The gain of a trait that was counted."""
        return self._sums[trait] / self._groups[trait]


def differences(contrast: Contrast) -> Mapping[str, float]:
    """For each trait of an answer, the share of winners with it minus the share of losers with it."""
    sides = [
        Counter(trait for one in side for trait in traits(one, contrast.history))
        for side in (contrast.winners, contrast.losers)
    ]
    won, lost = (max(len(side), 1) for side in (contrast.winners, contrast.losers))
    return {trait: sides[0][trait] / won - sides[1][trait] / lost for trait in {**sides[0], **sides[1]}}


def traits(answer: Answer, history: Sequence[HistoryItem]) -> list[str]:
    """The distinct traits of an answer: its relations to the history, its words, and its words after the latest item's.

    An answer that names no candidate has none.
    """
    if answer.item is None:
        return []
    own = _words(answer.item)
    shown = [_words(item) for item in history]
    found = ["repeat"] if any(answer.item.item_id == item.item_id for item in history) else []
    if shown and own.keys() & shown[-1].keys():
        found.append("latest")
    counts = Counter(word for words in shown for word in words)
    most = max(counts.values(), default=0)
    if most > 1 and any(counts[word] == most for word in own):
        found.append("frequent")
    found += [f"word:{word}" for word in own]
    latest = shown[-1] if shown else {}
    return found + [f"after:{before}:{word}" for before in latest for word in own if before != word]


def worded(trait: str, gain: float, domain: str) -> str:
    """A trait with its gain, in a sentence."""
    if gain >= 0:
        how = "usually" if gain >= _STRONG else "often"
    else:
        how = "hardly ever" if gain <= -_STRONG else "rarely"
    if trait in _RELATIONS:
        return f"The next {domain} {how} {_RELATIONS[trait]}."
    kind, _, rest = trait.partition(":")
    if kind == "word":
        return f"The next {domain} {how} has {rest}."
    before, _, word = rest.partition(":")
    return f"After {before} the next {domain} {how} has {word}."


def _words(item: HistoryItem) -> dict[str, None]:
    return {**content_words(item.title), **tags_or_words(item.caption)}
