"""Reasoning for training prompts. A new source is one module here and one file in ``conf/cot_policy``."""

from mllmrec.cot.base import CotKey, CotPolicy
from mllmrec.cot.built import Built
from mllmrec.cot.confident import Confident
from mllmrec.cot.mixing import Mixing, select_confident, select_cot
from mllmrec.cot.precomputed import PrecomputedCot
from mllmrec.cot.template import Template
from mllmrec.cot.views import Views

__all__ = [
    "Built",
    "Confident",
    "CotKey",
    "CotPolicy",
    "Mixing",
    "PrecomputedCot",
    "Template",
    "Views",
    "select_confident",
    "select_cot",
]
