from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from mllmrec.models.tokenizer import END, PADDING, train_tokenizer
from mllmrec.prompts.markup import item_label

IDS = ["1", "11", "a b", "B00-X", "日本"]
LABELS = [item_label(item_id) for item_id in IDS]


@pytest.fixture
def tokenizer():
    return train_tokenizer(["History [ITEM_1] Red Lamp", "Red Lamp red lamp"] * 3, LABELS, 300)


def encode(tokenizer, text):
    return tokenizer([text], add_special_tokens=False)["input_ids"][0]


def test_every_label_is_one_token_wherever_it_stands(tokenizer):
    tokens = [encode(tokenizer, label) for label in LABELS]
    assert all(len(token) == 1 for token in tokens)
    assert len({token[0] for token in tokens}) == len(LABELS)
    for label, (token,) in zip(LABELS, tokens, strict=True):
        for text in (f"History {label} Red", f"x{label}{label}", f"\n{label}\n"):
            assert token in encode(tokenizer, text)


@pytest.mark.parametrize(
    "text",
    ["Red Lamp", "  two  spaces ", "100% ‹odd› 東京 é\n\tend", "a (ITEM_1) b", "", "[ITEM_2] is no item"],
)
def test_text_reads_back(tokenizer, text):
    assert tokenizer.decode(encode(tokenizer, text)) == text


def test_only_the_space_before_a_label_is_lost(tokenizer):
    text = "History [ITEM_1] Red Lamp [ITEM_11] lamp"
    assert tokenizer.decode(encode(tokenizer, text)) == "History[ITEM_1] Red Lamp[ITEM_11] lamp"


def test_labels_are_no_special_tokens_but_the_end_is(tokenizer):
    tokens = [*encode(tokenizer, "[ITEM_11]"), tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert tokenizer.decode(tokens, skip_special_tokens=True) == "[ITEM_11]"
    assert (tokenizer.eos_token, tokenizer.pad_token) == (END, PADDING)
    assert tokenizer.eos_token_id != tokenizer.pad_token_id


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "History [ITEM_1] Red Lamp [ITEM_11] lamp\n"
    assert encode(loaded, text) == encode(tokenizer, text)
    assert loaded.chat_template == tokenizer.chat_template
    assert (loaded.eos_token_id, loaded.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert loaded.decode(encode(loaded, "a , b .")) == "a , b ."


def test_a_text_never_seen_in_training_can_be_said():
    tokenizer = train_tokenizer(["aa"], [], 258)
    assert tokenizer.decode(encode(tokenizer, "Ω ~ zebra")) == "Ω ~ zebra"


def test_an_endless_word_is_learnt_up_to_a_length():
    # Learning from the whole word would take hours.
    endless, long = (train_tokenizer(["ab" * length, "Red"] * 3, [], 300) for length in (500_000, 1000))
    assert endless.get_vocab() == long.get_vocab()
    assert endless.decode(encode(endless, "ab" * 5000)) == "ab" * 5000
