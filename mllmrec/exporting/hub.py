"""Sends a folder to the Hugging Face Hub, with the user's own token."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mllmrec.errors import UserError

Kind = Literal["model", "dataset"]


def refuse_name(name: str) -> None:
    """Refuse what cannot be the name of a repository, before any work is done.

    Raises:
        UserError: with the reason.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(
            f"push={name} is no name of a repository ({error}): give one such as me/my-model"
        ) from error


def push(path: Path, name: str, private: bool, kind: Kind = "model") -> str:
    """Upload an export; return the repository's address.

    Args:
        path: the folder.
        name: the repository, such as ``me/model``; made if it does not exist.
        private: whether a new repository is private.
        kind: what the folder holds.

    Raises:
        UserError: the Hub refused it or could not be reached; the folder stays.
    """
    from httpx import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        address = api.create_repo(name, private=private, exist_ok=True, repo_type=kind)
        api.upload_folder(
            repo_id=address.repo_id, folder_path=path, commit_message="Export of mllmrec", repo_type=kind
        )
    except (HfHubHTTPError, HTTPError, LocalTokenNotFoundError, OSError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(
            f"push={name} failed ({first}), and the folder {path} is whole: sign in with hf auth login if you did not, then send it "
            f"with hf upload {name} {path} --repo-type {kind}"
        ) from error
    return str(address)
