"""A tokenizer for models trained from scratch: every item label is one token, all other text is byte-level BPE."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END, PADDING = "<|end|>", "<|pad|>"
# Training time grows with the square of the longest word's length; the tokenizer learns nothing from text past this limit.
LONG_WORD = re.compile(r"(\S{2000})\S+")
# The prompt itself ends with a cue for the answer, so the template adds nothing.
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def train_tokenizer(corpus: Iterable[str], labels: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train on ``corpus``; ``labels`` become single tokens whatever the corpus holds.

    Args:
        corpus: texts as they appear in prompts.
        labels: the I item labels, all different.
        vocabulary: tokens for text, without labels; at least 257 + the two special ones.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PADDING, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((LONG_WORD.sub(r"\1", text) for text in corpus), trainer)
    tokenizer.add_tokens(
        [AddedToken(label, normalized=False, special=False, lstrip=True) for label in labels]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PADDING,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
