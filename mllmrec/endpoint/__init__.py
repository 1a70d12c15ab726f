"""Clients of servers that speak OpenAI's chat protocol: many requests at once, with a known and limited cost."""

from mllmrec.endpoint.answers import NO_ANSWER, Answer, Chat
from mllmrec.endpoint.budget import Budget, Tally

__all__ = ["NO_ANSWER", "Answer", "Budget", "Chat", "Tally"]
