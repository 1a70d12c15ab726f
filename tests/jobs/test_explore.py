"""Runs on the pages: what they show without a browser, and in Chromium."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import uvicorn
from chromium import chromium, watched
from PIL import Image

from mllmrec.errors import UserError
from mllmrec.exploring import views
from mllmrec.exploring.app import make_app
from mllmrec.exploring.server import open_folders
from mllmrec.exploring.server import serve as serve_pages
from mllmrec.exploring.stored import StoredRun, Wanted
from mllmrec.jobs.finished_run import settings_of_run
from mllmrec.serving.server import address, listening_socket, uvicorn_config

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def kept():
    """What is made once, and closed at the end."""
    with ExitStack() as ends:
        yield SimpleNamespace(ends=ends)


def tables(folder):
    """Thirty users with seven of twenty items each; the title of item 3 is markup, and item 4 has no image."""
    generator = np.random.default_rng(0)
    rows = [
        f"{user},{item},{time}"
        for user in range(30)
        for time, item in enumerate(generator.permutation(20)[:7])
    ]
    (folder / "ratings.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    titles = [EVIL if item == 3 else f"thing number {item}" for item in range(20)]
    (folder / "items.csv").write_text(
        "\n".join(["item_id,title", *(f"{n},{t}" for n, t in enumerate(titles))]) + "\n"
    )
    (folder / "images").mkdir()
    for item in set(range(20)) - {4}:
        Image.new("RGB", (16, 16), (12 * item, 100, 50)).save(folder / "images" / f"{item}.png")
    files = {"interactions": "ratings.csv", "items": "items.csv", "images": "images"}
    return ["dataset=tabular", *(f"dataset.{key}={folder / name}" for key, name in files.items())]


@pytest.fixture
def folders(job, kept, tmp_path_factory):
    """A run that writes profiles before it ranks, and one that counts, on the same users."""
    if not hasattr(kept, "folders"):
        folder = tmp_path_factory.mktemp("explored")
        small = [*tables(folder), "caption=none", "heldout.users=4", "eval.listing=all", "eval.max_users=16"]
        tiny = [
            "backbone.hidden_size=32",
            "backbone.num_layers=2",
            "backbone.vocabulary=400",
            "warmup.max_steps=2",
        ]
        limits = ["rollout.max_reasoning_tokens=24", "eval.max_reasoning_tokens=24", "eval.weighting=both"]
        job(folder / "profiled", *small, *tiny, "task=profiled", *limits, small=False)
        job(folder / "counted", *small, "method=popularity", small=False)
        kept.folders = [str(folder / name) for name in ("profiled", "counted")]
    return kept.folders


@pytest.fixture
def explored(folders, kept):
    if not hasattr(kept, "explored"):
        kept.explored = open_folders(folders)
    return kept.explored


def serving(ends, explored):
    """The address of a server of these runs."""
    bound = ends.enter_context(listening_socket("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn_config(make_app(explored)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    bound.listen()
    thread.start()
    ends.callback(thread.join)
    ends.callback(setattr, server, "should_exit", True)
    return address(bound)


@pytest.fixture
def url(explored, kept):
    """The address of a server of both runs."""
    if not hasattr(kept, "url"):
        kept.url = serving(kept.ends, explored)
    return kept.url


@pytest.fixture
def page(kept, url):
    """A page in Chromium, which fails the test if anything of the page fails, or if markup of a title runs."""
    if not hasattr(kept, "browser"):
        kept.browser = kept.ends.enter_context(chromium())
    here = url.rpartition(":")[0]
    shown = watched(
        kept.browser, lambda asked: asked.startswith(here), viewport={"width": 1400, "height": 900}
    )
    yield shown
    shown.close()
    assert shown.faults == []


def key_with(run, item):
    """A user whose history has the item."""
    for key in run.stored().keys:
        case = run.opened.case(key)
        if item in [run.opened.item(code).id for code in case.history[-case.shown :]]:
            return key
    raise AssertionError(item)


def test_a_view_has_history_candidates_target_and_what_was_written(explored):
    run = explored[0]
    key = run.stored().keys[0]
    view = views.user_view(run, key, False)
    lines = (run.opened.path.parent / "ratings.csv").read_text().splitlines()[1:]
    sequence = [line.split(",")[1] for line in lines if line.split(",")[0] == key.user]
    assert [item["id"] for item in view["history"]] == sequence[:-1]
    assert view["target"]["id"] == key.target == sequence[-1]
    stages = {stage["name"]: stage for stage in view["stages"]}
    assert {"popularity", "zero_shot", "warmup", "sft", "grpo", "grpo_reasoning_swapped"} <= set(stages)
    for name in ("zero_shot", "warmup", "sft", "grpo"):
        stage = stages[name]
        assert sum(stage["values"]) == pytest.approx(1, abs=1e-5)
        assert stage["values"] == sorted(stage["values"], reverse=True)
        assert stage["items"][stage["rank"] - 1] == key.target
        assert view["ranks"][name] == stage["rank"]
    assert isinstance(stages["grpo"]["text"], str)
    assert stages["popularity"]["measure"] == "score"


@pytest.mark.parametrize("phase", ["sft", "grpo"])
@pytest.mark.parametrize("other", [False, True])
def test_the_weights_give_the_probabilities_that_the_run_stored(explored, phase, other):
    run = explored[0]
    key = run.stored(other).keys[1]
    stored = run.stored(other).ranking(phase, key)
    now = views.weighed(run, phase, key, other)
    assert dict(zip(now["items"], now["values"], strict=True)) == pytest.approx(
        dict(zip(stored.items, stored.values, strict=True)), abs=1e-4
    )


def test_leaving_out_an_item_is_ranking_without_it(explored):
    run = explored[0]
    key = run.stored().keys[2]
    found = views.left_out(run, "grpo", key, False)
    case = run.opened.case(key)
    assert len(found["without"]) == case.shown == 6
    assert found["whole"]["values"] == pytest.approx(
        views.weighed(run, "grpo", key, False)["values"], abs=1e-4
    )
    for place in (0, 5):
        alone = views.weighed(run, "grpo", key, False, [place])
        assert found["without"][place]["values"] == pytest.approx(alone["values"], abs=1e-4)
    with pytest.raises(UserError, match="keep at least one item"):
        views.weighed(run, "grpo", key, False, range(6))
    with pytest.raises(UserError, match="does not keep the weights of warm-up"):
        views.weighed(run, "warmup", key, False)


def test_a_history_of_ones_own_is_ranked_as_the_command_ranks_it(explored):
    run = explored[0]
    found = views.own_ranking(run, "grpo", ["3", "4"], None, 5)
    assert len(found["items"]) == 5
    assert not {"3", "4"} & set(found["items"])
    assert sum(found["values"]) == pytest.approx(1, abs=1e-5)
    assert found["values"] == sorted(found["values"], reverse=True)
    with pytest.raises(UserError, match="names an item twice"):
        views.own_ranking(run, "grpo", ["3"], ["5", "5"], 5)
    with pytest.raises(UserError, match="list up to 10 items, not 11"):
        views.own_ranking(run, "grpo", ["3"], [str(item) for item in range(4, 15)], 5)
    with pytest.raises(UserError, match="unknown item ids: 99"):
        views.own_ranking(run, "grpo", ["99"], None, 5)


def test_the_table_is_filtered_sorted_and_cut(explored):
    stored = explored[0].stored()
    rows = stored.table(Wanted(limit=500)).rows
    assert len(rows) == 16
    best = stored.table(Wanted(sort="grpo", limit=500)).rows
    ranks = [row.ranks["grpo"] for row in best]
    assert ranks == sorted(ranks)
    assert stored.table(Wanted(sort="grpo", descending=True, limit=1)).rows[0].ranks["grpo"] == ranks[-1]
    up = stored.table(Wanted(moved="up", before="sft", after="grpo", limit=500)).rows
    assert {row.key for row in up} == {row.key for row in rows if row.ranks["grpo"] < row.ranks["sft"]}
    name = rows[0].slices[0]
    cut = stored.table(Wanted(slice=name, offset=1, limit=2))
    assert cut.total == sum(name in row.slices for row in rows)
    assert cut.rows == [row for row in rows if name in row.slices][1:3]
    titled = stored.table(Wanted(text="ALERT(1)", limit=500), explored[0].title_of).rows
    assert titled == [row for row in rows if row.key.target == "3"]
    assert titled
    with pytest.raises(UserError, match="sort=size: one of"):
        stored.table(Wanted(sort="size"))


def test_a_run_that_counts_has_scores_and_nothing_written(explored):
    run = explored[1]
    key = run.stored().keys[0]
    view = views.user_view(run, key, False)
    (stage,) = [stage for stage in view["stages"] if stage["kind"] == "phase"]
    assert (stage["measure"], stage["text"]) == ("score", None)
    assert views.weighed(run, "popularity", key, False)["measure"] == "score"
    assert views.timeline_view(run)["rollouts"] == []


def test_a_run_whose_data_is_gone_still_shows_its_rankings(folders, tmp_path):
    folder = shutil.copytree(folders[0], tmp_path / "copy")
    settings = folder / ".hydra" / "resolved.yaml"
    settings.write_text(settings.read_text().replace("ratings.csv", "gone.csv"))
    (run,) = open_folders([str(folder)])
    key = run.stored().keys[0]
    view = views.user_view(run, key, False)
    assert view["history"] is None
    assert "gone.csv" in view["problem"]
    assert view["target"]["title"] == key.target
    with pytest.raises(UserError, match="needs the run's data, which cannot be opened"):
        views.weighed(run, "grpo", key, False)


@pytest.fixture
def evaluation(folders, command, kept, tmp_path_factory):
    """A folder of mllmrec.evaluate: the first run's policy after SFT, among more candidates."""
    if not hasattr(kept, "evaluation"):
        kept.evaluation = tmp_path_factory.mktemp("evaluation") / "ranked"
        asked = [
            "stage=sft",
            "eval.num_negatives=12",
            "eval.faithfulness=false",
            f"hydra.run.dir={kept.evaluation}",
        ]
        run = os.path.relpath(folders[0], kept.evaluation.parent)
        done = command("evaluate", f"run={run}", *asked, cwd=kept.evaluation.parent)
        assert done.returncode == 0, done.stderr
    return str(kept.evaluation)


def test_an_evaluation_has_users_and_says_where_the_weights_are(evaluation, folders):
    (run,) = open_folders([evaluation])
    alone = f"mllmrec.evaluate wrote this folder, which has rankings without weights and rollouts; the run itself, {folders[0]}"
    key = run.stored().keys[0]
    view = views.user_view(run, key, False)
    assert [item["title"] for item in view["history"]][-1].startswith("thing")
    (ranked,) = [stage for stage in view["stages"] if stage["kind"] == "phase"]
    assert (ranked["name"], len(ranked["items"]), ranked["saved"]) == ("sft", 13, False)
    assert {row["users"] for row in views.slices_view(run.stored())["rows"] if row["slice"] == "all"} == {16}
    assert run.described()["alone"] == f"{alone}, has them"
    with pytest.raises(UserError, match="the run itself"):
        views.weighed(run, "sft", key, False)
    with pytest.raises(UserError, match=r"has no resolved\.yaml: mllmrec\.evaluate wrote this folder"):
        settings_of_run(evaluation)


def test_broken_folders_and_a_taken_port_are_sentences(command, folders, tmp_path):
    (tmp_path / "none").mkdir()
    damaged = shutil.copytree(folders[0], tmp_path / "damaged")
    (damaged / "per_user.parquet").write_bytes(b"no table")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, sentence in (
            (["run=none"], "none is no finished run (no metrics.json in it)"),
            (["run=damaged"], "per_user.parquet is damaged"),
            ([f"run={folders[0]},{folders[0]}"], "twice: name each run once"),
            ([f"run={folders[0]}", f"port={port}"], f"port={port} cannot be listened on"),
        ):
            done = command("explore", "open=false", *arguments, cwd=tmp_path)
            assert (done.returncode, done.stdout) == (2, "")
            assert sentence in done.stderr
            assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "none"]


def test_ctrl_c_ends_it_quietly(folders, capsys):
    with listening_socket("127.0.0.1", 0) as free:
        port = free.getsockname()[1]

    def interrupt():
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                httpx.get(f"http://127.0.0.1:{port}/api/runs", timeout=20).raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    serve_pages(folders[1:], port, False)
    thread.join()
    assert capsys.readouterr().out == f"counted: http://127.0.0.1:{port} (Ctrl-C ends it)\n"


def test_requests_are_answered_with_data_or_one_sentence(url, explored):
    key = explored[0].stored().keys[0]
    user = {"user": key.user, "target": key.target}
    with httpx.Client(base_url=url, timeout=30) as client:
        assert client.get("/").headers["content-security-policy"].startswith("default-src 'none'")
        assert client.get("/api/runs", headers={"Host": "evil.example"}).status_code == 403
        crossed = client.post(
            "/api/runs/0/weigh", json={**user, "phase": "grpo"}, headers={"Origin": "http://evil"}
        )
        assert crossed.status_code == 403
        assert client.get("/page/..%2Fapp.py").status_code == 404
        assert client.get("/api/runs/0/picture", params={"item": "3"}).content.startswith(b"\x89PNG")
        for path, sentence in (
            ("/api/runs/0/picture?item=4", "item 4 has no image"),
            ("/api/runs/7/slices", "run 7: this page shows 2"),
            ("/api/runs/0/user?user=nobody", "this run did not rank user nobody"),
            ("/api/runs/1/slices?other=true", "among one kind of negatives only"),
        ):
            answer = client.get(path)
            assert answer.status_code in (404, 422)
            assert sentence in answer.json()["detail"]
        rows = client.get("/api/runs/0/rollouts", params={"limit": 5}).json()
        assert len(rows) == 5
        assert {"reward", "parts", "advantage", "completion", "history", "target"} <= set(rows[0])


def test_a_reader_finds_a_user_and_sees_what_an_item_does(page, url, explored):
    key = key_with(explored[0], "3")
    page.goto(url)
    page.fill("#user-search", key.user)
    page.click(f"#user-list a:has(b:text-is('{key.user}'))")
    page.wait_for_selector(f"h1:text-is('User {key.user}')")
    assert EVIL in page.inner_text("#history")  # text, not markup
    bars = page.locator("#candidates td[data-stage='0/grpo']")
    values = [float(bar.get_attribute("data-value")) for bar in bars.all()]
    assert sum(values) == pytest.approx(1, abs=1e-4)
    assert page.locator("#candidates tr.truth").get_attribute("data-item") == key.target
    page.select_option("#live", "0/grpo")
    page.click(f"#history li:has-text('{EVIL}') button")
    page.wait_for_selector("#candidates td[data-stage='live']")
    moved = [
        float(bar.get_attribute("data-value"))
        for bar in page.locator("#candidates td[data-stage='live']").all()
    ]
    assert sum(moved) == pytest.approx(1, abs=1e-4)
    assert max(abs(a - b) for a, b in zip(values, moved, strict=True)) > 1e-6
    page.click("#each")
    page.wait_for_selector("#effects")
    assert page.locator("#history .effect").count() == 6
    assert page.locator("article.text").count() == 3  # after SFT, after GRPO, and without the item
    # Both runs, one of which counts.
    assert page.inner_text("#candidates thead").count("·") == 2


def test_tables_rollouts_and_a_history_of_ones_own(page, url):
    page.goto(f"{url}/#rankings")
    page.wait_for_selector("#rankings tbody tr")
    page.click("#rankings button:has-text('GRPO')")
    page.wait_for_selector("#rankings th[aria-sort='ascending']")
    page.fill("#rankings-search", "no such title")
    page.wait_for_selector("#rankings .empty")
    page.goto(f"{url}/#slices")
    page.wait_for_selector("#slices tbody tr")
    page.fill("#slices-search", "grpo")
    page.wait_for_selector("#slices tbody tr:has-text('SFT')", state="detached")
    assert page.locator("#slices tbody tr:has-text('GRPO')").count() >= 1
    page.goto(f"{url}/#rollouts")
    page.wait_for_selector("#rollouts .rollout .effect")
    assert "none of its phases draws any" in page.inner_text("#rollouts .empty")
    page.goto(f"{url}/#own")
    for text in ("alert(1)", "number 7"):
        page.fill("#item-search", text)
        page.wait_for_selector("#found li[aria-selected='true']")
        page.press("#item-search", "Enter")
    assert EVIL in page.inner_text("#own-history")
    each = page.locator("#own-results section >> nth=0").locator("button:has-text('Leave out each')")
    each.wait_for()  # a history of one item has no such button
    shown = page.locator("#own-results section >> nth=0").locator("td[data-value]")
    assert shown.count() == 10
    assert sum(float(cell.get_attribute("data-value")) for cell in shown.all()) == pytest.approx(1, abs=1e-4)
    each.click()
    page.wait_for_selector("#own-results td.heat")


def test_the_pages_of_an_evaluation_say_what_it_does_not_have(page, evaluation, kept):
    there = serving(kept.ends, open_folders([evaluation]))
    without = "rankings without weights and rollouts; the run itself, "
    for tab, place in (("users", "#user .note"), ("own", "#content .note"), ("rollouts", "#rollouts .empty")):
        page.goto(f"{there}/#{tab}")
        page.wait_for_selector(f"{place}:has-text('{without}')")
    for tab in ("rankings", "slices"):
        page.goto(f"{there}/#{tab}")
        page.wait_for_selector(f"#{tab} tbody td:has-text('SFT'), #{tab} th:has-text('SFT')")


@pytest.mark.benchmark
def test_the_pictures_of_the_documentation_are_taken(page, kept, folders, tmp_path):
    spec = importlib.util.spec_from_file_location("shots", PROJECT / "docs" / "pictures" / "shots.py")
    shots = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shots)
    shots.explorer(kept.browser, *folders, tmp_path)
    taken = {path.stem: Image.open(path).size for path in tmp_path.iterdir()}
    assert set(taken) == {f"explore_{name}" for name in ("user", "two_runs", "own", "rollouts")}
    assert {width for width, _ in taken.values()} == {1400}


def test_a_wrong_address_and_an_ended_server_are_sentences(page, url, explored):
    page.goto(f"{url}/#users?user=nobody")
    page.wait_for_selector("text=this run did not rank user nobody")
    page.goto(f"{url}/#own?h=no-such-item")
    page.wait_for_selector("text=unknown item ids: no-such-item")


def test_a_stored_run_is_read_without_its_model(folders):
    stored = StoredRun(folders[0])
    assert [stage.name for stage in stored.phases] == ["zero_shot", "warmup", "sft", "grpo"]
    key = stored.key(stored.keys[3].user)
    assert asdict(stored.row(key))["num_candidates"] == 10
    with pytest.raises(UserError, match="it has grpo"):
        stored.stage("dpo")
