"""The overview as the page of a shift: comments, trends, what is watched, a thousand runs."""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from launch import call_xfelmpi

from xfelmpi.core.errors import OutputError
from xfelmpi.core.paths import WatchFiles
from xfelmpi.output.watch_state import DONE, RUNNING, WatchedJob, WatchState, write_state
from xfelmpi.report import overview
from xfelmpi.report.comments import Comment, add_comment, read_comments
from xfelmpi.report.overview import RunStatus, overview_page

pytestmark = pytest.mark.job


def status(run, **changes):
    values = {"status": "0", "time": f"2024-05-01T{run // 60 % 24:02}:{run % 60:02}:00+00:00"}
    values |= {"frames": 1000, "hits": run, "hit_rate": 0.1, "sample": "ferritin"}
    return RunStatus(run, **{**values, **changes})


def text_of(page, run):
    (row,) = re.findall(rf'<tr><td class="" data-name="run" data-value="{run}".*?</tr>', page)
    return re.sub(r"<[^>]+>", " ", row)


def test_comments_are_shown_with_their_run(tmp_path):
    (tmp_path / "raw" / "r0052").mkdir(parents=True)
    report = tmp_path / "scratch" / "report"
    report.mkdir(parents=True)
    (report / "r0052.json").write_text(json.dumps(vars(status(52))))
    for words in (["nozzle", "clogged"], ["<b>new</b> sample"]):
        done = call_xfelmpi(["comment", "52", *words, "--prefix", tmp_path])
        assert done.returncode == 0, done.stderr
    row = text_of((report / "index.html").read_text(), 52)
    assert "nozzle clogged" in row
    assert "&lt;b&gt;new&lt;/b&gt; sample" in row
    assert [c.text for c in read_comments(report)[52]] == ["nozzle clogged", "<b>new</b> sample"]


def test_comment_on_a_run_that_is_not_there(tmp_path):
    done = call_xfelmpi(["comment", "520", "nozzle clogged", "--prefix", tmp_path])
    assert done.returncode == 2
    assert "no run 520" in done.stderr
    assert not (tmp_path / "scratch").exists()


def test_comments_of_several_people_at_once(tmp_path):
    with ThreadPoolExecutor(8) as people:
        list(people.map(lambda n: add_comment(tmp_path, 50, f"number {n}"), range(80)))
    said = [c.text for c in read_comments(tmp_path)[50]]
    assert sorted(said) == sorted(f"number {n}" for n in range(80))


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_comments_go_into_files_of_the_folder_only(kind, tmp_path):
    path = tmp_path / "report" / "comments" / "r0050.jsonl"
    path.parent.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        (tmp_path / "precious").write_text("precious")
        path.symlink_to(tmp_path / "precious")
    with pytest.raises(OutputError, match=r"r0050\.jsonl: .*not a regular file"):
        add_comment(tmp_path / "report", 50, "good")
    assert kind == "pipe" or (tmp_path / "precious").read_text() == "precious"


def test_damaged_comments_are_left_out(tmp_path):
    add_comment(tmp_path, 50, "good")
    with open(tmp_path / "comments" / "r0050.jsonl", "ab") as file:
        file.write(b'\xff\xfe\n[]\n{"text": 3}\n{"half')
    (tmp_path / "comments" / "notes.txt").write_text("no")
    assert [c.text for c in read_comments(tmp_path)[50]] == ["good", "3"]


def test_labels_say_what_the_status_means():
    runs = [status(1), status(2, status="3", message="2 problems"), status(3, status="failed")]
    runs.append(status(4, status="followed", message="3 sequences so far"))
    page = overview_page(runs)
    badges = re.findall(r'<span class="badge (\w*)">([^<]*)</span>', page)
    assert badges == [
        ("", "complete"),
        ("look", "complete, 2 problems"),
        ("bad", "failed"),
        ("look", "being written, 3 sequences so far"),
    ]
    assert "status 3" not in page


def test_trends_of_numbers_that_are_known():
    runs = [status(n, brightest_100=1e4 + n, background=40.0, pulse_energy=1e-3) for n in range(5)]
    runs.append(status(9, hit_rate=None, brightest_100=float("nan")))
    page = overview_page(runs)
    titles = re.findall(r'aria-label="([^"]*)"', page)
    assert titles == ["Hit rate", "100 brightest hits", "Pulse energy", "Background"]
    assert ">nan<" not in page
    assert '"nan"' not in page
    assert '<section class="trends">' not in overview_page(runs[:1])


def test_jobs_and_waiting_runs_are_shown_while_watch_runs(tmp_path):
    files = WatchFiles(tmp_path)
    state = WatchState()
    state.change(50, state=DONE)
    state.change(51, state=RUNNING, about="running (job 7)", job=WatchedJob("r0051-1"))
    state.change(52, about="waiting for 3 modules of <sequence> 7")
    write_state(files.state, state)
    (tmp_path / "report").mkdir()
    index = tmp_path / "report" / "index.html"
    overview.rebuild(index)
    page = index.read_text()
    assert "nobody watches; 1 job, 1 run waiting" in page
    assert "run 51: running (job 7)" in page
    assert "run 52: waiting for 3 modules of &lt;sequence&gt; 7" in page
    assert "data-refresh" not in page
    files.lock.parent.mkdir()
    files.lock.touch()
    overview.rebuild(index)
    assert 'data-refresh="30"' in index.read_text()
    files.state.write_text("{")
    overview.rebuild(index)
    assert "run 51" not in index.read_text()


def test_comment_on_a_run_without_outputs_is_shown_too():
    page = overview_page([status(50)], {51: [Comment("shutter closed", "me", "2024-05-01")]})
    assert "run 51: shutter closed" in page
