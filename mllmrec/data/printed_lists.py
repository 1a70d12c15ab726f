"""Lists that a program printed into a text cell → their elements."""

from __future__ import annotations

import ast
import re

from mllmrec.data.text import number_text

_SCALAR = re.compile(r"np\.\w+\(([^()]*)\)")  # numpy prints numbers inside a list so: np.int64(7)
_ELEMENT = re.compile(
    r"""'(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*" | [^\s,'"\[\](){}]+""", re.VERBOSE | re.DOTALL
)
_BETWEEN = re.compile(r"\s*,\s*|\s+")
_NUMBER = re.compile(r"[+-]?\d+\.\d*([eE][+-]?\d{1,3})?")


def printed_list(text: str) -> list[str]:
    """The elements of ``[1, 2]``, ``['a', "b"]``, ``['a' 'b']`` (numpy), ``1 2`` or ``1,2``; none for ``[]`` and "".

    Quoted elements are text. Unquoted numbers are read as ids are: 1.0 is ``1``.

    Raises:
        ValueError: the text is not a list, is a list of lists, or is cut short as numpy prints long arrays.
    """
    inside = text.strip()
    if inside.startswith("[") and inside.endswith("]") and len(inside) > 1:
        inside = inside[1:-1].strip()
    if "np." in inside:
        inside = _SCALAR.sub(r"\1", inside)
    elements: list[str] = []
    place = 0
    while place < len(inside):
        found = _ELEMENT.match(inside, place)
        if found is None:
            raise ValueError(f"is not a list at {inside[place : place + 20]!r}: write it as [1, 2]")
        elements.append(_plain(found[0]))
        place = found.end()
        between = _BETWEEN.match(inside, place)
        if between is None and place < len(inside):
            raise ValueError(f"is not a list at {inside[place : place + 20]!r}: write it as [1, 2]")
        place = between.end() if between is not None else place
    return elements


def _plain(element: str) -> str:
    if element[0] in "'\"":
        if "\\" not in element:
            return element[1:-1]
        try:
            return str(
                ast.literal_eval(element)
            )  # a literal of one string, so nothing can nest in it and nothing runs
        except SyntaxError as error:
            raise ValueError(f"holds {element[:20]} ({error.msg}): correct it") from error
    if element in ("...", "…"):
        raise ValueError("is cut short at the dots: write the whole list")
    return number_text(element) if _NUMBER.fullmatch(element) else element
