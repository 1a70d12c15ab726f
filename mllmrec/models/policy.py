"""A policy: one language model, its tokenizer, and the weights that each training phase adds.

Much of the package imports this class, so transformers and peft, which take seconds to import, wait until they are used.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from mllmrec.data.base import Items
from mllmrec.engine.batches import TokenBatch, pad
from mllmrec.errors import UserError
from mllmrec.models.adapters import adapter_config, silence_dropout
from mllmrec.models.chat import rendered
from mllmrec.models.item_vectors import (
    PROJECTOR,
    VECTORS,
    ItemVectorEmbedding,
    add_marks,
    read_item_tokens,
    write_item_tokens,
)
from mllmrec.prompts.reasoning_tokens import ReasoningTokens
from mllmrec.randomness import seeded_globals
from mllmrec.screen.transformers_output import without_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Policy:
    """A causal language model that is trained in phases.

    With LoRA every phase gets its own adapter on top of the earlier ones, which are frozen. The reference of a phase is
    the same model without the phase's adapter, so the KL is exactly 0 until the first update. Without LoRA all weights
    train, and the reference is a frozen copy from the start of the phase.
    The model reads item tokens, if there are any, through a projector. The projector trains if all weights train. With
    adapters it trains only in phases without a reference, because a reference shares it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        lora: Mapping[str, Any] | None = None,
        max_length: int | None = None,
    ) -> None:
        """Wrap a model.

        Args:
            model: the base model.
            tokenizer: a tokenizer with an end-of-sequence token.
            lora: ``rank, alpha, dropout, target_modules`` of every phase's adapter, and ``use_dora, use_rslora`` if they
                are not plain LoRA; None trains all weights.
            max_length: longest prompt + completion in tokens; None: the model's own limit.
        """
        if tokenizer.eos_token_id is None:
            raise UserError(
                "the backbone's tokenizer has no end-of-sequence token, so an answer could never end"
            )
        self.model: Any = model  # a PreTrainedModel, or a PeftModel around it
        self.tokenizer = tokenizer
        self.lora = dict(lora) if lora else None
        own_limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.max_length = min(limit for limit in (max_length, own_limit, 1 << 20) if limit)
        self.remedy = "raise backbone.max_length"  # lifts this limit
        # What the chat template takes as system prompt; None: the template's own, if it has one; "": none.
        self.system: str | None = None
        # Whether a prompt asks for reasoning, `PromptBuilder.asks_for_reasoning`; None: none does.
        self.asks: Callable[[str], bool] | None = None
        self.reserved = 0  # tokens of each prompt that a later phase may fill
        self.phases: list[str] = []
        self.prompts_read = self.prompt_tokens_read = 0  # so far, and the tokens in all of them
        self._frozen: Any = None
        self._items: ItemVectorEmbedding | None = None
        self._marks: list[str] = []
        self._projector_trains = False

    @property
    def end_token(self) -> int:
        """The token that ends every answer."""
        return int(self.tokenizer.eos_token_id)

    @property
    def padding_token(self) -> int:
        """The token that fills up batches; it is always masked."""
        padding = self.tokenizer.pad_token_id
        return self.end_token if padding is None else int(padding)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def render(self, prompt: str) -> str:
        """The prompt inside the chat template, up to the start of the answer; the same text in every phase.

        Prompts that ask for reasoning switch the template's thinking on, all others switch it off.

        Raises:
            UserError: the template cannot take the system prompt, or cannot go without one.
        """
        thinks = self.asks is not None and self.asks(prompt)
        return rendered(self.tokenizer, prompt, self.system, thinks)

    def encode_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered prompts; counts prompts and tokens."""
        rows = self.encode_rendered([self.render(prompt) for prompt in prompts])
        self.prompts_read += len(rows)
        self.prompt_tokens_read += sum(map(len, rows))
        return rows

    def meet_items(self, items: Items) -> None:
        """Take the items behind the marks in prompts, before the first prompt; a policy that reads only text ignores them."""

    def most_tokens(self, prompt: str) -> int:
        """An upper bound on a prompt's tokens; cheaper than encoding the prompt."""
        # A token covers at least one byte of the rendered text.
        return len(self.render(prompt).encode())

    def encode_rendered(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts from `render`, or of parts of such texts."""
        # A chat template brings its own special tokens; plain text needs a start token.
        return self.tokenizer(texts, add_special_tokens=not self.tokenizer.chat_template)["input_ids"]

    def encode_answers(self, answers: Sequence[str]) -> list[list[int]]:
        """Token ids of answers, without the end token."""
        return self.tokenizer(list(answers), add_special_tokens=False)["input_ids"]

    @cached_property
    def _around_reasoning(self) -> ReasoningTokens:

        def decode(rows: Sequence[Sequence[int]]) -> list[str]:
            return self.tokenizer.batch_decode(
                [list(row) for row in rows], skip_special_tokens=False, clean_up_tokenization_spaces=False
            )

        return ReasoningTokens.of(self.encode_answers, decode, len(self.tokenizer))

    def reasoning_tokens(self) -> ReasoningTokens:
        """The tokens around reasoning."""
        return self._around_reasoning

    def prompt_batch(self, prompts: Sequence[str]) -> TokenBatch:
        """Prompts as a batch padded on the left, on the policy's device."""
        return pad(self.encode_prompts(prompts), self.padding_token, side="left").to(self.device)

    def decode(self, completions: TokenBatch) -> list[str]:
        """Completions as text: everything that was generated, without the token that ends it.

        Special tokens are shown, since a text that contains them is not a correct answer. Models have more ids than
        their tokenizers have texts; ids without a text are shown as padding.
        """
        known = len(self.tokenizer)
        rows = []
        for ids, mask in zip(completions.ids.cpu(), completions.mask.cpu(), strict=True):
            row = ids[mask].tolist()
            # Before ids without a text become padding, which may be the end token.
            row = row[:-1] if row and row[-1] == self.end_token else row
            rows.append([token if token < known else self.padding_token for token in row])
        # Cleaning up spaces ("who 's" to "who's") could turn other texts into titles.
        return self.tokenizer.batch_decode(
            rows, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def add_marks(self, marks: Sequence[str]) -> None:
        """Make every item's mark one token, which the model can read after `read_items`.

        Args:
            marks: the marks of the I items, as they appear in prompts.

        Raises:
            UserError: the tokenizer cannot give marks their own ids.
        """
        add_marks(self.tokenizer, marks, int(self.model.get_input_embeddings().weight.shape[0]))
        self._marks = list(marks)

    def read_items(self, vectors: torch.Tensor, seed: int) -> None:
        """Project the embeddings of the marks from the items' vectors; call it before the first phase.

        Args:
            vectors: (I, D) float32 item vectors in the order of `add_marks`; they never train.
            seed: the run's seed, for the projector's initial weights.
        """
        first: Any = self.tokenizer.convert_tokens_to_ids(self._marks[0])
        with seeded_globals(seed, "item-projector"):
            items = ItemVectorEmbedding(self.model.get_input_embeddings(), vectors, first)
        self._items = items.to(self.device)
        self.model.set_input_embeddings(self._items)

    def load_items(self, folder: Path) -> None:
        """Read the item tokens that a phase saved in the folder of its weights.

        Raises:
            UserError: the item tokens are missing or cannot be read.
        """
        marks, state = read_item_tokens(folder)
        self.add_marks(marks)
        self.read_items(state[VECTORS], seed=0)
        assert self._items is not None
        self._items.load_state_dict(state, strict=False)

    def changed_weights(self) -> dict[str, torch.Tensor]:
        """The weights that phases change, by name; with adapters, only adapters and projector. Includes item vectors."""
        weights: dict[str, torch.Tensor] = {
            name: weight
            for name, weight in self.model.named_parameters()
            if self.lora is None or ".lora_" in name or f".{PROJECTOR}." in name
        }
        return weights | {
            name: part for name, part in self.model.named_buffers() if name.endswith(f".{VECTORS}")
        }

    @contextmanager
    def with_weights(self, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Use these weights in place of the policy's own until the block ends.

        Args:
            weights: weights by the model's own names; all others stay.
        """
        own = {name: weight for name, weight in self.model.named_parameters() if name in weights}
        before = {name: weight.detach().clone() for name, weight in own.items()}
        try:
            with torch.no_grad():
                for name, weight in own.items():
                    weight.copy_(weights[name])
            yield
        finally:
            with torch.no_grad():
                for name, weight in own.items():
                    weight.copy_(before[name])

    def begin_phase(
        self, name: str, lora: Mapping[str, Any] | None = None, *, keep_reference: bool = True
    ) -> None:
        """Make the weights of a new phase trainable; the policy before it becomes the phase's reference.

        Args:
            name: the phase's name, which becomes the adapter's name.
            lora: this phase's settings that differ from the policy's.
            keep_reference: whether `reference` will be used; without LoRA it costs a copy of the model.

        Raises:
            UserError: nothing would be trainable.
        """
        self._projector_trains = not keep_reference
        if self.lora is None:
            self.model.requires_grad_(True)
            # The copy keeps requires_grad, though nothing trains it. Without it torch multiplies differently, and the KL
            # of a policy to itself would not be exactly 0.
            self._frozen = copy.deepcopy(self.model).eval() if keep_reference else None
        else:
            changed = {key: value for key, value in (lora or {}).items() if value is not None}
            self._add_adapter(name, {**self.lora, **changed})
        self.phases.append(name)
        if self.lora is not None:
            self._activate(self.phases, trainable=name)
            silence_dropout(self.model, self.phases[:-1])
        if self.num_trainable() == 0:
            raise UserError(
                f"phase {name} has no trainable weights: check backbone.lora.rank and target_modules"
            )

    def num_trainable(self) -> int:
        """The number of trainable parameters."""
        return sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad)

    @contextmanager
    def reference(self) -> Iterator[torch.nn.Module]:
        """The current phase's reference policy in evaluation mode; use it without gradients."""
        if self.lora is None:
            assert self._frozen is not None, "reference() belongs inside a phase that keeps one"
            yield self._frozen.to(self.device)
            return
        training = self.model.training
        self.model.eval()
        *earlier, current = self.phases
        try:
            if earlier:
                self._activate(earlier, trainable=None)
                yield self.model
            else:
                with self.model.disable_adapter():
                    yield self.model
        finally:
            self._activate(self.phases, trainable=current)
            self.model.train(training)

    def save_phase(self, phase: str, adapters: Path, weights: Path) -> Path:
        """Save the weights that a phase trained: its adapter under ``adapters/<phase>``, or all weights in ``weights``."""
        folder = self.folder_of(phase, adapters, weights)
        with without_bars(folder):
            if self.lora is not None:
                self.model.save_pretrained(adapters, selected_adapters=[phase])
            else:
                with self._without_items():
                    self.model.save_pretrained(weights)
                self.save_reader(weights)
        if self._items is not None:
            write_item_tokens(folder, self._items, self._marks)
        return folder

    def save_reader(self, folder: Path) -> None:
        """Save the parts that turn prompts into the model's input."""
        self.tokenizer.save_pretrained(folder)

    def folder_of(self, phase: str, adapters: Path, weights: Path) -> Path:
        """The folder in which `save_phase` saves a phase."""
        return weights if self.lora is None else adapters / phase

    def load_adapters(self, folder: Path, phases: Sequence[str]) -> None:
        """Stack the saved adapters of ``phases`` in their order, for evaluation.

        Raises:
            UserError: an adapter is missing or damaged.
        """
        from peft import PeftModel

        for phase in phases:
            path = folder / phase
            if not (path / "adapter_config.json").is_file():
                raise UserError(f"no adapter at {path}: the run has no finished phase {phase!r}")
            try:
                if isinstance(self.model, PeftModel):
                    self.model.load_adapter(str(path), adapter_name=phase)
                else:
                    self.model = PeftModel.from_pretrained(self.model, str(path), adapter_name=phase)
            except (SafetensorError, ValueError) as error:
                first = str(error).strip().partition("\n")[0]
                raise UserError(
                    f"the adapter at {path} is damaged ({first}): put a copy in its place, or run again"
                ) from error
            self.phases.append(phase)
        if self.phases:
            self._activate(self.phases, trainable=None)

    @contextmanager
    def _without_items(self) -> Iterator[None]:
        """The model in the form that its own class knows, without item tokens."""
        if self._items is None:
            yield
            return
        self.model.set_input_embeddings(self._items.base)
        try:
            yield
        finally:
            self.model.set_input_embeddings(self._items)

    def _add_adapter(self, name: str, settings: Mapping[str, Any]) -> None:
        from peft import PeftModel, get_peft_model

        config = adapter_config(settings)
        try:
            # Adapters on all linear layers mean the model's own layers.
            with self._without_items():
                if isinstance(self.model, PeftModel):
                    self.model.add_adapter(name, config)
                else:
                    self.model = get_peft_model(self.model, config, adapter_name=name)
                bypassed = (
                    self._items is not None and self.model.get_input_embeddings() is not self._items.base
                )
        except ValueError as error:
            raise UserError(f"backbone.lora cannot be applied to this model: {error}") from error
        if bypassed:
            raise UserError(
                "prompt.item_tokens=vector with an adapter on the input embedding, which item tokens bypass: leave "
                "the embedding out of backbone.lora.target_modules"
            )

    def _activate(self, names: Sequence[str], trainable: str | None) -> None:
        adapted: Any = self.model.base_model
        adapted.set_adapter(list(names))
        for name, weight in self.model.named_parameters():
            # Adapters on embeddings are bare weights; their names end with the adapter's name.
            of_adapter = f".{trainable}." in f"{name}." and "lora_" in name
            of_projector = self._projector_trains and f".{PROJECTOR}." in name
            weight.requires_grad_(trainable is not None and (of_adapter or of_projector))
