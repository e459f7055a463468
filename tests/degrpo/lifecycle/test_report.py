"""degrpo.lifecycle.report: true to the log, self-contained, and safe whatever a model says."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import av
import numpy as np
import pytest

from common.errors import CheckpointError
from degrpo.lifecycle import queries
from degrpo.lifecycle.report import collect, render, write_report
from degrpo.lifecycle.rollout_log import RolloutLog
from degrpo.lifecycle.thumbnails import Photographer


class Page(HTMLParser):
    """Elements and the texts of scripts, as a browser would see them."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.titles, self._inside = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] += data
        if self._inside == "title":
            self.titles.append(data)

    @property
    def data(self):
        return json.loads(self.scripts[0])


@pytest.fixture(scope="session")
def page(synthetic_run):
    return Page(write_report(synthetic_run).read_text(encoding="utf-8"))


def test_the_synthetic_run_has_every_kind_of_event(synthetic_run):
    assert all(queries.event_counts(synthetic_run).values())
    assert queries.audit(synthetic_run) == []


def test_the_report_lies_in_the_run(synthetic_run, page):
    assert (synthetic_run / "lifecycle.html").exists()
    assert not (synthetic_run / "lifecycle.tmp").exists()


def test_nothing_is_loaded_from_elsewhere(synthetic_run, page):
    links = [a[key] for _, a in page.elements for key in ("src", "href", "action") if key in a]
    assert links == ["data:,"]
    text = (synthetic_run / "lifecycle.html").read_text(encoding="utf-8")
    # The one address is the name of the SVG namespace, which nobody fetches.
    assert set(re.findall(r"(?:https?:)?//\w[\w.]*\.\w+[^\"'\s]*", text)) == {
        "http://www.w3.org/2000/svg"
    }
    assert "@import" not in text
    assert not re.search(r"url\((?!#hatch)", text)


def test_the_policy_admits_the_one_script(page):
    policy = next(
        a["content"] for tag, a in page.elements if "Content-Security-Policy" in a.values()
    )
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_what_models_say_stays_text(synthetic_run, page):
    hostile = "</script><script>document.title='broken in'</script><img src=x onerror=alert(1)>"
    responses = {s[k]["text"] for s in page.data["samples"] for k in ("best", "worst") if k in s}
    assert hostile in responses
    assert [a.get("type") for tag, a in page.elements if tag == "script"] == [
        "application/json",
        None,
    ]
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert "innerHTML" not in page.scripts[1]
    assert "<script" not in page.scripts[0]


def test_the_runs_name_stays_text(pruning_run):
    with (pruning_run / "config.yaml").open("a") as file:
        file.write("name: '<b>{{ data }}</b>'\n")
    parsed = Page(render(collect(pruning_run)))
    assert parsed.titles[0] == "<b>{{ data }}</b> · lifecycle report"
    assert "b" not in [tag for tag, _ in parsed.elements]


def test_numbers_are_the_logs(pruning_run):
    data = collect(pruning_run)
    assert data["rewards"][0] == [0, 0.375, 0.1875, 0.4375]
    # discover, active, decayed, cooldown, removed
    assert data["states"][1] == [1, 2, 0, 1, 1, 0]
    assert data["compute"]["visits"] == 17
    assert data["compute"]["response_tokens"] == 18 * 20
    assert data["compute"]["visits_saved"] == pytest.approx(0.5 - 0.5)
    assert data["limits"] == {"remove": 0.2, "keep": 0.8}
    assert data["threshold"] == 0.1
    assert data["audit"] == []
    by_id = {sample["id"]: sample for sample in data["samples"]}
    assert [sample["id"] for sample in data["samples"]] == ["b", "a", "c", "d"]
    assert by_id["b"]["curve"][1] == (1, 0.25, 0.15)
    cooled = [event for event in by_id["b"]["events"] if event[1] == "cooled"]
    assert cooled == [[1, "cooled", 1, "state 0.15 <= 0.20", "", None, None, None, []]]


def test_best_and_worst_response_and_the_answers(pruning_run):
    log = RolloutLog(pruning_run / "rollouts")
    rows = [
        (0, "before", "hm", 0.1), (0, "train", "bad", 0.2), (1, "train", "good", 0.9),
        (1, "train", "fair", 0.5), (1, "train", "unscored", None), (9, "after", "great", 0.95),
    ]  # fmt: skip
    for step, phase, text, reward in rows:
        log.append(
            step=step, policy_version=0, sample_id="a", index=0, prompt="?", response=text,
            reward=reward, parts={}, log_prob_sum=0.0, tokens=1, stop_reason="end", phase=phase,
        )  # fmt: skip
    log.commit(9)
    sample = next(s for s in collect(pruning_run)["samples"] if s["id"] == "a")
    assert sample["best"] == {"text": "good", "reward": 0.9, "step": 1}
    assert sample["worst"] == {"text": "bad", "reward": 0.2, "step": 0}
    assert sample["before"]["text"] == "hm"
    assert sample["after"]["text"] == "great"


def test_a_bare_log_is_enough(story):
    story.visit(0, "a")
    story.commit(0)
    shutil.rmtree(story.run_dir / "rollouts", ignore_errors=True)
    data = Page(write_report(story.run_dir).read_text(encoding="utf-8")).data
    assert [sample["id"] for sample in data["samples"]] == ["a"]
    assert data["evaluation"] is None
    assert data["clips"] == {}


def test_no_log_no_report(tmp_path):
    with pytest.raises(CheckpointError, match="without events"):
        write_report(tmp_path)


def test_an_incomplete_log_says_so(story):
    story.event(0, "a", "proposed")
    story.commit(0)
    assert "step 0, sample a: proposed instead of" in collect(story.run_dir)["audit"][0]


def test_facts_evaluation_and_the_held_out_sample(page):
    facts = dict(page.data["facts"])
    assert facts["Run"] == "synthetic-1"
    assert facts["Steps"] == "24 of 24"
    assert facts["Samples"] == "16"
    assert facts["Commit"] == "0123456789ab"
    assert page.data["evaluation"]["rows"][0] == {"label": "RL pool", "before": 0.31, "after": 0.58}
    (held_out,) = page.data["held_out"]
    assert held_out["before"]["reward"] == 0.4
    assert "time/generate" in {metric["name"] for metric in page.data["metrics"]}


def write_video(path, frames):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.height, stream.width = frames.shape[1:3]
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def test_pictures_of_a_clip(tmp_path):
    frames = np.zeros((8, 96, 160, 3), np.uint8)
    frames[:, :, :80] = (200, 30, 30)
    write_video(tmp_path / "clip.mp4", frames)
    pictures = Photographer().pictures(str(tmp_path / "clip.mp4"))
    assert len(pictures.strip) == 4
    sizes = [jpeg_size(url) for url in (pictures.face, pictures.strip[0])]
    assert sizes == [(144, 144), (200, 120)]


def jpeg_size(url):
    import io

    from PIL import Image

    kind, _, content = url.partition(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(content))).size


def test_a_missing_clip_costs_only_its_picture(tmp_path, caplog):
    assert Photographer().pictures(str(tmp_path / "gone.mp4")) is None
    assert "gone.mp4" in caplog.text


def test_neither_torch_nor_ray_is_imported(pruning_run):
    code = (
        "import sys; from degrpo.lifecycle.report import write_report\n"
        f"write_report({str(pruning_run)!r})\n"
        "print([m for m in ('torch', 'ray', 'vllm', 'deepspeed') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a chromium to open the page")
def test_a_browser_shows_it_without_complaint(synthetic_run, page, tmp_path):
    done = subprocess.run(
        [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={tmp_path}", "--enable-logging=stderr",
            "--virtual-time-budget=3000", "--dump-dom",
            (synthetic_run / "lifecycle.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    shown = Page(done.stdout)
    assert shown.titles[0] == "synthetic · lifecycle report"
    tables = [a for tag, a in shown.elements if tag == "tbody" and "sample-" in a.get("id", "")]
    assert len(tables) == 16
    assert not [a for tag, a in shown.elements if tag == "img" and "onerror" in a]
    points = [a for tag, a in shown.elements if tag == "circle" and "point" in a.get("class", "")]
    assert len(points) == len(
        [s for s in queries.sample_summaries(synthetic_run) if s.utility is not None]
    )
