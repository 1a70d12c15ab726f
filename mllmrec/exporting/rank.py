"""Ranks items for a history with the model in this folder: python rank.py --history 12 7 --candidates 5 9 301

Needs torch and transformers, and peft if the folder holds an adapter. Scores are log-probabilities of the items' answers.
Each item takes one forward pass, so a large catalogue takes a while.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent


def described(folder: Path) -> dict[str, Any]:
    """What ``mllmrec.json`` says: how prompts are written, and the items."""
    about: dict[str, Any] = json.loads((folder / "mllmrec.json").read_text(encoding="utf-8"))
    return about


def load(folder: Path, about: dict[str, Any]) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    base, source = about["base"], str(folder)
    settings: dict[str, Any] = {"dtype": "auto"}
    if base is not None:
        source = base["path"]
        settings = {"dtype": getattr(torch, base["dtype"]), "revision": base["revision"] or "main"}
    model: Any = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=False, **settings)
    if base is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(folder))
    return model.eval(), AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)


def prompt_of(about: dict[str, Any], history: list[str], candidates: list[str]) -> str:
    """The prompt for item ids, oldest first; it lists the candidates if training prompts listed as many."""
    prompt, items = about["prompt"], {item["id"]: item for item in about["items"]}
    wording, domain = prompt["template"], prompt["domain"]
    joiner = wording["joiner"]

    def line(item_id: str, place: int, listed: bool) -> str:
        item, pattern = items[item_id], wording["item" if listed else "history_item"]
        label = _label(about, item, place if listed else None)
        if not label:
            pattern = pattern.replace("{label} ", "").replace("{label}", "")
        shown = "".join(
            wording[part].format(**{part: item[part]}) for part in ("details", "caption") if item[part]
        )
        return str(pattern.format(label=label, title=item["title"], caption=shown, position=place))

    blocks = []
    if prompt["experience"]:
        texts = joiner.join(prompt["experience"])
        blocks.append(wording["experience"].format(items=texts, joiner=joiner))
    shown = history[-prompt["history_length"] :]
    lines = [line(item_id, place, listed=False) for place, item_id in enumerate(shown, 1)]
    blocks.append(wording["history"].format(items=joiner.join(lines), domain=domain))
    if len(candidates) <= prompt["candidates_listed"]:
        lines = [line(item_id, place, listed=True) for place, item_id in enumerate(candidates, 1)]
        blocks.append(wording["candidates"].format(items=joiner.join(lines), domain=domain))
    elif prompt["label"] in ("letter", "number"):
        raise SystemExit(
            f"the model names items by their place in a list of at most {prompt['candidates_listed']}"
        )
    blocks.append(wording["closing"].format(domain=domain, form=prompt["form"]))
    return joiner.join(blocks)


def answers_of(about: dict[str, Any], candidates: list[str]) -> list[str]:
    """The answer that names each candidate of a list in this order."""
    items = {item["id"]: item for item in about["items"]}
    answers = []
    for place, item_id in enumerate(candidates, 1):
        label, title = _label(about, items[item_id], place), items[item_id]["title"]
        bare = about["prompt"]["answer"] == "id" or not title
        name = label.rstrip(".") if bare else f"{label} {title}"
        answers.append(title if about["prompt"]["label"] == "none" else name)
    return answers


def _label(about: dict[str, Any], item: dict[str, Any], place: int | None) -> str:
    kind = about["prompt"]["label"]
    if kind == "id":
        return str(item["label"])
    if kind == "none" or place is None:
        return ""
    return f"{ascii_uppercase[place - 1] if kind == 'letter' else place}."


@torch.no_grad()
def log_probabilities(
    model: Any, tokenizer: Any, about: dict[str, Any], text: str, answers: list[str]
) -> list[float]:
    """The log-probability of each answer behind a prompt; ``text`` is the prompt inside the chat template."""
    chat = about["chat"]
    start = tokenizer(text, add_special_tokens=chat["add_special_tokens"])["input_ids"]
    scores = []
    for answer in answers:
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        ids += [tokenizer.eos_token_id] if chat["score_end_token"] else []
        logits = model(input_ids=torch.tensor([start + ids], device=model.device)).logits[0]
        behind = torch.log_softmax(logits[len(start) - 1 : -1].float(), dim=-1)
        scores.append(behind.double().gather(1, torch.tensor(ids, device=model.device)[:, None]).sum().item())
    return scores


def main() -> None:
    """Print the candidates, best first."""
    parser = argparse.ArgumentParser(description="Ranks items for a history.")
    parser.add_argument("--history", nargs="+", required=True, help="item ids, oldest first")
    parser.add_argument("--candidates", nargs="+", help="item ids; all that may be recommended by default")
    parser.add_argument("--top", type=int, default=10, help="lines to print")
    given = parser.parse_args()
    about = described(HERE)
    items = {item["id"]: item for item in about["items"]}
    offered = [item_id for item_id, item in items.items() if item["offered"] and item_id not in given.history]
    candidates = given.candidates or offered
    unknown = [item_id for item_id in [*given.history, *candidates] if item_id not in items]
    if unknown:
        parser.error(f"unknown item ids: {', '.join(unknown)}")
    model, tokenizer = load(HERE, about)
    prompt = prompt_of(about, given.history, candidates)
    text = about["chat"]["before"] + prompt + about["chat"]["after"]
    scores = log_probabilities(model, tokenizer, about, text, answers_of(about, candidates))
    ranked = sorted(zip(scores, candidates, strict=True), key=lambda pair: -pair[0])
    for place, (score, item_id) in enumerate(ranked[: given.top], 1):
        print(f"{place}\t{item_id}\t{score:.6f}\t{items[item_id]['title']}")


if __name__ == "__main__":
    main()
