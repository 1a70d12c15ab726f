"""A Hugging Face model in memory that answers requests: chat template, images, batches, decoding."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    DynamicCache,
    LogitsProcessor,
)
from transformers.cache_utils import DynamicLayer

from mllmrec.data.images import UNREADABLE_IMAGE
from mllmrec.data.text import collapse_spaces
from mllmrec.engine.plain import CACHE
from mllmrec.errors import UserError
from mllmrec.prompts.markup import THINK_CLOSE, THINK_OPEN, neutral
from mllmrec.randomness import torch_generator
from mllmrec.reasoners.base import Request, Written
from mllmrec.reasoners.hf_settings import HfSettings, WritingSettings
from mllmrec.rollout.draw import TRIES, draw, uniforms
from mllmrec.screen.transformers_output import without_bars

WORTH_SHARING = 32  # tokens; a shorter beginning is encoded with every prompt
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Prompt:
    request: Request
    images: tuple[Path, ...]
    text: str  # rendered by the chat template
    length: int  # tokens of the text; each image counts as one
    pictures: tuple[Image.Image, ...] = ()


class _Refused(Exception):
    """The processor does not accept these images."""


class HfModel:
    """A chat model. Making an instance loads the model.

    Raises:
        UserError: the model cannot be loaded, or is not a model that answers messages.
    """

    def __init__(self, settings: HfSettings) -> None:
        self.settings = settings
        self.processor, self.model = _load(settings)
        # For a model without images, AutoProcessor returns a bare tokenizer.
        self.tokenizer = getattr(self.processor, "tokenizer", self.processor)
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.template = getattr(self.processor, "chat_template", None) or self.tokenizer.chat_template
        if not self.template:
            raise UserError(f"model {settings.path} has no chat template: choose an instruction-tuned model")
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30
        self.room = limit - settings.writing.max_new_tokens
        if self.room < 1:
            raise UserError(
                f"max_new_tokens={settings.writing.max_new_tokens}: model {settings.path} takes {limit} tokens in all, "
                "prompt included; lower it"
            )
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        self.ends = {*ends, self.tokenizer.eos_token_id} - {None}
        special = {
            number: token.content
            for number, token in self.tokenizer.added_tokens_decoder.items()
            if token.special and token.content not in (THINK_OPEN, THINK_CLOSE)
        }
        self.unspoken = set(special)
        longest_first = sorted(special.values(), key=len, reverse=True)
        self.control = re.compile("|".join(map(re.escape, longest_first)) or "$^")

    def write(self, window: Sequence[Request]) -> Iterator[tuple[Request, Written]]:
        """Answer the requests, the longest first, so that a lack of memory shows at once."""
        prompts = sorted(map(self._prompt, window), key=lambda p: (len(p.images), p.length), reverse=True)
        # Not every processor takes prompts with images and prompts without in one batch.
        for _, group in groupby(prompts, key=lambda prompt: bool(prompt.images)):
            while batch := list(islice(group, self.settings.loading.batch_size)):
                yield from self._write_batch(batch)

    def _prompt(self, request: Request) -> _Prompt:
        images = request.images if self.settings.sees_images else ()
        none: tuple[Path, ...] = ()
        turns = [("system", none, request.system)]
        for message, answer in request.examples:
            turns += [("user", none, message), ("assistant", none, answer)]
        turns.append(("user", images, request.message))
        thinking = self.settings.writing.enable_thinking
        text = self.tokenizer.apply_chat_template(
            [
                {"role": role, "content": self._content(shown, said)}
                for role, shown, said in turns
                if shown or said
            ],
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=True,
            **({} if thinking is None else {"enable_thinking": thinking}),
        )
        return _Prompt(
            request, images, text, len(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        )

    def _content(self, images: Sequence[Path], text: str) -> Any:
        # A control token in a title would end the turn, or ask for an image that is not there.
        text = self.control.sub(lambda match: neutral(match.group()), text)
        if not self.settings.sees_images:
            return text
        return [*({"type": "image"} for _ in images), *([{"type": "text", "text": text}] if text else [])]

    def _write_batch(self, batch: Sequence[_Prompt]) -> Iterator[tuple[Request, Written]]:
        ready = []
        for prompt in batch:
            opened = [read_picture(path, self.settings.writing.max_side) for path in prompt.images]
            pictures = tuple(picture for picture in opened if picture is not None)
            if len(pictures) < len(opened):
                yield prompt.request, Written("", problem=UNREADABLE_IMAGE)
            else:
                ready.append(replace(prompt, pictures=pictures))
        if ready:
            yield from self._halving(ready)

    def _halving(self, batch: Sequence[_Prompt]) -> Iterator[tuple[Request, Written]]:
        """The batch's answers. A batch that fails is halved until each failing request stands alone."""
        problem = ""
        try:
            written = self._generate(batch)
        except torch.cuda.OutOfMemoryError:
            problem = "out of memory"
        except _Refused as error:
            problem = "refused by the processor"
            if len(batch) == 1:
                log.warning("%s: %s: %s", batch[0].request.sample_id, problem, error)
        if not problem:
            yield from zip((prompt.request for prompt in batch), written, strict=True)
            return
        # Leave the except block first: its traceback holds the tensors of the failed batch.
        if problem == "out of memory":
            torch.cuda.empty_cache()
            log.warning(
                "out of memory on a batch of %d: a smaller batch_size would save the retries", len(batch)
            )
        if len(batch) == 1:
            yield batch[0].request, Written("", problem=problem)
            return
        yield from self._halving(batch[: len(batch) // 2])
        yield from self._halving(batch[len(batch) // 2 :])

    def _generate(self, batch: Sequence[_Prompt]) -> list[Written]:
        settings = self.settings
        inputs = self._encode(batch)
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        if max(lengths) > self.room:
            fitting = [prompt for prompt, length in zip(batch, lengths, strict=True) if length <= self.room]
            answers = iter(self._generate(fitting) if fitting else [])
            return [
                next(answers)
                if length <= self.room
                else Written("", prompt_tokens=length, problem="prompt too long")
                for length in lengths
            ]
        if not self.settings.sees_images:
            inputs = self._share_beginning(inputs)
        width = inputs["input_ids"].shape[1]
        draws = [_Draws(settings.writing, [prompt.request.sample_id for prompt in batch], width)]
        output = self.model.generate(
            **inputs,
            max_new_tokens=settings.writing.max_new_tokens,
            do_sample=False,
            # Greedy search must ignore the checkpoint's own sampling settings.
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=sorted(self.ends) or None,
            pad_token_id=self.tokenizer.pad_token_id,
            logits_processor=draws if settings.writing.temperature else [],
        )
        return [
            self._written(prompt, row, length)
            for prompt, row, length in zip(batch, output[:, width:].tolist(), lengths, strict=True)
        ]

    def _encode(self, batch: Sequence[_Prompt]) -> dict[str, Tensor]:
        """The model's inputs, padded on the left and on the model's device; input ids and mask (B, T)."""
        texts = [prompt.text for prompt in batch]
        layout = {
            "padding": True,
            "padding_side": "left",
            "add_special_tokens": False,
            "return_token_type_ids": False,
            "return_tensors": "pt",
        }
        if not self.settings.sees_images:
            encoded = self.tokenizer(texts, **layout)
        else:
            pictures = [list(prompt.pictures) for prompt in batch] if batch[0].pictures else None
            try:
                encoded = self.processor(text=texts, images=pictures, **layout)
            except (ValueError, TypeError, IndexError) as error:
                raise _Refused(str(error).strip().partition("\n")[0]) from error
        device, dtype = self.model.device, self.model.dtype
        return {
            name: value.to(device, dtype) if value.is_floating_point() else value.to(device)
            for name, value in encoded.items()
        }

    @torch.inference_mode()
    def _share_beginning(self, inputs: dict[str, Tensor]) -> dict[str, Any]:
        """The same inputs, with the tokens that all prompts begin with encoded once, where they are worth it."""
        tokens, mask = inputs["input_ids"], inputs["attention_mask"]
        padding = (mask == 0).sum(dim=1, keepdim=True)  # (B, 1); it stands on the left
        shared = common_beginning(
            [row[pad:] for row, pad in zip(tokens, padding[:, 0].tolist(), strict=True)]
        )
        if len(tokens) < 2 or shared < WORTH_SHARING:
            return inputs
        beginning = tokens[:1, tokens.shape[1] - mask[0].sum() :][:, :shared]
        cache = self.model(input_ids=beginning, use_cache=True, logits_to_keep=1)[CACHE]
        # Caches with a window or a state drop tokens, or count padding.
        if type(cache) is not DynamicCache or not all(type(layer) is DynamicLayer for layer in cache.layers):
            return inputs
        cache.batch_repeat_interleave(len(tokens))
        beginning = beginning.expand(len(tokens), -1)
        places = torch.arange(tokens.shape[1] - shared, device=tokens.device)
        return {
            "input_ids": torch.cat([beginning, tokens[:, shared:]], dim=1),
            # Padding stands behind the beginning now; positions do not count it.
            "attention_mask": torch.cat([torch.ones_like(beginning), (places >= padding).to(mask)], dim=1),
            CACHE: cache,
        }

    def _written(self, prompt: _Prompt, row: Sequence[int], prompt_tokens: int) -> Written:
        end = next((place for place, token in enumerate(row) if token in self.ends), None)
        spoken = [token for token in row[:end] if token not in self.unspoken]
        text = self.tokenizer.decode(spoken, clean_up_tokenization_spaces=False)
        if prompt.text.rstrip().endswith(THINK_OPEN):
            text = THINK_OPEN + text
        reasoning, text, closed = split_thought(text)
        problem = "" if text else "empty"
        if not closed and end is None:
            problem = "cut off while thinking"
        return Written(text, reasoning, prompt_tokens, len(row) if end is None else end + 1, problem)


def common_beginning(rows: Sequence[Tensor]) -> int:
    """How many first tokens are the same in all rows; at least one token of every row is left over."""
    shortest = min(map(len, rows)) - 1
    heads = torch.stack([row[:shortest] for row in rows])
    return int((heads == heads[0]).all(dim=0).cumprod(dim=0).sum())


class _Draws(LogitsProcessor):
    """Leaves each row only the token that its own request's numbers draw; greedy search then takes that token."""

    def __init__(self, settings: WritingSettings, sample_ids: Sequence[str], width: int) -> None:
        self.temperature, self.top_p, self.width = settings.temperature, settings.top_p, width
        generators = [torch_generator(settings.seed, "reasoner", name) for name in sample_ids]
        self.numbers = uniforms(generators, settings.max_new_tokens, TRIES)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = draw(scores, self.numbers[:, input_ids.shape[1] - self.width], self.temperature, self.top_p)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)


def split_thought(text: str) -> tuple[str, str, bool]:
    """(thought, rest, whether the thought is closed) of a text that may begin with ``<think>``.

    >>> split_thought("<think>red, again</think> A lamp.")
    ('red, again', 'A lamp.', True)
    """
    text = text.strip()
    if not text.startswith(THINK_OPEN):
        return "", text, True
    thought, close, rest = text.removeprefix(THINK_OPEN).partition(THINK_CLOSE)
    return thought.strip(), rest.strip(), bool(close)


def read_picture(path: Path, max_side: int = 0) -> Image.Image | None:
    """The image in RGB, transparent parts white, its longer side at most ``max_side`` pixels (0: no limit).

    None for a file that is missing, truncated or not an image.
    """
    try:
        with Image.open(path) as file:
            if max_side:
                file.draft("RGB", (max_side, max_side))
            opaque = Image.alpha_composite(Image.new("RGBA", file.size, "white"), file.convert("RGBA"))
        picture = opaque.convert("RGB")
        if max_side:
            picture.thumbnail((max_side, max_side))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        # Pillow reports a damaged file by any of these errors, SyntaxError included.
        return None
    return picture


def _load(settings: HfSettings) -> tuple[Any, Any]:
    """(processor or tokenizer, model on its device)."""
    device, revision = settings.loading.device, settings.loading.revision or "main"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: torch finds no GPU here; set device=cpu or auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    path = str(Path(settings.path).expanduser())
    processors = AutoProcessor if settings.sees_images else AutoTokenizer
    models = AutoModelForImageTextToText if settings.sees_images else AutoModelForCausalLM
    try:
        processor = processors.from_pretrained(path, revision=revision, trust_remote_code=False)
        with without_bars(path):
            model = models.from_pretrained(
                path,
                revision=revision,
                trust_remote_code=False,
                dtype=getattr(torch, settings.loading.dtype),
                attn_implementation=settings.loading.attn_implementation,
                device_map=device,
            )
    except ImportError as error:
        raise UserError(
            f"model {settings.path} needs a package that is not installed: {collapse_spaces(str(error))}"
        ) from error
    except (OSError, ValueError) as error:
        first = str(error).strip().partition("\n")[0]
        kind = "an image-text-to-text" if settings.sees_images else "a text-generation"
        raise UserError(
            f"model {settings.path} cannot be loaded: {first} (give the hub name of {kind} model that this machine "
            "can reach, or a folder written by save_pretrained)"
        ) from error
    return processor, model
