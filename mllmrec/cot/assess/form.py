"""The form of a reasoning text: what can be checked without asking whether the text is right."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache

from mllmrec.errors import UserError

STEP_LABELS = ("Signals", "Preference", "Look for")

# Ideographs and kana are written without spaces between words.
UNSPACED = re.compile(
    "[\u3005\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]+"
)
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_LABEL = re.compile(r"item_\w", re.IGNORECASE)
_ID_WORD = r"(?:(?<![0-9A-Za-z_])(?:items?|ids?|number|no\.)[\s:#(\[]+|#\s*)"
_MARKUP = re.compile(r"```|~~~|</?think|<!--|</?[a-z|][^<>\n]*>|\[/?INST\]", re.IGNORECASE)
_OWN_SCRIPT = 0.1  # a script with a smaller share of the history's letters is not one of its own scripts


def form_scores(
    text: str,
    history_texts: Sequence[str],
    ids: Iterable[str],
    *,
    labels: Sequence[str] = STEP_LABELS,
    min_words: int = 8,
    max_words: int = 120,
    ngram: int = 4,
    shown: Sequence[str] = (),
) -> dict[str, float]:
    """All checks of this module by name, each in [0, 1]; 1 is good form.

    Args:
        text: the reasoning as written, before anything is made safe for a prompt.
        history_texts: what the prompt says about the history's items, oldest first.
        ids: the ids of the history's items and of the candidates.
        labels: the labels of the steps, in order.
        min_words: the fewest words that a text may have.
        max_words: the most words that a text may have.
        ngram: how many words in a row make a copy.
        shown: what else the writer was shown, such as the question, which small models like to repeat.

    Returns:
        ``steps``, ``length``, ``language``, ``no_ids``, ``no_markup``, ``own_words``.

    Raises:
        UserError: the bounds are not ``0 <= min_words <= max_words``, or ``ngram`` is below 1.
    """
    if not 0 <= min_words <= max_words:
        raise UserError(f"min_words={min_words}, max_words={max_words}: give 0 <= min_words <= max_words")
    return {
        "steps": float(has_steps(text, labels)),
        "length": float(min_words <= len(split_words(text)) <= max_words),
        "language": language_share(text, history_texts, labels),
        "no_ids": float(not names_ids(text, ids)),
        "no_markup": float(not has_markup(text)),
        "own_words": 1 - copied_share(text, [*history_texts, *shown], ngram),
    }


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, in order. Each ideograph and kana is a word, as word processors count.

    >>> split_words("T-shirt, 红色 2")
    ['t-shirt', '红', '色', '2']
    """
    plain = unicodedata.normalize("NFKC", text).lower()
    return _WORD.findall(UNSPACED.sub(lambda run: f" {' '.join(run.group())} ", plain))


def has_steps(text: str, labels: Sequence[str] = STEP_LABELS) -> bool:
    """Whether every label stands in the text with a colon, in this order, and with a word before the next label."""
    plain = unicodedata.normalize("NFKC", text)
    found: list[re.Match[str]] = []
    for label in labels:
        pattern = re.compile(rf"(?<![^\W_]){re.escape(label)}[\s*_]*:", re.IGNORECASE)
        match = pattern.search(plain, found[-1].end() if found else 0)
        if match is None:
            return False
        found.append(match)
    ends = [match.start() for match in found[1:]] + [len(plain)]
    return all(split_words(plain[match.end() : end]) for match, end in zip(found, ends, strict=True))


def language_share(text: str, history_texts: Sequence[str], labels: Sequence[str] = STEP_LABELS) -> float:
    """Share of the text's letters, without labels, that belong to the history's scripts.

    A script belongs to the history if it makes up at least a tenth of its letters. The share is 1 if there are no
    letters to compare.
    """
    history = _scripts(" ".join(history_texts))
    own = {script for script, count in history.items() if count >= _OWN_SCRIPT * history.total()}
    unlabelled = re.sub(
        "|".join(rf"{re.escape(label)}\s*[:：]" for label in labels) or r"(?!)", "", text, flags=re.IGNORECASE
    )
    letters = _scripts(unlabelled)
    if not own or not letters:
        return 1.0
    return sum(letters[script] for script in own) / letters.total()


def _scripts(text: str) -> Counter[str]:
    """How many letters each script has."""
    return Counter(map(_script, filter(str.isalpha, unicodedata.normalize("NFKC", text))))


@cache
def _script(letter: str) -> str:
    """A letter's script, such as ``LATIN``, ``CJK`` or ``CYRILLIC``: the first word of its Unicode name."""
    return re.split("[ -]", unicodedata.name(letter, ""), maxsplit=1)[0]


def names_ids(text: str, ids: Iterable[str]) -> bool:
    """Whether an item label (``[ITEM_7]``, ``item_7``) or one of ``ids`` stands in the text.

    An id of five characters or more that include a digit counts wherever it stands by itself. A shorter or wordlike
    id (``7``, ``star``) would also be found in "red in 7 of 9", so it counts only after "item", "id", "number" or
    "#".
    """
    plain = unicodedata.normalize("NFKC", text)
    if _LABEL.search(plain):
        return True
    names = [unicodedata.normalize("NFKC", name) for name in ids if name]
    telling = {name for name in names if len(name) >= 5 and any(letter.isdigit() for letter in name)}
    return _stands(plain, "", telling) or _stands(plain, _ID_WORD, set(names) - telling)


def _stands(text: str, before: str, names: set[str]) -> bool:
    """Whether one of the names follows the pattern ``before`` and is not part of a longer name."""
    if not names:
        return False
    # Ideographs do not make a name longer: they follow it without a space.
    pattern = rf"{before}(?<![0-9A-Za-z_])(?:{'|'.join(map(re.escape, names))})(?![0-9A-Za-z_])"
    return re.search(pattern, text, re.IGNORECASE) is not None


def has_markup(text: str) -> bool:
    """Whether the text has think tags (closed or not), chat tokens, code fences or HTML tags."""
    return _MARKUP.search(unicodedata.normalize("NFKC", text)) is not None


def copied_share(text: str, history_texts: Sequence[str], ngram: int = 4) -> float:
    """Share of the text's word n-grams that occur in the history's texts, read one after the other.

    A text with fewer words than ``ngram`` is one n-gram. A text without words copies nothing: 0. In scripts where
    each character is a word, four in a row are hardly more than one attribute; 7 or so compare to 4 English words.

    Raises:
        UserError: ``ngram`` is below 1.
    """
    if ngram < 1:
        raise UserError(f"ngram={ngram}: must be at least 1")
    words = split_words(text)
    if not words:
        return 0.0
    size = min(ngram, len(words))
    known = set(_ngrams([word for item in history_texts for word in split_words(item)], size))
    said = _ngrams(words, size)
    return sum(gram in known for gram in said) / len(said)


def _ngrams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
