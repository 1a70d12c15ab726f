"""Secrets are refused before Hydra saves anything, and no message shows them."""

from __future__ import annotations

import pytest

from mllmrec.config import CONFIG_DIR
from mllmrec.config.compose import compose_checked
from mllmrec.config.secret_values import redacted
from mllmrec.run.folder import RunFolder

SECRET = "sk-0123456789"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        (f"+draft.extra_body.api_key={SECRET}", "draft.extra_body.api_key"),
        (
            f"+draft.extra_body={{user:x,headers:[{{Authorization:{SECRET}}}]}}",
            "draft.extra_body.headers.Authorization",
        ),
        (f"hydra.job.env_set.WANDB_API_KEY={SECRET}", "hydra.job.env_set.WANDB_API_KEY"),
        (f"+refine.password={SECRET},other", "refine.password"),
        ("+draft.token=123456789", "draft.token"),
        (f"prompt.name={SECRET}", "prompt.name holds the value of the environment variable SERVER_TOKEN"),
        (f"api_key=[{SECRET}", "api_key"),  # does not parse
        (f"+draft.extra_body.auth={SECRET}-abcdefghijkl", "draft.extra_body.auth"),  # by its form
        (f"dataset.source=https://me:{SECRET}@files.example/x", "dataset.source"),
    ],
)
def test_a_secret_is_refused_without_being_shown(monkeypatch, override: str, named: str) -> None:
    monkeypatch.setenv("SERVER_TOKEN", SECRET if override.startswith("prompt") else "something else")
    faults = compose_checked("train", ["draft=openai", override, "seed=1"], CONFIG_DIR).faults
    (fault,) = [fault for fault in faults if "secret" in fault or "environment variable" in fault]
    assert fault.startswith(named)
    assert not any(SECRET in fault or "123456789" in fault for fault in faults)


@pytest.mark.parametrize(
    "override",
    [
        "draft.api_key_env=MY_KEY",
        "+draft.extra_body.api_key=null",
        "+draft.extra_body.api_key=${oc.env:MY_KEY}",
        "rollout.max_new_tokens=32",
        "prompt.item_tokens=text",
    ],
)
def test_names_of_secrets_and_settings_that_sound_like_them_are_taken(override: str) -> None:
    faults = compose_checked("train", ["draft=openai", override], CONFIG_DIR).faults
    assert not any("secret" in fault for fault in faults)


def test_a_secret_in_a_file_of_one_s_own_is_refused(tmp_path) -> None:
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward" / "mine.yaml").write_text(f"_target_: mine.Reward\nservice:\n  api_key: {SECRET}\n")
    (fault,) = compose_checked("train", ["reward=mine"], CONFIG_DIR, str(tmp_path)).faults
    assert fault.startswith("reward.service.api_key sounds like a secret")
    assert SECRET not in fault


def test_no_written_text_holds_keys(monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", "a-key-of-my-own")
    text = f"asked https://me:pass@host/v1 with a-key-of-my-own and {SECRET}-abcdefghijkl, hf_{'a' * 34} at 12:30@home"
    assert (
        redacted(text)
        == "asked https://<redacted>@host/v1 with <MY_KEY> and <redacted>, <redacted> at 12:30@home"
    )


def test_a_run_that_failed_keeps_no_key(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SERVER_TOKEN", SECRET)
    folder = RunFolder(tmp_path)
    folder.fail(RuntimeError(f"refused {SECRET}"))
    assert folder.failure() == "RuntimeError: refused <SERVER_TOKEN>"
