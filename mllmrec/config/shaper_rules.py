"""Rules about shapers that do not go together; written as in `mllmrec.config.rules`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mllmrec.config.capabilities import capability
from mllmrec.config.phases import phases_of

Settings = Mapping[str, Any]


def lengths_are_paid_once(cfg: Settings) -> str | None:
    """Two shapers pay for the length of the same answers."""
    for phase in phases_of(cfg):
        if not phase.kind.rolls_out:
            continue
        shapers = phase.settings(cfg).get("shapers") or {}
        paying = [name for name, one in shapers.items() if capability(one, "shapes_length", False)]
        if len(paying) > 1:
            first, second, *_ = paying
            return (
                f"shapers.{first} and shapers.{second} both pay for the length of answers, so one would undo or repeat the "
                f"other: remove one of them, as in ~shapers.{second}"
            )
    return None


def shaped_parts_are_paid(cfg: Settings) -> str | None:
    """A shaper reads parts that neither the reward, nor the rollout, nor a shaper before it fills in."""
    for phase in phases_of(cfg):
        if not phase.kind.rolls_out:
            continue
        seen = phase.settings(cfg)
        known = capability(seen["reward"], "parts", ())
        # A rollout that looks into its own rows fills in parts, too.
        found = capability(seen["rollout"], "parts", ())
        known = (*known, *found) if isinstance(known, tuple) and isinstance(found, tuple) else None
        for name, one in (seen.get("shapers") or {}).items():
            if not isinstance(known, tuple):
                break  # parts that only a running reward knows
            wanted = one.get("weights") if capability(one, "needs_parts", False) else None
            for part in wanted if isinstance(wanted, Mapping) else ():
                if part not in known:
                    return (
                        f"shapers.{name}.weights.{part}: neither reward, rollout nor a shaper above has such a part; they have "
                        f"{', '.join(sorted(known)) or 'none'}: name one of these, or remove it with "
                        f"~shapers.{name}.weights.{part}"
                    )
            own = capability(one, "parts", ())
            known = (*known, *own) if isinstance(own, tuple) else own
    return None


def stops_are_known(cfg: Settings) -> str | None:
    """A shaper reads the order of a group's rows, and the rollout draws rows that have none."""
    for phase in phases_of(cfg):
        if not phase.kind.rolls_out:
            continue
        seen = phase.settings(cfg)
        for name, one in (seen.get("shapers") or {}).items():
            if capability(one, "needs_order", False) and not capability(
                seen["rollout"], "gives_order", False
            ):
                return (
                    f"shapers.{name} pays rows by their order, and rollout._target_={seen['rollout']['_target_']} draws rows that "
                    f"have none: set rollout=serial_exit, or remove the shaper with ~shapers.{name}"
                )
    return None


SHAPER_RULES = (lengths_are_paid_once, shaped_parts_are_paid, stops_are_known)
