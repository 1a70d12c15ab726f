"""Reasoning from a history. A new reasoner is one module here and one file in ``conf/draft`` or ``conf/refine``."""

from mllmrec.reasoners.base import Estimate, HistoryItem, Reasoner, Request, Written

__all__ = ["Estimate", "HistoryItem", "Reasoner", "Request", "Written"]
