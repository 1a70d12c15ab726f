"""mllmrec: GRPO post-training of LLM recommenders on multimodal sequences.

For notebooks: ``from mllmrec import load_run, Recommender, train, report`` (`mllmrec.api`). Names are imported when they are
first used, since torch and transformers take seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mllmrec.api import LoadedRun, load_run, report, train
    from mllmrec.errors import ConfigError, UserError
    from mllmrec.jobs.recommendation import Recommendation, Recommender

__version__ = "0.1.0"
__all__ = [
    "ConfigError",
    "LoadedRun",
    "Recommendation",
    "Recommender",
    "UserError",
    "__version__",
    "load_run",
    "report",
    "train",
]

_PLACES = {
    "ConfigError": "mllmrec.errors",
    "LoadedRun": "mllmrec.api",
    "Recommendation": "mllmrec.jobs.recommendation",
    "Recommender": "mllmrec.jobs.recommendation",
    "UserError": "mllmrec.errors",
    "load_run": "mllmrec.api",
}
# Commands that are also functions: their modules can be called, so that a name never means two things.
_COMMANDS = ("report", "train")


def __getattr__(name: str) -> Any:
    if name in _COMMANDS:
        return import_module(f"mllmrec.{name}")
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
