"""The page of a streamed demo: whole without a network, honest about what is missing, and it plays in a browser."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import BROWSER, WATCH, Balance, browse, payloads, words

from vdistill.app.report import Sampler
from vdistill.app.stream_report import (
    StreamReport,
    Way,
    milliseconds,
    prompt_at,
    prompts,
    render,
    table,
    tiles,
    write_stream_report,
)
from vdistill.core.errors import UserError
from vdistill.data.encode import encode_mp4, png
from vdistill.worlds.shapes import Shapes

WORLD = Shapes(frames=16)
CAPTIONS = [WORLD.caption(i) for i in range(2)]
TRUE = [WORLD.clip(i) for i in range(2)]
STREAM = torch.cat(TRUE, 1)  # 4 s at 8 frames a second
VIDEO = encode_mp4(STREAM, 8, 4)
NASTY = """<script>alert("x")</script> & 'y' $title"""


def report() -> StreamReport:
    return StreamReport(
        title="A stream",
        subtitle="Four seconds",
        video=VIDEO,
        poster=STREAM[:, 0],
        prompts=[(0.0, CAPTIONS[0]), (2.0, CAPTIONS[1])],
        strip=[(0.5 * i, STREAM[:, 4 * i]) for i in range(8)],
        ways=[Way("Teacher", 100, {"first": 0.95}), Way("Student", 4, {"first": 0.9, "last": 0.0})],
        samplers=[Sampler("Teacher", TRUE, 100, 1.0, {}, {}), Sampler("Student", TRUE, 4, 0.1, {}, {})],
        captions=CAPTIONS,
        accuracy={"student": [(0.5, 1.0), (3.5, 0.5)]},
        drift={"brightness": [(0.5, 1.0), (3.5, 1.1)]},
        latency=[(0.375 * i, 40.0 + i) for i in range(10)],
        memory={"process": [(0.0, 600.0), (3.0, 601.0)], "remembered": [(0.0, 0.0), (3.0, 2.5)]},
        facts={"seed": "7"},
        command_to_continue="vdistill train x",
        summary={"accuracy_first_5s": 0.92, "seconds": 4.0},
    )


def empty() -> StreamReport:
    nothing: dict[str, Any] = dict.fromkeys(("accuracy", "drift", "memory", "facts", "summary"), {})
    nothing |= dict.fromkeys(("prompts", "strip", "ways", "samplers", "captions", "latency"), [])
    return replace(report(), video=b"", command_to_continue="", **nothing)


@pytest.mark.parametrize("made", [report(), empty()], ids=["whole", "empty"])
def test_every_tag_is_closed_ids_are_unique_and_nothing_is_loaded_from_elsewhere(made: StreamReport) -> None:
    page = render(made)
    found = Balance(page)
    assert found.open == []
    for tag, key, value in found.values:
        if key in ("src", "href", "poster", "srcset", "action", "data"):
            assert value.startswith("data:"), (tag, key, value[:80])
    assert not re.search(r"https?:|//[a-z]+\.", re.sub(r"base64,[^\"]+", "", page))
    ids = [value for _, key, value in found.values if key == "id"]
    assert len(ids) == len(set(ids))
    assert {value for _, key, value in found.values if key == "aria-labelledby"} <= set(ids)


def test_the_same_data_gives_the_same_page() -> None:
    assert render(report()) == render(report())


def test_the_video_its_poster_and_every_still_are_in_the_page() -> None:
    page = render(report())
    assert payloads(page, "video/mp4")[0] == VIDEO
    images = payloads(page, "image/png")
    assert images[0] == png(STREAM[:, 0]) and images[1:9] == [png(STREAM[:, 4 * i]) for i in range(8)]
    assert f'alt="Frame at 2.5 s: {CAPTIONS[1]}"' in page and page.count('class="seek"') == 8


def test_all_text_is_escaped_and_dollars_stay() -> None:
    curve = {NASTY: [(0.0, 0.5), (1.0, 1.0)]}
    hurt = StreamReport(
        NASTY, NASTY, VIDEO, STREAM[:, 0], [(0.0, NASTY)], [(0.0, STREAM[:, 0])], [Way(NASTY, 4, {NASTY: 0.5})],
        [Sampler(NASTY, TRUE, 4, 1.0, {}, {})], [NASTY], curve, curve, [(0.0, 1.0)], curve, {NASTY: NASTY}, NASTY,
        {NASTY: NASTY},
    )  # fmt: skip
    page = render(hurt)
    assert 'alert("x")' not in page and "<script>alert" not in page and page.count("<script>") == 1
    assert Balance(page).open == [] and words(page).count(NASTY) == 15
    assert unescape(page).count("$title") > 15


def test_what_is_missing_is_said_in_one_sentence_each() -> None:
    page = words(render(empty()))
    for sentence in (
        "No video of the stream was made.", "It had no prompt.", "No stills were kept.", "No clips were made.",
        "Nothing was measured.", "Accuracy: nothing was measured.", "Drift: nothing was measured.",
        "Time a block takes: nothing was measured.", "Memory: nothing was measured.",
    ):  # fmt: skip
        assert page.count(sentence) == 1, sentence
    assert "Press a still" not in page and "nan" not in page.lower() and "None" not in page


def test_without_a_video_the_stills_are_no_buttons() -> None:
    page = render(replace(report(), video=b""))
    assert '<button type="button" class="seek"' not in page and page.count('<li class="seek">') == 8
    assert Balance(page).open == []


def test_headlines_show_what_is_there_and_only_that() -> None:
    whole = {
        "accuracy_first_5s": 0.92, "accuracy_last_5s": 0.0, "seconds": 60.0, "teacher_accuracy": 0.95,
        "init_only_accuracy_last_5s": 0.31, "first_frame_ms": 104.2, "fps": 71.34, "native_fps": 8,
        "cached_speedup": 5.4, "peak_rss_gib": 0.61,
    }  # fmt: skip
    said = re.sub(r"\s+", " ", words(tiles(whole)))
    for each in (
        "right in the first 5 s every attribute, of things never trained on 92%", "right in the last 5 s of 60 s", "0%",
        "without Self-Forcing", "31%", "104 ms", "frames a second plays at 8 71.3", "cheaper than computing the whole "
        "past again 5.4×", "0.6 GiB",
    ):  # fmt: skip
        assert each in said, each
    assert tiles(whole).count('class="tile main"') == 1 and tiles({"fps": math.nan, "seconds": 60.0}) == ""
    assert "of 60" not in tiles({"accuracy_last_5s": 0.5}) and "plays at" not in tiles({"fps": 70.0})


def test_only_the_first_tile_is_ever_the_main_one() -> None:
    assert 'class="tile main"' not in tiles({"accuracy_last_5s": 0.5, "fps": 70.0})


def test_ways_stand_side_by_side_and_a_hole_is_a_dash() -> None:
    ways = table(report().ways)
    assert '<th scope="row">Network passes a block</th><td>100</td><td>4</td>' in ways
    assert '<th scope="row">first</th><td>95%</td><td>90%</td>' in ways
    assert '<th scope="row">last</th><td>–</td><td>0%</td>' in ways


def test_the_prompt_of_a_second_is_the_last_one_told() -> None:
    told = [(15.0, "b"), (0.5, "a")]
    assert [prompt_at(second, told) for second in (0.0, 0.5, 14.9, 15.0, 60.0)] == ["", "a", "a", "b", "b"]
    assert words(prompts(told)).split() == ["0.5", "s", "a", "15", "s", "b"]


def test_every_memory_has_a_chart_of_its_own_and_all_charts_share_their_seconds() -> None:
    page = render(report())
    assert page.count('class="panel"><h3>') == 5 and "Memory: remembered by second, MiB" in page
    assert page.count('y="311" text-anchor="middle">4</text>') == 5


def test_a_slow_first_frame_is_told_in_seconds() -> None:
    assert [milliseconds(v) for v in (3.6, 999.0, 1500.0)] == ["4 ms", "999 ms", "1.5 s"]


def test_a_page_is_written_whole_and_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    write_stream_report(tmp_path / "report.html", report())
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render(report())
    with pytest.raises(UserError, match="cannot be written"):
        write_stream_report(tmp_path / "absent" / "report.html", report())


PROBE = (
    f"<script>{WATCH}"
    + """
addEventListener("load", async () => {
  const video = document.getElementById("player"), seeks = [...document.querySelectorAll("button.seek")], seen = {};
  const held = () => [...document.querySelectorAll(".prompts li")].map(li => li.getAttribute("aria-current"));
  const box = video.getBoundingClientRect();
  await until(() => video.readyState >= 1);
  seen.size = [video.videoWidth, video.videoHeight, video.duration, box.width / box.height, video.controls];
  seen.before = [video.paused, held()];
  await video.play();
  await until(() => video.currentTime > 0 && video.readyState >= 2);
  seen.playing = video.currentTime > 0 && !video.paused && video.error === null;
  video.pause();
  seeks[5].click();
  await until(() => held()[1] === "true" && !video.seeking);
  seen.sought = [video.currentTime, held()];
  const canvas = document.createElement("canvas"); canvas.width = canvas.height = 1;
  const ink = canvas.getContext("2d"); ink.drawImage(video, 0, 0, 1, 1, 0, 0, 1, 1);
  seen.corner = [...ink.getImageData(0, 0, 1, 1).data].slice(0, 3);
  document.getElementById("all").click();
  await until(() => [...document.querySelectorAll(".clip video")].every(v => v.currentTime > 0));
  seen.clips = document.querySelectorAll(".clip[aria-pressed=true]").length;
  seen.playerStays = video.paused;
  seen.stills = [...document.querySelectorAll(".strip img")].map(i => i.complete && i.naturalWidth);
  seen.wide = [innerWidth, document.documentElement.scrollWidth - document.documentElement.clientWidth];
  seen.requests = performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:"));
  seen.faults = faults;
  parent.postMessage(JSON.stringify(seen), "*");
});
</script>
"""
)
FRAME = """<!doctype html><body style="margin:0"><script>
addEventListener("message", e => { document.documentElement.dataset.seen = e.data; });
</script><iframe src="probed.html" style="border:0;width:WIDTHpx;height:900px"></iframe>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: the page was not opened")
@pytest.mark.parametrize("width", [320, 1280])
def test_in_a_browser_the_stream_plays_and_is_sought_and_nothing_sticks_out(width: int, tmp_path: Path) -> None:
    probed = render(report()).replace("<style>", PROBE + "<style>", 1)
    (tmp_path / "probed.html").write_text(probed, encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    flags = ("--window-size=1300,900", "--virtual-time-budget=900000", "--dump-dom")
    document, log = browse(tmp_path / "frame.html", tmp_path / "profile", *flags)
    found = re.search(r'data-seen="([^"]*)"', document)
    assert found, log[-2000:]
    seen = json.loads(unescape(found[1]))
    assert seen["size"] == [128, 128, pytest.approx(4, abs=0.02), pytest.approx(1), True]
    assert seen["before"] == [True, ["true", "false"]] and seen["playing"]
    assert seen["sought"] == [2.5, ["false", "true"]]
    assert seen["corner"] == pytest.approx([26, 26, 36], abs=6)
    assert seen["clips"] == 4 and seen["playerStays"] and seen["stills"] == [32] * 8
    assert seen["wide"] == [width, 0]
    assert seen["requests"] == [] and seen["faults"] == []
    assert "CONSOLE" not in log, log[-2000:]
