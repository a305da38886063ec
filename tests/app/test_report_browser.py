"""The report page in a real browser: posters show, clips decode and play, buttons work, no network is asked."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

import pytest
from pages import BROWSER, WATCH, browse

from vdistill.app.report import Report, Sampler, write_report
from vdistill.worlds.shapes import Shapes

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: the page was not opened")

PROBE = (
    f"<script>{WATCH}"
    + """
const load = src => new Promise(go => {
  const image = new Image();
  image.onload = () => go(image.naturalWidth);
  image.onerror = () => go(0);
  image.src = src;
});
addEventListener("load", async () => {
  const videos = [...document.querySelectorAll("video")], button = document.getElementById("all"), seen = {};
  const clip = videos[0].parentElement, pressed = () => document.querySelectorAll(".clip[aria-pressed=true]").length;
  seen.posters = await Promise.all(videos.map(v => load(v.poster)));
  seen.stillAtFirst = videos.every(v => v.paused && v.currentTime === 0);
  seen.boxes = videos.map(v => { const b = v.getBoundingClientRect(); return [b.width, b.height]; });
  clip.focus(); seen.focused = document.activeElement === clip;
  clip.click();
  await until(() => videos[0].currentTime > 0);
  seen.oneWhilePressed = [pressed(), videos[0].currentTime > 0, videos.slice(1).every(v => v.paused)];
  seen.saidWhilePressed = clip.getAttribute("aria-label");
  clip.click();
  await until(() => videos[0].paused);
  seen.oneAfter = [pressed(), videos[0].paused];
  clip.dispatchEvent(new PointerEvent("pointerenter", { pointerType: "mouse" }));
  await until(() => videos[0].currentTime > 0);
  seen.hovered = !videos[0].paused && pressed() === 0;
  clip.dispatchEvent(new PointerEvent("pointerleave", { pointerType: "mouse" }));
  button.click();
  const canvas = document.createElement("canvas"); canvas.width = canvas.height = 1;
  const ink = canvas.getContext("2d");
  seen.moving = videos.map(() => false);
  await until(() => {  // each in its moment: one that begins anew is at 0, and not ready, for longer on a busy machine
    videos.forEach((v, i) => {
      if (v.readyState < 2 || v.currentTime === 0 || v.paused || v.error !== null) return;
      if (i === 0) ink.drawImage(v, 0, 0, 1, 1, 0, 0, 1, 1);
      seen.moving[i] = true;
    });
    return seen.moving.every(Boolean);
  });
  seen.together = videos.every(v => !v.paused);
  seen.size = [videos[0].videoWidth, videos[0].videoHeight, Math.round(videos[0].duration * 100) / 100];
  seen.corner = [...ink.getImageData(0, 0, 1, 1).data].slice(0, 3);
  seen.buttonOn = [button.textContent, button.getAttribute("aria-pressed"), pressed()];
  button.click();
  await until(() => videos.every(v => v.paused));
  seen.buttonOff = [button.textContent, button.getAttribute("aria-pressed"), pressed()];
  const copy = document.getElementById("copy"), before = copy.textContent;
  copy.click();
  await until(() => copy.textContent !== before);
  seen.copy = [before, copy.textContent];
  seen.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  seen.requests = performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:"));
  seen.faults = [...faults];
  const stranger = new Image();
  stranger.src = "http://127.0.0.1:9/stranger.png";
  await until(() => faults.length > seen.faults.length);
  seen.stranger = faults.slice(seen.faults.length);
  document.documentElement.dataset.seen = JSON.stringify(seen);
});
</script>
"""
)


def sample() -> Report:
    world = Shapes(frames=9)
    clips = [world.clip(i) for i in range(2)]
    rows = [
        Sampler("Teacher, 50 steps", clips, 100, 1.9, {"accuracy": 0.9, "colour": 1.0}, {"flicker": 0.01}),
        Sampler("Student, 4 steps", clips, 4, 0.08, {"accuracy": 0.85, "colour": 1.0}, {"flicker": 0.02}),
    ]
    curves = {"student/loss": [(i, 1 / (1 + i)) for i in range(100)]}
    summary = {"student_accuracy": 0.85, "teacher_accuracy": 0.9, "speedup": 23.8, "clips": 96}
    captions = [world.caption(i) for i in range(2)]
    return Report("A student", "Faster", rows, captions, curves, {"seed": "0"}, "vdistill train x --out y", summary)


@pytest.fixture(scope="module", params=["1280,900", "500,900"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What the probe saw and the browser's log, at one window size."""
    folder = tmp_path_factory.mktemp("report")
    write_report(folder / "report.html", sample())
    text = (folder / "report.html").read_text(encoding="utf-8")
    (folder / "probed.html").write_text(text.replace("<style>", PROBE + "<style>", 1), encoding="utf-8")
    flags = (f"--window-size={request.param}", "--virtual-time-budget=900000", "--dump-dom")
    document, log = browse(folder / "probed.html", folder / "profile", *flags)
    found = re.search(r'data-seen="([^"]*)"', document)
    assert found, log[-2000:]
    return json.loads(unescape(found[1])), log


Opened = tuple[dict[str, Any], str]


def test_posters_show_before_anything_plays(opened: Opened) -> None:
    seen = opened[0]
    assert seen["posters"] == [32] * 4 and seen["stillAtFirst"]
    assert all(width == pytest.approx(height) and width > 60 for width, height in seen["boxes"])


def test_play_all_decodes_and_moves_every_clip_and_stops_it_again(opened: Opened) -> None:
    seen = opened[0]
    assert seen["moving"] == [True] * 4 and seen["together"]
    assert seen["size"] == [128, 128, pytest.approx(9 / 8, abs=0.02)]
    assert seen["buttonOn"] == ["Stop all", "true", 4] and seen["buttonOff"] == ["Play all", "false", 0]


def test_the_decoded_background_has_the_colour_of_the_world(opened: Opened) -> None:
    assert opened[0]["corner"] == pytest.approx([26, 26, 36], abs=4)


def test_a_clip_plays_alone_by_press_and_by_pointer(opened: Opened) -> None:
    seen = opened[0]
    assert seen["focused"] and seen["oneWhilePressed"] == [1, True, True] and seen["oneAfter"] == [0, True]
    assert seen["saidWhilePressed"].startswith("Stop: ") and seen["hovered"]


def test_the_copy_button_answers(opened: Opened) -> None:
    assert opened[0]["copy"] in (["Copy", "Copied"], ["Copy", "Press Ctrl+C"])


def test_nothing_sticks_out_sideways(opened: Opened) -> None:
    assert opened[0]["overflow"] == 0


def test_no_errors_and_no_requests(opened: Opened) -> None:
    seen, log = opened
    assert seen["faults"] == [] and seen["requests"] == []
    said = [line for line in log.splitlines() if "CONSOLE" in line]
    assert all("127.0.0.1:9/stranger.png" in line for line in said), said


def test_the_page_refuses_to_load_from_elsewhere(opened: Opened) -> None:
    assert "refused http://127.0.0.1:9/stranger.png" in opened[0]["stranger"]
