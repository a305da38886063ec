"""The report page: a pure function of its data, whole without a network, honest about what is missing."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace
from pathlib import Path

import av
import pytest
import torch
from pages import Balance, payloads, words
from PIL import Image

from vdistill.app.curve_plot import Axes, linear_ticks, log_ticks, number, plot, step_ticks, svg, thinned
from vdistill.app.report import Report, Sampler, counted, duration, render, tiles, times, wilson, write_report
from vdistill.core.errors import UserError
from vdistill.data.encode import encode_mp4, png
from vdistill.data.media import to_bytes
from vdistill.worlds.shapes import Shapes

WORLD = Shapes(frames=5)
CAPTIONS = [WORLD.caption(i) for i in range(2)]
TRUE = [WORLD.clip(i) for i in range(2)]
NASTY = """<script>alert("x")</script> & 'y' $title"""


def sampler(name: str = "Teacher", nfe: int = 100, seconds: float = 2.0) -> Sampler:
    return Sampler(name, TRUE, nfe, seconds, {"accuracy": 0.5, "colour": 0.75}, {"flicker": 0.0123})


def report() -> Report:
    rows = [sampler(), sampler("Student", 4, 0.08)]
    curves = {"student/loss": [(i, 1.0 / (1 + i)) for i in range(50)]}
    return Report("Title", "Subtitle", rows, CAPTIONS, curves, {"seed": "7"}, "vdistill train x", {"speedup": 25.0})


def test_a_png_gives_back_the_very_pixels() -> None:
    shot = TRUE[0][:, 2]
    back = torch.tensor(list(Image.open(io.BytesIO(png(shot))).tobytes()), dtype=torch.uint8).view(32, 32, 3)
    assert torch.equal(back.permute(2, 0, 1), to_bytes(shot))
    assert Image.open(io.BytesIO(png(shot, scale=3))).size == (96, 96)


def test_an_mp4_gives_back_frames_times_and_nearly_the_pixels() -> None:
    data = encode_mp4(TRUE[0], fps=8, scale=4)
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        shots = list(container.decode(stream))
    assert [shot.time for shot in shots] == [i / 8 for i in range(5)]
    back = torch.stack([torch.from_numpy(shot.to_ndarray(format="rgb24")) for shot in shots])[:, 2::4, 2::4].permute(
        3, 0, 1, 2
    )
    assert (back.int() - to_bytes(TRUE[0]).int()).abs().float().mean() < 3
    assert data == encode_mp4(TRUE[0], fps=8, scale=4)


def test_an_odd_side_grows_by_one() -> None:
    with av.open(io.BytesIO(encode_mp4(torch.zeros(3, 2, 31, 33)))) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (34, 32)


def test_the_same_data_gives_the_same_page() -> None:
    assert render(report()) == render(report())


def test_every_clip_is_in_the_page_with_its_poster() -> None:
    page = render(report())
    posters, videos = payloads(page, "image/png"), payloads(page, "video/mp4")
    assert len(posters) == len(videos) == 4
    assert posters[0] == png(TRUE[0][:, 2]) and videos[0] == encode_mp4(TRUE[0], 8, 4)


def test_nothing_is_loaded_from_elsewhere_and_every_tag_is_closed() -> None:
    found = Balance(render(report()))
    assert found.open == []
    for tag, key, value in found.values:
        if key in ("src", "href", "poster", "srcset", "action", "data"):
            assert value.startswith("data:"), (tag, key, value[:80])
    assert not re.search(r"https?:|//[a-z]+\.", render(replace(report(), rows=[])))


def test_ids_are_unique_and_every_reference_finds_one() -> None:
    values = Balance(render(report())).values
    ids = [value for _, key, value in values if key == "id"]
    assert len(ids) == len(set(ids))
    assert {value for _, key, value in values if key == "aria-labelledby"} <= set(ids)


def test_all_text_is_escaped_and_dollars_stay() -> None:
    row = replace(sampler(NASTY), accuracy={NASTY: 1.0}, extra={NASTY: 1.0})
    hurt = Report(NASTY, NASTY, [row], [NASTY, NASTY], {NASTY: [(1, 1.0)]}, {NASTY: NASTY}, NASTY, {NASTY: NASTY})
    page = render(hurt)
    assert page.count("<script>") == 1 and Balance(page).open == []
    assert words(page).count(NASTY) >= 10


def test_speed_up_is_relative_to_the_first_row() -> None:
    line = re.search(r"<tr><th scope=\"row\">Speed-up</th>(.*?)</tr>", render(report()))
    assert line and re.findall(r"<td>(.*?)</td>", line[1]) == ["1×", "25×"]


def test_missing_rows_clips_and_measures_are_said() -> None:
    nothing = render(Report("T", "", [], [], {}, {}, "", {}))
    for sentence in ("No clips were made", "Nothing was measured", "No loss was recorded"):
        assert sentence in words(nothing)
    assert Balance(nothing).open == []
    short = replace(sampler("Student"), clips=TRUE[:1], seconds_per_clip=0.0, accuracy={}, extra={"flicker": math.nan})
    page = render(replace(report(), rows=[sampler(), short]))
    assert words(page).count("no clip") == 1 and "nan" not in words(page).lower()
    assert "<td>75%</td><td>–</td>" in page and "<td>0.0123</td><td>–</td>" in page


def test_headlines_show_what_is_there_and_only_that() -> None:
    found = words(tiles({"student_accuracy": 0.896, "wall_s": 512.4, "speedup": math.inf, "gap_closed": None}))
    assert "90%" in found and "8 min 32 s" in found and "faster" not in found and "gap" not in found
    assert tiles({}) == ""


def test_a_gap_that_is_not_there_is_not_called_closed() -> None:
    none = {"teacher_accuracy": 0.5, "teacher_same_cost_accuracy": 0.5, "gap_closed": 1.0}
    assert "of the gap" not in words(tiles(none))
    assert "of the gap" in words(tiles(none | {"teacher_accuracy": 0.6}))


def test_wilson_is_the_textbook_interval() -> None:
    low, high = wilson(0.5, 96)
    assert (low, high) == pytest.approx((0.4019, 0.5981), abs=1e-4)
    assert "±10 points" in counted({"clips": 96}) and counted({}) == ""


def test_a_page_is_written_whole_and_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", report())
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render(report())
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(UserError, match="cannot be written"):
        write_report(tmp_path / "absent" / "report.html", report())


def test_twenty_four_noisy_clips_stay_under_five_mebibytes() -> None:
    noise = [torch.rand(3, 17, 32, 32) * 2 - 1 for _ in range(2)]
    page = render(replace(report(), rows=[replace(sampler(), clips=noise)]))
    assert len(page) * 12 < 5 * 2**20


def test_a_power_law_is_a_straight_line_on_the_log_axis() -> None:
    drawn = re.search(r'class="line c0" d="M([^"]+)"', svg({"loss": [(i, 10.0**-i) for i in range(5)]}))
    assert drawn
    points = [tuple(map(float, pair.split())) for pair in drawn[1].split("L")]
    falls = [b[1] - a[1] for a, b in zip(points, points[1:], strict=False)]
    assert falls == pytest.approx([falls[0]] * 4, abs=0.11) and falls[0] > 0


def test_values_without_a_logarithm_are_counted_not_drawn() -> None:
    page = plot({"a/gap": [(0, 0.0), (1, -1.0), (2, math.nan), (3, 0.5)], "b": []})
    assert "3 values" in page and page.count('class="line c0"') == 2
    assert "No loss" in plot({"a": [(0, -1.0)]})


def test_thinning_keeps_short_curves_and_takes_medians_of_long_ones() -> None:
    assert thinned([(0, 3.0), (1, 2.0)]) == [(0, 3.0), (1, 2.0)]
    assert thinned([(i, float(i % 3)) for i in range(480)]) == [(3 * i + 1, 1.0) for i in range(160)]


@pytest.mark.parametrize("low, high", [(0.9, 1.1), (0.01, 1.0), (1e-9, 1e9), (0.3, 0.35), (4e-5, 0.7)])
def test_ticks_lie_inside_and_are_few(low: float, high: float) -> None:
    found = log_ticks(low, high)
    assert len(found) <= 7 and all(low <= tick <= high for tick in found)


@pytest.mark.parametrize("first, last", [(0, 1), (1, 600), (0, 123456), (590, 600)])
def test_step_ticks_are_whole_and_few(first: int, last: int) -> None:
    found = step_ticks(first, last)
    assert 1 <= len(found) <= 8 and all(first <= tick <= last for tick in found)


def test_numbers_read_as_a_person_writes_them() -> None:
    assert [number(v) for v in (0.0741, 1.84, 100.0, 12345.0, 1e-4, 2.5e7, 0.0, math.nan)] == [
        "0.0741", "1.84", "100", "12345", "1e-4", "2.5e7", "0", "–",
    ]  # fmt: skip
    assert [duration(v) for v in (9.6, 61, 3700)] == ["10 s", "1 min 1 s", "1 h 1 min"]
    assert [times(v) for v in (1.0, 0.934, 24.8, math.nan)] == ["1×", "0.93×", "25×", "–"]


def heights(drawn: str) -> list[float]:
    found = re.search(r'class="line c0" d="M([^"]+)"', drawn)
    assert found
    return [float(pair.split()[1]) for pair in found[1].removesuffix("h.1").split("L")]


def test_a_linear_axis_draws_zero_and_a_line_straight_between_its_bounds() -> None:
    shares = Axes(log=False, low=0.0, high=1.0)
    assert heights(svg({"share": [(0.5, 0.0), (30.0, 0.5), (59.5, 1.0)]}, shares)) == [292.0, 163.0, 34.0]


def test_a_linear_axis_grows_for_what_is_outside_its_bounds() -> None:
    ratios = Axes(log=False, low=0.0, high=1.5)
    assert all(34 < y < 292 for y in heights(svg({"ratio": [(0.0, -1.0), (1.0, 3.0)]}, ratios)))


@pytest.mark.parametrize("value", [0.0, 7.5, -2.0])
def test_a_flat_line_has_a_place_on_a_linear_axis(value: float) -> None:
    found = heights(svg({"flat": [(0.0, value), (9.5, value)]}, Axes(log=False)))
    assert found[0] == found[1] and 34 <= found[0] <= 292


def test_axes_say_what_they_measure_in_escaped_text() -> None:
    axes = Axes(x=NASTY, y=NASTY, title=NASTY, nothing=NASTY, one=NASTY, log=False, points=2, say=lambda v: f"{v}!")
    page = plot({"a": [(i, 1.0) for i in range(9)]}, axes) + plot({}, axes)
    assert "<script" not in page and words(page).count(NASTY) == 4 and "last 1.0!" in words(page)


def test_only_what_is_not_finite_is_left_out_of_a_linear_axis() -> None:
    page = plot({"a": [(0, 0.0), (1, -1.0), (2, math.nan), (math.inf, 1.0)]}, Axes(log=False))
    assert "2 values that are not finite" in words(page) and len(heights(page)) == 2


def test_a_marked_value_is_drawn_only_where_the_axis_has_it() -> None:
    mark = Axes(log=False, low=0.0, high=2.0, mark=1.0)
    assert 'class="mark"' in svg({"a": [(0, 1.5)]}, mark)
    assert 'class="mark"' not in svg({"a": [(0, 1.5)]}, replace(mark, mark=3.0))


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (0.0, 612.7), (-3.0, 0.1), (0.97, 1.04), (0.0, 4e-4)])
def test_linear_ticks_lie_inside_are_few_and_evenly_apart(low: float, high: float) -> None:
    found = linear_ticks(low, high)
    assert 3 <= len(found) <= 7 and all(low <= tick <= high for tick in found)
    steps = [b - a for a, b in zip(found, found[1:], strict=False)]
    assert steps == pytest.approx([steps[0]] * len(steps))
