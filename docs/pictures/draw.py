"""Draws the pictures of method.md: ``python docs/pictures/draw.py``. A test compares them with the files."""

from __future__ import annotations

from html import escape
from pathlib import Path

HERE = Path(__file__).parent
INK, QUIET, LINE = "#1f2933", "#5b6773", "#8a97a3"
BLUE, GREEN, AMBER, GREY, RED = "#dbeafe", "#dcfce7", "#fef3c7", "#eef1f4", "#fee2e2"


class Picture:
    """An SVG picture of boxes, arrows and words, in pixels from the top left corner."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            f'font-family="Helvetica, Arial, DejaVu Sans, sans-serif" font-size="15" fill="{INK}">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
            f'orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" fill="{QUIET}"/></marker></defs>',
        ]

    def box(self, x: int, y: int, width: int, height: int, lines: list[str], fill: str = GREY) -> None:
        """A box with its first line in bold and all lines in its middle."""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="{fill}" stroke="{LINE}"/>'
        )
        top = y + height / 2 - 9 * (len(lines) - 1) + 5
        for place, line in enumerate(lines):
            self.words(
                x + width / 2, top + 18 * place, line, anchor="middle", bold=place == 0, quiet=place > 0
            )

    def words(
        self, x: float, y: float, text: str, anchor: str = "start", bold: bool = False, quiet: bool = False
    ) -> None:
        """One line of text; ``y`` is its base line."""
        style = f' font-weight="{600 if bold else 400}"' + (
            f' fill="{QUIET}" font-size="13"' if quiet else ""
        )
        self.parts.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{style}>{escape(text)}</text>')

    def arrow(self, *points: tuple[int, int]) -> None:
        """A line through the points with a tip at its end."""
        path = " ".join(f"{x},{y}" for x, y in points)
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{QUIET}" stroke-width="1.6" marker-end="url(#tip)"/>'
        )

    def bar(self, x: int, y: int, width: float, height: int, fill: str) -> None:
        """A filled bar."""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width:g}" height="{height}" rx="3" fill="{fill}" stroke="{LINE}"/>'
        )

    def text(self) -> str:
        """The file."""
        return "\n".join([*self.parts, "</svg>", ""])


def pipeline() -> Picture:
    """From raw files to a table with intervals."""
    picture = Picture(940, 430, "From interactions and images to a table of rankings")
    picture.words(20, 30, "Data, made once", bold=True)
    picture.box(20, 45, 200, 70, ["Files", "interactions, titles, images"])
    picture.box(260, 45, 190, 70, ["Filter and split", "leave one out, by time"], BLUE)
    picture.box(490, 45, 190, 70, ["Caption", "images become words"], BLUE)
    picture.box(720, 45, 200, 70, ["Reason", "draft, refine, assess"], BLUE)
    for x in (220, 450, 680):
        picture.arrow((x, 80), (x + 40, 80))
    picture.arrow((820, 115), (820, 135), (115, 135), (115, 178))
    picture.words(20, 168, "Training", bold=True)
    picture.box(20, 180, 190, 74, ["Prompts", "history and ten candidates,", "a share with reasoning"], BLUE)
    picture.box(260, 180, 190, 74, ["Warm-up", "which item id follows", "(from scratch only)"], GREEN)
    picture.box(490, 180, 190, 74, ["SFT", "the true next item", "is the answer"], GREEN)
    picture.box(720, 180, 200, 74, ["GRPO", "answers are drawn,", "rewarded and compared"], GREEN)
    for x in (210, 450, 680):
        picture.arrow((x, 217), (x + (50 if x == 210 else 40), 217))
    picture.words(20, 300, "Measurement", bold=True)
    for x in (355, 585, 820):
        picture.arrow((x, 254), (x, 286), (x, 318))
    picture.box(
        260,
        320,
        660,
        70,
        [
            "Rank the same stored candidates for each test user",
            "before the first phase and after each, with two kinds of negatives;",
            "popularity and item_knn beside it",
        ],
        AMBER,
    )
    picture.box(20, 320, 190, 70, ["Table", "HR, NDCG, 95 % intervals,", "paired differences"], AMBER)
    picture.arrow((260, 355), (210, 355))
    return picture


def shared_prefix() -> Picture:
    """What is computed for one prompt and four answers."""
    picture = Picture(940, 300, "A group of answers shares the prompt")
    prompt, answer = 300, 70
    picture.words(20, 30, "Each answer with a prompt of its own", bold=True)
    for row in range(4):
        y = 50 + 42 * row
        picture.bar(20, y, prompt, 26, BLUE)
        picture.words(20 + prompt / 2, y + 18, "prompt: history, candidates", anchor="middle", quiet=True)
        picture.bar(24 + prompt, y, answer, 26, GREEN)
        picture.words(24 + prompt + answer / 2, y + 18, f"answer {row + 1}", anchor="middle", quiet=True)
    picture.words(20, 250, "P = 1,024, T = 16, G = 8: a step puts")
    picture.words(20, 272, "4 G (P + T) = 33,280 tokens through the layers")
    picture.words(500, 30, "One prompt, with the answers behind it", bold=True)
    picture.bar(500, 113, prompt, 26, BLUE)
    picture.words(500 + prompt / 2, 131, "prompt: history, candidates", anchor="middle", quiet=True)
    for row in range(4):
        y = 50 + 42 * row
        picture.arrow((500 + prompt, 126), (846, y + 13))
        picture.bar(848, y, answer, 26, GREEN)
        picture.words(848 + answer / 2, y + 18, f"answer {row + 1}", anchor="middle", quiet=True)
    picture.words(500, 250, "the same step:")
    picture.words(500, 272, "3 P + 4 G T = 3,584 tokens, 9.3 times fewer")
    return picture


def expected_reward() -> Picture:
    """All candidates of one prompt, with their probabilities, rewards and advantages."""
    picture = Picture(940, 330, "Rewards of all candidates, weighted by their probabilities")
    rows = [("[ITEM_3] Red Lamp", 0.40, 0), ("[ITEM_8] Old Clock", 0.25, 1), ("[ITEM_1] Wool Rug", 0.15, 0)]
    rows += [("[ITEM_7] Blue Chair", 0.12, 0), ("[ITEM_5] Low Shelf", 0.08, 0)]
    mean = sum(share * reward for _, share, reward in rows)
    spread = sum(share * (reward - mean) ** 2 for _, share, reward in rows) ** 0.5
    for x, name in (
        (20, "candidate"),
        (210, "probability p"),
        (520, "reward r"),
        (640, "advantage (r − μ) / σ"),
    ):
        picture.words(x, 30, name, bold=True)
    for place, (name, share, reward) in enumerate(rows):
        y = 48 + 38 * place
        picture.words(20, y + 18, name)
        picture.bar(210, y, 500 * share, 26, GREEN if reward else BLUE)
        picture.words(218 + 500 * share, y + 18, f"{share:.2f}", quiet=True)
        picture.words(550, y + 18, str(reward), anchor="middle", bold=bool(reward))
        advantage = (reward - mean) / spread
        picture.bar(
            760 if advantage > 0 else round(760 + 60 * advantage),
            y,
            60 * abs(advantage),
            26,
            GREEN if reward else RED,
        )
        picture.words(875, y + 18, f"{advantage:+.2f}".replace("-", "−"), quiet=True)
    picture.words(
        20,
        268,
        f"The mean reward is μ = Σ p r = {mean:.2f}; its deviation is σ = √(μ (1 − μ)) = {spread:.2f}.",
    )
    picture.words(20, 294, "Drawn answers (rollout=constrained) estimate both from G of these rows.")
    picture.words(
        20, 318, "rollout=enumerate uses all rows with their probabilities: no draws, so no noise of drawing."
    )
    return picture


PICTURES = {"pipeline": pipeline, "shared_prefix": shared_prefix, "expected_reward": expected_reward}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (HERE / f"{name}.svg").write_text(draw().text(), encoding="utf-8")
