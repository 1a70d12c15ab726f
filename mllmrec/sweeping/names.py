"""Names the folder of a sweep's job by the settings that distinguish the job, not by its number."""

from __future__ import annotations

import re
from collections.abc import Sequence

from omegaconf import OmegaConf

from mllmrec.cache import fingerprint

# Already in the name of the sweep's folder, or without effect on a job's results.
PRESETS = ("experiment", "scale", "debug")
_LEFT_OUT = (*PRESETS, "skip_finished", "overwrite", "share_stages", "resume", "hydra")
_LONGEST = 120


def job_name(overrides: Sequence[str]) -> str:
    """A folder name such as ``method-sft+seed-0``, the same whatever other jobs the sweep has.

    Args:
        overrides: the overrides of one job, as ``key=value``.

    Returns:
        ``job`` if nothing distinguishes the job. Characters other than letters, digits and ``._+-`` become ``_`` and a hash
        is appended, so that the name can be typed as ``run=DIR``. A long name begins with the chosen groups and is cut; it
        also ends in a hash.
    """
    parts = sorted(
        text for text in overrides if re.split(r"[=./@]", text.lstrip("+~"), maxsplit=1)[0] not in _LEFT_OUT
    )
    plain = _joined(parts) or "job"
    if len(plain) > _LONGEST:
        plain = _joined(sorted(parts, key=lambda part: "." in part.split("=", 1)[0]))
    readable = re.sub(r"[^\w.+-]+", "_", plain, flags=re.ASCII)
    return (
        plain
        if readable == plain and len(plain) <= _LONGEST
        else f"{readable[:_LONGEST]}-{fingerprint(parts)}"
    )


def _joined(parts: Sequence[str]) -> str:
    return "+".join(part.lstrip("+~").replace("=", "-", 1) for part in parts)


def register_job_name() -> None:
    """Let a configuration use ``${job_name:${hydra.overrides.task}}``."""
    OmegaConf.register_new_resolver("job_name", job_name, replace=True)
