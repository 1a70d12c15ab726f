"""Draft → refinement of the reasoning about histories. Each text is made once and kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mllmrec.cot.base import CotKey
from mllmrec.cot.store import TextStore
from mllmrec.cot.wording import CotWording, ask
from mllmrec.reasoners.base import Estimate, HistoryItem, Reasoner, Request, Written

DRAFT, REFINED, LEAKY = "draft", "refined", "leaky"  # leaky: the reasoner that refines is told the target
Advance = Callable[[int, str], None]  # samples just settled, and a note for the progress bar


@dataclass
class StageReport:
    """What happened to the samples of one stage."""

    samples: int = 0
    from_cache: int = 0  # texts that existed before
    written: int = 0  # texts made now
    prompt_tokens: int = 0  # of the texts made now
    completion_tokens: int = 0
    problems: Counter[str] = field(default_factory=Counter)  # why samples have no text

    def counts(self) -> dict[str, int]:
        """All counts that are not zero; each problem is counted under its own words."""
        counts = {
            "samples": self.samples,
            "from_cache": self.from_cache,
            "written": self.written,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            **{f"without: {problem}": count for problem, count in self.problems.items()},
        }
        return {name: count for name, count in counts.items() if count}


class CotPipeline:
    """Asks one reasoner for drafts and another for refinements of the drafts.

    Requests are made from the history alone. The exception is ``leak="target"``, the named ablation that reproduces
    the release: only its refinements are told the target.
    """

    def __init__(
        self,
        items: Mapping[str, HistoryItem],
        domain: str,
        draft: tuple[Reasoner, CotWording],
        refine: tuple[Reasoner, CotWording],
        cache: Path,
    ) -> None:
        """Set up the reasoners and what requests are made of.

        Args:
            items: by item id, what a reasoner may see of the item.
            domain: the noun for the items.
            draft: the reasoner that writes drafts, and its wording.
            refine: the reasoner that rewrites them, and its wording.
            cache: the folder where finished texts are kept.
        """
        self.items, self.domain, self.cache = items, domain, cache
        self._draft, self._refine = draft, refine
        self.reports: dict[str, StageReport] = {}
        self.problems: dict[str, dict[CotKey, str]] = {}  # stage -> sample -> why it has no text

    def reasoner(self, stage: str) -> Reasoner:
        """The reasoner that writes the texts of a stage."""
        return self._draft[0] if stage == DRAFT else self._refine[0]

    def drafts(self, keys: Iterable[CotKey], advance: Advance | None = None) -> dict[CotKey, Written]:
        """The drafts, for samples that have one."""
        return self._run(DRAFT, self._draft[0], ((key, self.draft_request(key)) for key in keys), advance)

    def refinements(
        self,
        keys: Iterable[CotKey],
        drafts: Mapping[CotKey, str],
        leak: bool = False,
        advance: Advance | None = None,
    ) -> dict[CotKey, Written]:
        """The refinements, for samples that have one. Samples without a draft are not asked about.

        Args:
            keys: the samples.
            drafts: their drafts.
            leak: whether the reasoner is told the target (the ablation).
            advance: called with progress.
        """
        asked = ((key, self.refine_request(key, drafts[key], leak)) for key in keys if drafts.get(key))
        return self._run(LEAKY if leak else REFINED, self._refine[0], asked, advance)

    def draft_request(self, key: CotKey) -> Request:
        """The request for a draft."""
        return self._request(self._draft, key)

    def refine_request(self, key: CotKey, draft: str, leak: bool = False) -> Request:
        """The request for a refinement."""
        return self._request(self._refine, key, draft, self._told(key) if leak else "")

    def missing(self, stage: str, requests: Iterable[Request]) -> list[Request]:
        """The requests without a stored text; equal requests appear once."""
        store = self._store(stage)
        waiting: dict[str, Request] = {}
        for request in requests:
            key = store.key(request)
            if store.find(key) is None:
                waiting.setdefault(key, request)
        return list(waiting.values())

    def estimates(self, keys: list[CotKey], leak: bool = False) -> dict[str, Estimate]:
        """What the missing texts would cost. Drafts that do not exist yet count at their greatest possible length."""
        stage = LEAKY if leak else REFINED
        drafting = self.missing(DRAFT, map(self.draft_request, keys))
        first = self._draft[0].estimate(drafting) or Estimate(len(drafting), 0, 0)
        store = self._store(DRAFT)
        longest = 4 * first.completion_tokens // max(first.requests, 1)
        drafts = {}
        for key in keys:
            known = store.find(store.key(self.draft_request(key)))
            drafts[key] = known.text if known else "x" * max(longest, 1)
        refining = self.missing(stage, (self.refine_request(key, drafts[key], leak) for key in keys))
        second = self._refine[0].estimate(refining) or Estimate(len(refining), 0, 0)
        return {DRAFT: first, stage: second}

    def _run(
        self,
        stage: str,
        reasoner: Reasoner,
        asked: Iterable[tuple[CotKey, Request]],
        advance: Advance | None,
    ) -> dict[CotKey, Written]:
        report = self.reports.setdefault(stage, StageReport())
        problems = self.problems.setdefault(stage, {})
        store = self._store(stage)
        texts: dict[CotKey, Written] = {}
        waiting: dict[str, list[CotKey]] = {}  # key of a text -> samples that asked for the same text

        def settle(samples: list[CotKey], written: Written) -> None:
            for sample in samples:
                if written.text:
                    texts[sample] = written
                else:
                    problems[sample] = written.problem or "empty"
                    report.problems[problems[sample]] += 1
            if advance is not None:
                advance(len(samples), _note(report, reasoner.spent))

        def pending() -> Iterator[Request]:
            for sample, request in asked:
                report.samples += 1
                key = store.key(request)
                known = store.find(key)
                if known is not None:
                    report.from_cache += 1
                    settle([sample], known)
                elif key in waiting:
                    waiting[key].append(sample)
                else:
                    waiting[key] = [sample]
                    yield request

        for request, written in reasoner.write(pending()):
            key = store.key(request)
            report.prompt_tokens += written.prompt_tokens
            report.completion_tokens += written.completion_tokens
            if written.text:
                report.written += 1
                store.add(key, request, written)
            settle(waiting.pop(key), written)
        return texts

    def _store(self, stage: str) -> TextStore:
        reasoner = self.reasoner(stage)
        return TextStore(self.cache, stage, reasoner.identity(), reads_users=reasoner.reads_users)

    def _request(
        self, asked: tuple[Reasoner, CotWording], key: CotKey, draft: str = "", leak: str = ""
    ) -> Request:
        reasoner, wording = asked
        history = [self.items[item] for item in key.history_ids]
        return ask(
            wording,
            self.domain,
            key.sample_id,
            key.user_id,
            history,
            draft=draft,
            with_images=reasoner.sees_images,
            leak=leak,
        )

    def _told(self, key: CotKey) -> str:
        target = self.items[key.target_id]
        return " | ".join(text for text in (target.title, target.caption) if text)


def _note(report: StageReport, spent: Estimate | None) -> str:
    """What the texts made so far cost, for a progress bar."""
    made = spent or Estimate(report.written, report.prompt_tokens, report.completion_tokens)
    return made.describe() if made.prompt_tokens + made.completion_tokens else ""
