"""Randomly initialised models, a matching tokenizer, and prompts and answers of exact lengths."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from mllmrec.prompts.naming import Naming

LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Size:
    """The shape of a Qwen3."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    feed_forward: int
    vocabulary: int


# The last two are the published shapes of Qwen3-0.6B and Qwen3-4B.
SIZES = {
    "XS": Size(2, 64, 4, 2, 16, 192, 512),
    "S": Size(8, 384, 6, 2, 64, 1152, 8192),
    "M": Size(12, 768, 12, 4, 64, 2304, 16384),
    "0.6B": Size(28, 1024, 16, 8, 128, 3072, 151936),
    "4B": Size(36, 2560, 32, 8, 128, 9728, 151936),
}


def random_model(size: str, dtype: str, device: torch.device, seed: int = 0) -> Qwen3ForCausalLM:
    """A Qwen3; equal arguments give equal weights."""
    shape = SIZES[size]
    config = Qwen3Config(
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        intermediate_size=shape.feed_forward,
        vocab_size=shape.vocabulary,
        max_position_embeddings=40960,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=shape.vocabulary,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    with torch.device(device):
        model = Qwen3ForCausalLM(config).to(getattr(torch, dtype))
    model.set_attn_implementation("sdpa")
    return model


def random_tokenizer(size: str) -> PreTrainedTokenizerFast:
    """A tokenizer with one word for each token; the end token has an id that the model cannot draw.

    So every free completion reaches exactly the length limit, and nothing has to suppress the end.
    """
    vocabulary = SIZES[size].vocabulary
    words = {"<pad>": 0, **{f"t{token}": token for token in range(1, vocabulary)}, "<end>": vocabulary}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")


def random_prompts(size: str, count: int, length: int, seed: int = 1) -> list[str]:
    """Texts of ``length`` tokens each."""
    draw = random.Random(seed)
    return [_text(draw, SIZES[size].vocabulary, length) for _ in range(count)]


class RandomCatalogue:
    """Items whose answers have ``length`` tokens and the end: three tokens of an id, then a title.

    Ids are written with ten digits, like real ids: several ids can share a digit at the same place.
    """

    def __init__(self, size: str, items: int, length: int, seed: int = 2) -> None:
        """Draw the items.

        Raises:
            ValueError: more items than ids, or answers too short for a title.
        """
        if items > 1000 or length < 4:
            raise ValueError(
                f"a catalogue has at most 1000 items, and answers of at least 4 tokens, not {items} and {length}"
            )
        self.naming = Naming()
        draw = random.Random(seed)
        vocabulary = SIZES[size].vocabulary
        numbers = draw.sample(range(1000), items)
        self.ids = [f"{number:03d}" for number in numbers]
        self.titles = [_text(draw, vocabulary, length - 3) for _ in numbers]

    def answer(self, item: int) -> str:
        """The text of an item's answer."""
        return " ".join([*(f"t{int(digit) + 1}" for digit in self.ids[item]), self.titles[item]])


def reward_of(text: str) -> float:
    """A reward that costs nothing and differs between completions: a hash of the token ids, in [0, 1)."""
    return sum(int(number) for number in re.findall(r"\d+", text)) * 2654435761 % 997 / 997


def _text(draw: random.Random, vocabulary: int, length: int) -> str:
    return " ".join(f"t{draw.randrange(1, vocabulary)}" for _ in range(length))
