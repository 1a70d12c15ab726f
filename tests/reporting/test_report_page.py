from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from mllmrec.reporting.experiment import names_of
from mllmrec.reporting.files import slug, write_report
from mllmrec.reporting.job_links import _address
from mllmrec.reporting.page import make_section
from mllmrec.reporting.pictures import draw_pictures

LOG = "stage,step,val/NDCG@3\nsft,0,0.1\nsft,10,0.2\n"


@pytest.fixture
def written(tmp_path, write_run, experiment):
    runs, out = tmp_path / "runs", tmp_path / "out"
    write_run(runs / "a", [1, 9, 9, 9], typed=["method=sft"], log=LOG)
    write_run(runs / "b", [1, 1, 9, 9], method="grpo_only", typed=["method=grpo_only"], log=LOG)
    (runs / "c").mkdir()
    (runs / "c" / "failed.json").write_text(json.dumps({"error": "UserError: <b>no</b> & never"}))
    study = experiment(runs, name="A & B")
    sections = [make_section(study, draw_pictures(study, out))]
    write_report(out, "Title <1>", "2026-01-31", sections)
    return out


class Attributes(HTMLParser):
    """Every attribute of every element, and the elements themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag, attrs):
        self.seen += [(tag, name, value or "") for name, value in attrs] or [(tag, "", "")]


def test_the_page_loads_nothing_and_runs_its_own_scripts_alone(written):
    text = (written / "report.html").read_text(encoding="utf-8")
    parser = Attributes()
    parser.feed(text)
    assert not {"link", "iframe", "object", "base"} & {tag for tag, _, _ in parser.seen}
    loaded = [value for _, name, value in parser.seen if name in ("src", "srcset", "data", "action")]
    assert loaded
    assert all(value.startswith("data:image/png;base64,") for value in loaded)
    assert not [name for _, name, _ in parser.seen if name.startswith("on") or name == "style"]
    assert "@import" not in text
    assert "url(" not in text
    (policy,) = (value for _, name, value in parser.seen if name == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none'; img-src data:;")
    scripts = re.findall("<script>(.*?)</script>", text, re.S)
    assert len(scripts) == 3
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_links_lead_to_the_runs_and_to_their_files(written):
    parser = Attributes()
    parser.feed((written / "report.html").read_text(encoding="utf-8"))
    links = [value for _, name, value in parser.seen if name == "href"]
    inside = {value for value in links if value.startswith("#")}
    assert inside == {f"#{value}" for _, name, value in parser.seen if name == "id"}
    outside = [value for value in links if not value.startswith("#")]
    assert outside[:2] == ["../runs/a/", "../runs/a/.hydra/resolved.yaml"]
    assert all((written / value).exists() for value in outside)
    assert "../runs/c/failed.json" in outside


def test_names_of_folders_cannot_become_schemes(tmp_path):
    assert _address(tmp_path / "javascript:alert(1)?#", tmp_path) == "javascript%3Aalert%281%29%3F%23"


def test_the_pictures_in_the_page_are_the_files_beside_it(written):
    text = (written / "report.html").read_text(encoding="utf-8")
    inside = [base64.b64decode(found) for found in re.findall(r'src="data:image/png;base64,([^"]+)"', text)]
    files = [path.read_bytes() for path in (written / "learning.png", written / "cost.png")]
    assert inside == files
    assert all(data.startswith(b"\x89PNG") for data in inside)


def test_the_page_shows_numbers_marks_and_failed_jobs_and_escapes_what_users_named(written):
    text = (written / "report.html").read_text(encoding="utf-8")
    assert "<h1>Title &lt;1&gt;</h1>" in text
    assert "A &amp; B</h2>" in text
    assert "&lt;b&gt;no&lt;/b&gt; &amp; never" in text
    assert "<b>no</b>" not in text
    # NDCG@3: one and two of four users.
    assert '<span class="best">0.500</span>' in text
    assert '<span class="second">0.250</span>' in text
    assert "{{" not in text


def test_every_number_is_in_the_json(written):
    content = json.loads((written / "report.json").read_text(encoding="utf-8"))["experiments"][0]
    assert [(row["label"], row["seeds"], row["metrics"]["HR@1"]["mean"]) for row in content["rows"]] == [
        ("sft", [0], 0.25),
        ("grpo_only", [0], 0.5),
    ]
    assert content["baseline"] == "grpo_only"
    assert content["comparisons"][0]["difference"] == -0.25
    assert content["unfinished"][0]["error"] == "UserError: <b>no</b> & never"
    assert "seed" not in content["protocol"]


def test_markdown_links_the_pictures_and_latex_holds_both_tables(written):
    text = (written / "report.md").read_text(encoding="utf-8")
    assert "![Learning curves](learning.png)" in text
    assert "> 1 job failed: " in text
    tables = (written / "table.tex").read_text(encoding="utf-8")
    assert tables.count(r"\begin{tabular}") == tables.count(r"\end{tabular}") == 2
    assert r"\label{tab:a-b}" in tables


def test_sections_are_named_by_folder_and_apart_where_two_are_alike(tmp_path):
    (tmp_path / "x").mkdir()
    assert names_of([f"{tmp_path}/x/", f"{tmp_path}/y"]) == ["x", "y"]
    assert names_of([f"{tmp_path}/1/x", f"{tmp_path}/2/x"]) == [f"{tmp_path}/1/x", f"{tmp_path}/2/x"]
    assert slug("Mixing ratios: 0.1/é") == "mixing-ratios-0-1"
    assert slug("…") == "experiment"
