"""How the rows of an experiment look in its pictures."""

from __future__ import annotations

# Okabe and Ito's colours, which colour-blind readers can tell apart; their yellow is too faint for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
DASHES = ("-", "--", ":")


def style(place: int) -> tuple[str, str]:
    """Colour and dash of the row at ``place``; after 21 rows they repeat."""
    return COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)]


def marker(place: int) -> str:
    """The marker of the row at ``place``, another one for rows of the same colour."""
    return MARKERS[(place + place // len(MARKERS)) % len(MARKERS)]
