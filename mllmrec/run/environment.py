"""`environment.json` of a run: the command, the versions and the machine behind its numbers."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from mllmrec.cache import library_version
from mllmrec.config.secret_values import is_called_secret, redacted
from mllmrec.config.secrets import without_secrets

REDACTED = "<redacted>"
_LIBRARIES = (
    "mllmrec",
    "torch",
    "transformers",
    "peft",
    "lightning",
    "hydra-core",
    "omegaconf",
    "accelerate",
    "datasets",
    "numpy",
    "pandas",
    "pyarrow",
    "safetensors",
    "scikit-learn",
    "scipy",
    "tokenizers",
)
_PACKAGE = Path(__file__).resolve().parents[1]
_GIT_SECONDS = 10.0  # on a slow disk a run does without the commit


def environment() -> dict[str, Any]:
    """What this process runs with, as JSON values; what cannot be found out is None.

    No names of users or machines, and no paths but those of the command line.
    """
    return {
        "command": command_line(sys.argv),
        "code": checkout_state(_PACKAGE),
        "versions": {
            "python": platform.python_version(),
            **{name: library_version(name) for name in _LIBRARIES},
            "cuda": torch.version.cuda,
        },
        "hardware": {
            "cpu": _cpu_model(),
            # The kernels that torch chooses depend on it.
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "cores": psutil.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
            "gpus": _gpus(),
        },
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }


def command_line(arguments: Sequence[str]) -> list[str]:
    """A command line without its secrets, and without the folder of the program."""
    if not arguments:
        return []
    shown, hide_next = [Path(arguments[0]).name], False
    for text in arguments[1:]:
        hidden, hide_next = hide_next, False
        name, has_value, _ = text.partition("=")
        secret = is_called_secret(name.lstrip("+~-").rpartition(".")[2])
        if hidden:
            text = REDACTED
        elif has_value and (secret or not without_secrets([text])[0]):
            text = f"{name}={REDACTED}"
        elif text.startswith("-"):
            hide_next = secret
        shown.append(redacted(text))
    return shown


def checkout_state(package: Path) -> dict[str, Any]:
    """``commit`` of the git checkout that holds ``package``, and whether the code or its settings are ``changed``.

    Both are None outside a checkout, as in an installed package, and where git is missing.
    """
    unknown = {"commit": None, "changed": None}
    # A package installed into an environment may stand below somebody's repository, which does not track it.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return unknown
    commit = _git(package, "rev-parse", "HEAD")
    edited = _git(package.parent, "status", "--porcelain", "--", package.name, "conf")
    if commit is None or edited is None:
        return unknown
    return {"commit": commit, "changed": edited != ""}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None if it fails."""
    # In a hook, git's own variables name another repository.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
        )
        return done.stdout.strip() if done.returncode == 0 else None
    return None


def _cpu_model() -> str | None:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def _gpus() -> list[str] | None:
    # A driver that does not fit is the trainer's to report.
    with suppress(RuntimeError, AssertionError):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return [torch.cuda.get_device_name(index) for index in range(count)]
    return None


def read_environment(path: Path) -> dict[str, Any] | None:
    """An `environment.json`; None if it is missing, as in runs of earlier versions, or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def environment_differences(
    first: Mapping[str, Any] | None, second: Mapping[str, Any] | None
) -> list[tuple[str, str, str]]:
    """What two environments do not have in common: name and both values. The command lines are left out.

    Args:
        first: an environment, or None if it is unknown; then nothing is reported.
        second: the other one.
    """
    if first is None or second is None:
        return []
    one, two = dict(_facts(first)), dict(_facts(second))
    return [
        (name, str(one.get(name)), str(two.get(name)))
        for name in dict.fromkeys([*one, *two])
        if one.get(name) != two.get(name)
    ]


def _facts(environment: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in environment.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", fact) for inner, fact in value.items())
        elif name != "command":
            yield name, value
