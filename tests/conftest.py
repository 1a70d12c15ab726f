"""A toy catalogue, tiny policies, and a slow but obvious computation of the engine's results."""

from __future__ import annotations

import gc
import io
import logging
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

# Tests run in parallel, one process per core: more threads would only slow each other down.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# pytest-xdist tells its workers the terminal's width, but commands under test should write as into a pipe.
os.environ.pop("COLUMNS", None)

import lightning
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from mllmrec.data.base import Interactions
from mllmrec.data.splits import LeaveOneOut
from mllmrec.engine.batches import TokenBatch
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.models.backbones import Pretrained, Tiny
from mllmrec.models.policy import Policy
from mllmrec.models.tokenizer import train_tokenizer
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.builder import ItemTexts, PromptBuilder, load_template
from mllmrec.prompts.examples import Example, Examples
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.rl.advantages import GroupRelative
from mllmrec.rl.batch import Question, RolloutBatch
from mllmrec.rl.losses import ClippedRatio
from mllmrec.rl.regularizers import KlToReference
from mllmrec.rollout.constrained import Constrained
from mllmrec.step.collector import Collector
from mllmrec.step.names import Names
from mllmrec.step.policy_gradient import PolicyGradient, StepSettings
from mllmrec.step.reference import Frozen
from mllmrec.step.speaker import Speaker

TITLES = [
    "Red Lamp",
    "Blue Lamp",
    "Red Chair",
    "Blue Chair",
    "Old Clock",
    "New Clock",
    "Tall Shelf",
    "Low Shelf",
    "Round Table",
    "Square Table",
    "Wool Rug",
    "Silk Rug",
]
LORA = {
    "rank": 4,
    "alpha": 8,
    "dropout": 0.0,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
# Like Qwen's: turns with control tokens, and an empty thought if thinking is switched off.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
ARCHITECTURES = {
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Never search the imported libraries for garbage: they stay, and each search takes a fifth of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def import_from(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Makes a folder's modules importable. They are forgotten after the test: the next one may write others of the name."""
    folders: list[Path] = []

    def add(folder: Path) -> None:
        folders.append(folder)
        monkeypatch.syspath_prepend(str(folder))

    yield add
    for name, module in [*sys.modules.items()]:
        spec = getattr(module, "__spec__", None)
        places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
        if any(place and Path(place).is_relative_to(folder) for place in places for folder in folders):
            del sys.modules[name]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., SimpleNamespace]:
    """``command("train", *arguments, cwd=folder)`` runs what follows ``python -m mllmrec.``, in this process.

    The result has returncode, stdout and stderr, as of a process. A process of its own would import libraries for seconds.
    """
    root = logging.getLogger()

    def run(name: str, *arguments: str, cwd: Path) -> SimpleNamespace:
        output, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        handlers, level, status = root.handlers[:], root.level, 0
        GlobalHydra.instance().clear()
        with monkeypatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
            patch.chdir(cwd)
            patch.setattr(sys, "argv", [f"mllmrec.{name}", *arguments])
            patch.setenv("HYDRA_FULL_ERROR", "1")  # which the command sets itself
            try:
                import_module(f"mllmrec.{name}").main()
            except SystemExit as ended:
                status = ended.code or 0
            finally:
                # Hydra puts its own handlers in their place.
                root.handlers[:], root.level = handlers, level
        out, err = (stream.buffer.getvalue().decode() for stream in (output, errors))
        return SimpleNamespace(returncode=status, stdout=out, stderr=err)

    return run


@pytest.fixture
def catalogue() -> SimpleNamespace:
    """Twelve items with ids ``0`` to ``11``."""
    return SimpleNamespace(ids=[str(item) for item in range(len(TITLES))], titles=TITLES)


@pytest.fixture
def make_builder(catalogue) -> Callable[..., PromptBuilder]:
    def make(
        template: str = "compact",
        captions: dict[str, str] | None = None,
        ids: Sequence[str] = catalogue.ids,
        titles: Sequence[str] = catalogue.titles,
        marked: Collection[str] = (),
        details: dict[str, str] | None = None,
        **settings,
    ) -> PromptBuilder:
        items = ItemTexts(ids, titles, captions or {}, marked, details or {})
        return PromptBuilder(items, load_template(template), **settings)

    return make


@pytest.fixture
def interactions() -> Interactions:
    """Six users of six items: user u has u, u + 1 … u + 5 modulo 12."""
    items = np.array([(user + place) % 12 for user in range(6) for place in range(6)], dtype=np.int32)
    return Interactions(np.array([f"u{user}" for user in range(6)]), np.arange(7) * 6, items)


@pytest.fixture
def make_examples(interactions, make_builder) -> Callable[..., Examples]:
    """Examples with the target and the next three items as candidates, the target in column ``index % 4``."""

    def make(builder: PromptBuilder | None = None, split: str = "train", **settings) -> Examples:
        samples = LeaveOneOut()(interactions)[split]

        def candidates_of(index: int) -> tuple[np.ndarray, int]:
            target, column = samples.target(index), index % 4
            others = [(target + step) % 12 for step in (1, 2, 3)]
            return np.array([*others[:column], target, *others[column:]]), column

        return Examples(
            samples, builder or make_builder(answer="id"), candidates_of, history_length=3, **settings
        )

    return make


@pytest.fixture
def tiny(make_builder) -> SimpleNamespace:
    """A policy from scratch over the catalogue, with its builder (label answers) and answer tokens."""
    builder = make_builder(answer="id")
    policy = Tiny(hidden_size=32, num_layers=2, num_heads=2, vocabulary=300, max_length=256).build(
        [builder.prompt([item], None) for item in range(12)], [builder.label(item) for item in range(12)], 0
    )
    sharpen(policy.model)
    return SimpleNamespace(
        policy=policy,
        builder=builder,
        answers=AnswerTokens(builder, policy.encode_answers, policy.end_token),
    )


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> Callable[[str], str]:
    """Folders of small random models of each architecture, written by save_pretrained."""
    made: dict[str, str] = {}

    def folder(name: str) -> str:
        if name not in made:
            path = tmp_path_factory.mktemp(name)
            tokenizer = train_tokenizer(["Red Lamp [ITEM_1] (ITEM_2) one line"] * 3, [], 300)
            tokenizer.chat_template = CHAT_TEMPLATE
            config_class, model_class = ARCHITECTURES[name]
            config = config_class(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=512,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=None,
                **({"head_dim": 8} if name == "qwen3" else {}),
            )
            with torch.random.fork_rng():
                torch.manual_seed(1)
                model = model_class(config)
            sharpen(model)
            model.save_pretrained(path)
            tokenizer.save_pretrained(path)
            made[name] = str(path)
        return made[name]

    return folder


@pytest.fixture
def sentence_folder(tmp_path) -> Path:
    """A small random BERT as save_pretrained writes it, without files of sentence-transformers."""
    folder = tmp_path / "sentence_folder"
    tokenizer = train_tokenizer(["red lamp", "blue chair wood"] * 3, [], 300)
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=300, **sizes))
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def make_pretrained(checkpoints) -> Callable[..., Policy]:
    def make(name: str = "qwen3", lora: dict | None = LORA, **settings) -> Policy:
        return Pretrained(path=checkpoints(name), dtype="float32", lora=lora, **settings).build((), (), 0)

    return make


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct, where ../shared/models/get_models.py has put it."""
    given = os.environ.get("MLLMREC_MODELS", "~/.cache/mllmrec-models")
    folder = Path(given).expanduser() / "smollm2"
    if not (folder / "model.safetensors").is_file():
        pytest.skip(f"no SmolLM2 in {folder}: ../shared/models/get_models.py fetches it")
    return folder


@pytest.fixture
def lora() -> dict:
    return dict(LORA)


def sharpen(model: torch.nn.Module) -> None:
    """Larger weights than at initialisation, so that log-probabilities differ by whole nats."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.25)


@pytest.fixture
def make_batch() -> Callable[..., RolloutBatch]:
    """A batch by hand: (R,) rewards with the groups of their rows, or a (B, G) table of rewards with a row a group.

    Group g answers prompt ``[7, 8 + g]`` about the example ``u<g>``; row r says ``[20 + r, 2]``, which is ``say r``.
    """

    def make(
        rewards: Tensor, weights: Tensor | None = None, group_of: list[int] | None = None, **fields
    ) -> RolloutBatch:
        if group_of is None:
            group_of = torch.arange(len(rewards)).repeat_interleave(rewards.shape[1]).tolist()
        groups, count = torch.tensor(group_of), max(group_of) + 1
        rows = len(groups)
        ids = torch.stack([20 + torch.arange(rows), torch.full((rows,), 2)], 1)
        prompts = torch.stack([torch.full((count,), 7), 8 + torch.arange(count)], 1)
        own = {
            "step": 0,
            "examples": [
                SimpleNamespace(sample_id=f"u{group}", has_reasoning=False) for group in range(count)
            ],
            "questions": [Question(str(group), {str(group): ""}) for group in range(count)],
            "prompts": TokenBatch(prompts, torch.ones_like(prompts, dtype=torch.bool)),
            "prompt_of": groups,
            "example_of": groups,
            "group_of": groups,
            "completions": TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool)),
            "learnt": torch.ones_like(ids, dtype=torch.bool),
            "choices": None,
            "finished": torch.ones(rows, dtype=torch.bool),
            "texts": [f"say {row}" for row in range(rows)],
            "weights": None if weights is None else weights.flatten(),
            "rewards": rewards.flatten(),
        }
        return RolloutBatch(**{**own, **fields})

    return make


@pytest.fixture
def batch(tiny, make_examples) -> list[Example]:
    examples = make_examples(tiny.builder)
    return [examples[0], examples[3]]


@pytest.fixture
def make_collector(tiny) -> Callable[..., Collector]:
    """A collector; ``policy``, ``answers`` and ``builder`` of the tiny policy unless given."""

    def make(
        policy=None,
        answers=None,
        builder=None,
        *,
        engine=None,
        rollout=None,
        reward=None,
        micro_batch_size=64,
        seed=0,
        **parts,
    ):
        policy, builder, rollout = policy or tiny.policy, builder or tiny.builder, rollout or Constrained()
        speaker = Speaker(
            policy,
            answers or tiny.answers,
            engine or SharedPrefix(),
            rollout.plain,
            Names(builder.ids, builder.titles),
            seed=seed,
            micro_batch_size=micro_batch_size,
        )
        return Collector(speaker, rollout, reward or HitFormat(), **parts)

    return make


@pytest.fixture
def make_step(tiny, make_collector) -> Callable[..., PolicyGradient]:
    """A step; with ``beta`` above 0 the policy is held to the one at the start."""

    def make(
        policy=None,
        *others,
        advantage=None,
        loss=None,
        beta=0.0,
        kl="k3",
        regularizers=(),
        reference=None,
        begin=True,
        group_size=6,
        micro_batch_size=4,
        iterations=1,
        aggregation="token_mean",
        skip_zero_variance="auto",
        entropy_share=1.0,
        off_policy_limit=None,
        **parts,
    ):
        policy = policy or tiny.policy
        if begin:
            policy.begin_phase("grpo")
        if beta > 0:
            regularizers, reference = [KlToReference(beta, kl), *regularizers], reference or Frozen()
        return PolicyGradient(
            make_collector(policy, *others, micro_batch_size=micro_batch_size, reference=reference, **parts),
            advantage or GroupRelative(),
            loss or ClippedRatio(),
            StepSettings(
                group_size,
                micro_batch_size,
                iterations,
                aggregation,
                skip_zero_variance,
                entropy_share=entropy_share,
                off_policy_limit=off_policy_limit,
            ),
            regularizers,
        )

    return make


@pytest.fixture
def shake() -> Callable[[Policy, str], None]:
    """Makes a phase's adapter nonzero, since PEFT begins with B = 0."""

    def apply(policy: Policy, stage: str) -> None:
        generator = torch.Generator().manual_seed(len(stage))
        with torch.no_grad():
            for name, weight in policy.model.named_parameters():
                if f"lora_B.{stage}." in name:
                    weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)

    return apply


@pytest.fixture
def naive_logprobs() -> Callable[..., Tensor]:
    """(R, T) log-probabilities, one row at a time and without padding; ``shift`` reads that many places off."""

    def compute(
        model: torch.nn.Module,
        prompts: TokenBatch,
        completions: TokenBatch,
        prompt_of: Tensor,
        temperature: float = 1.0,
        shift: int = 0,
    ) -> Tensor:
        rows = []
        for row, source in enumerate(prompt_of.tolist()):
            prompt = prompts.ids[source][prompts.mask[source]]
            completion = completions.ids[row][completions.mask[row]]
            logits = model(input_ids=torch.cat([prompt, completion])[None]).logits[0] / temperature
            start = len(prompt) - 1 + shift
            chosen = torch.log_softmax(logits, -1)[start : start + len(completion)]
            chosen = chosen.gather(1, completion[:, None])[:, 0]
            rows.append(torch.nn.functional.pad(chosen, (0, completions.ids.shape[1] - len(completion))))
        return torch.stack(rows)

    return compute


@pytest.fixture
def fit() -> Callable[..., lightning.Trainer]:
    """Trains a phase on lists of examples with a real Trainer on the CPU."""

    def train(stage, batches: list[list], **settings) -> lightning.Trainer:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, max_epochs=1, enable_model_summary=False, **{**quiet, **settings}
        )
        trainer.fit(stage, torch.utils.data.DataLoader(batches, batch_size=None, collate_fn=list))
        return trainer

    return train
