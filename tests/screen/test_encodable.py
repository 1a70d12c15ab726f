"""If output is not UTF-8, commands still end normally and numbers keep their signs."""

from __future__ import annotations

import os
import subprocess
import sys

from mllmrec.screen.encodable import plain


def test_signs_keep_their_meaning_and_letters_their_base() -> None:
    assert plain("GRPO − SFT → +0.1, café, 日") == "GRPO - SFT -> +0.1, cafe, ?"


def test_a_difference_keeps_its_minus_sign_on_a_stream_of_another_encoding() -> None:
    code = (
        "from mllmrec.screen.encodable import write_what_can_be_encoded as write\n"
        "write()\n"
        "from mllmrec.screen.console import make_console\n"
        "make_console().print('SFT − warm-up −0.008 …')"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        check=True,
    )
    # cp1252 has the ellipsis, and lacks the minus sign.
    assert said.stdout.decode("cp1252").strip() == "SFT - warm-up -0.008 …"
