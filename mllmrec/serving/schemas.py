"""Requests and answers of the service, as its OpenAPI page shows them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _an_id(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError("an item id is a string or a whole number")
    return value


ItemId = Annotated[str | int, BeforeValidator(_an_id)]


class RankRequest(BaseModel):
    """What to rank."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"history": ["12", "7", "31"], "k": 5},
                {"history": ["12", "7", "31"], "candidates": ["3", "8", "22"]},
            ]
        },
    )

    history: list[ItemId] = Field(description="Item ids, oldest first.")
    candidates: list[ItemId] | None = Field(
        None, description="Item ids to rank, each once; null for the whole catalogue without the history."
    )
    k: int = Field(
        10, ge=1, strict=True, description="How many items the answer has at most, the best first."
    )


class RankedItem(BaseModel):
    """An item of a ranking."""

    item: str = Field(description="Item id.")
    title: str = Field(description="Its title.")
    score: float | None = Field(
        description="Greater is better: the log-probability of its answer for a language model, the recommender's own "
        "score for a classical one; null if it is infinite. If the whole catalogue competes, the first items are "
        "scored by a prompt that lists them and the others by one without a list: compare scores within each part."
    )


class Ranking(BaseModel):
    """A ranked list."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"ranking": [{"item": "8", "title": "Blue Lamp", "score": -0.41}]}]}
    )

    ranking: list[RankedItem] = Field(description="Best first.")


class Explanation(Ranking):
    """A ranked list, and what the policy wrote before it ranked."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "reasoning": ["The user likes lamps in cold colours."],
                    "ranking": [{"item": "8", "title": "Blue Lamp", "score": -0.41}],
                }
            ]
        }
    )

    reasoning: list[str] = Field(
        description="The pieces of reasoning, or profiles, behind the best items; as many as the run's "
        "eval.reasoning_samples."
    )


class Health(BaseModel):
    """The state of the service."""

    status: str = Field(description="ok, or stopping (with status 503).", examples=["ok"])
    method: str = Field(description="The method of the run.", examples=["mllmrec_r1"])
    stage: str = Field(description="The phase whose weights rank.", examples=["grpo"])
    items: int = Field(description="How many items the catalogue has.", examples=[400])
    reasons: bool = Field(description="Whether /explain answers.", examples=[False])


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str = Field(
        description="One sentence.", examples=["unknown item ids: 999; items are, for example, 0, 1, 2, 3, 4"]
    )
