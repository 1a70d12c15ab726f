"""Types and bounds of every plain setting: one class for each section, one field for each key.

Error messages give a field's description as the reason for its bound. Sections of phases stand in `phase_schema`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Weighting = Literal["uniform", "popularity"]
Schedule = Literal["linear", "cosine", "constant"]


def _count_or_full(value: Any) -> Any:
    if value != "full" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError("must be a whole number of at least 1, or full for the whole catalogue")
    return value


def _cutoffs(value: list[int]) -> list[int]:
    if not value or len(set(value)) < len(value):
        raise ValueError("must be one or more different cut-offs, such as [1,3,5,10]")
    return value


def _auto_or_bool(value: Any) -> Any:
    if value != "auto" and not isinstance(value, bool):
        raise ValueError("must be true, false or auto")
    return value


class Section(BaseModel):
    """A section that allows only these keys."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Component(BaseModel):
    """A section with a ``_target_``: bounds of keys that several classes share. Each class checks its other keys."""

    model_config = ConfigDict(extra="allow", strict=True)


class Prompt(Section):
    """``prompt``."""

    template: Annotated[str, Field(min_length=1)]
    question: Annotated[str, Field(min_length=1)]
    # Runs of earlier versions have no label and no system.
    label: Literal["id", "letter", "number", "none"] = "id"
    answer: Literal["id", "id_title"]
    system: str | None = None
    places: Count = 1  # runs of earlier versions have no such key
    history_length: Count
    max_title_words: CountOrZero
    max_caption_words: CountOrZero
    max_detail_words: CountOrZero | None = None  # runs of earlier versions have no such key
    # Runs of earlier versions have neither key.
    item_tokens: Literal["none", "vector", "image"] = "none"
    curriculum: Literal["none", "linear"] = "none"


class Candidates(Section):
    """``candidates``."""

    num_negatives: Count
    weighting: Weighting


class Eval(Section):
    """``eval``."""

    ranking: Literal["likelihood", "constrained", "generate", "pointwise", "reasoned"]
    # Runs of earlier versions have none of these three keys, and no listing.
    calibrate: Literal["none", "history", "permute"] = "none"
    normalise: Literal["none", "tokens"] = "none"
    orders: Count = 4
    num_negatives: Annotated[Any, AfterValidator(_count_or_full)]
    listing: Literal["trained", "all", "none"] = "trained"  # runs of earlier versions have no such key
    weighting: Literal["uniform", "popularity", "both"]
    ks: Annotated[list[Count], AfterValidator(_cutoffs)]
    split: Literal["test", "validation"]
    max_users: Count | None
    cot: Annotated[Any, AfterValidator(_auto_or_bool)]
    batch_size: Count
    max_new_tokens: Count
    reasoning_samples: Count = 1  # runs of earlier versions have none of these three keys
    max_reasoning_tokens: Count = 64
    faithfulness: bool = False
    keep_top: Count
    resamples: Count


class Heldout(Section):
    """``heldout``."""

    users: CountOrZero
    every: Count
    keep: Literal["best", "last"]
    patience: Count | None


class Warnings(Section):
    """``warnings``."""

    steps: Count
    kl: Positive
    invalid: Annotated[float, Field(gt=0, le=1)]
    # Runs of earlier versions have none of the keys below.
    equal: Annotated[float, Field(gt=0, le=1)] = 1.0
    entropy: ShareBelowOne = 0.05
    length: Annotated[float, Field(gt=1)] = 4.0
    inflation: Count = 3
    unmoved: Share = 0.5
    skipped: Count = 3


class Method(Section):
    """``method``."""

    name: Annotated[str, Field(min_length=1)]
    phases: list[Any] | None = None
    stages: list[Any] | None = None  # the name of phases in runs of earlier versions
    recommender: dict[str, Any] | None
    item_vectors: dict[str, Any] | None = None


class Trainer(Section):
    """``trainer``."""

    accelerator: Literal["auto", "cpu", "gpu", "mps"]
    precision: Literal["32-true", "bf16-mixed", "bf16-true"]
    log_every_n_steps: Count
    devices: Count = 1
    strategy: Literal["auto", "ddp", "fsdp2", "deepspeed"] = "auto"
    profiler: Literal["simple", "advanced", "pytorch"] | None = None
    detect_anomaly: bool = False


class Root(Section):
    """Values outside sections. The YAML file of each command has some of them."""

    seed: CountOrZero = 0
    protocol_seed: CountOrZero = 0
    share_stages: bool = False
    skip_finished: bool = False
    overwrite: bool = False
    resume: Literal["auto", "never"] = "never"
    mix_ratio: Share = 0.0
    cache_dir: Annotated[str, Field(min_length=1)] = "."
    run_name: str | int | None = None
    metrics: list[str] | None = None
    weights: Literal["kept", "best", "last"] = "kept"
    resamples: Count = 1
    max_samples: Count | None = None
    samples_shown: CountOrZero = 0
    dry_run: bool = False
    wandb: bool = False
    merge: bool = True
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    check: bool = True
    private: bool = True
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    workers: Count = 1
    open: bool = True


class Checkpoint(Section):
    """``checkpoint``."""

    minutes: Positive | None
    steps: Count | None
    keep: Count
    grace: Annotated[float, Field(ge=0)]


class BackboneLora(Component):
    """``backbone.lora``."""

    rank: CountOrZero = 0
    alpha: Positive = 1
    dropout: ShareBelowOne = 0.0
    # Runs of earlier versions have neither.
    use_dora: bool = False
    use_rslora: bool = False


class Peft(Section):
    """``peft``."""

    use_dora: bool
    use_rslora: bool


class Backbone(Component):
    """``backbone``."""

    dtype: Literal["bfloat16", "float16", "float32"] = "float32"
    quantization: Literal["4bit"] | None = None
    max_length: Count | None = None
    lora: BackboneLora | None = None
    hidden_size: Count = 1
    num_layers: Count = 1
    num_heads: Count = 1
    mlp_ratio: Count = 1
    vocabulary: Count = 1
    vision_size: Count = 1
    vision_layers: Count = 1
    vision_heads: Count = 1
    min_pixels: Count | None = None
    max_pixels: Count | None = None


class EngineSection(Component):
    """``engine``."""

    chunk: Count | None = None


class Rollout(Component):
    """``rollout``."""

    temperature: Positive = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Count = 1


class Loss(Component):
    """``loss``."""

    epsilon_low: Positive = 0.2
    epsilon_high: Positive = 0.2
    level: Literal["token", "sequence"] = "token"


class Filters(Section):
    """``dataset.filters``."""

    min_rating: float | None
    k_core: CountOrZero
    min_length: CountOrZero
    max_length: Count | None
    repeats: Literal["first", "all"]
    untitled: Literal["keep", "drop"]
    unused_items: Literal["keep", "drop"]


class Dataset(Component):
    """``dataset``."""

    max_users: Count | None = None
    filters: Filters | None = None


class Cot(Section):
    """``cot``."""

    draft_wording: Annotated[str, Field(min_length=1)]
    refine_wording: Annotated[str, Field(min_length=1)]
    placement: Literal["prompt", "completion", "profile"]


class Batching(Section):
    """``batching`` of `mllmrec.serve`."""

    max_batch: Count
    max_wait_ms: NotNegative
    queue: Count
    kept: CountOrZero


class Limits(Section):
    """``limits`` of `mllmrec.serve`."""

    max_body_kb: Count
    max_history: Count
    max_candidates: Count
    max_k: Count
    timeout_seconds: Positive


SECTIONS: dict[str, type[BaseModel]] = {
    "prompt": Prompt,
    "cot": Cot,
    "candidates": Candidates,
    "eval": Eval,
    "heldout": Heldout,
    "warnings": Warnings,
    "checkpoint": Checkpoint,
    "method": Method,
    "trainer": Trainer,
    "dataset": Dataset,
    "backbone": Backbone,
    "peft": Peft,
    "engine": EngineSection,
    "rollout": Rollout,
    "loss": Loss,
    "batching": Batching,
    "limits": Limits,
}
