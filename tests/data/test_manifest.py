"""What a folder, a manifest or a file of prompts lists, in which order, and what is said of a wrong one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vdistill.core.errors import UserError
from vdistill.data.manifest import scan


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_a_folder_is_walked_in_order_with_captions_beside(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4", "a/z.MKV", "a.mp4", ".hidden.mp4", ".git/c.mp4", "notes.pdf", "still.png", "out/o.mp4")
    for name in ("b.txt", "a/z.txt", "a.mp4.txt"):
        (tmp_path / name).write_text(f"  caption \n of {name}\n", encoding="utf-8-sig")
    listing = scan(tmp_path, without=tmp_path / "out")
    assert [(i.key, i.caption) for i in listing.items] == [
        ("a.mp4", "caption of a.mp4.txt"),
        ("a/z.MKV", "caption of a/z.txt"),
        ("b.mp4", "caption of b.txt"),
    ]
    assert listing.ignored == {".pdf": 1, ".png": 1}
    assert [i.still for i in scan(tmp_path, images=True, caption="c", without=tmp_path / "out").items] == [0, 0, 0, 1]


def test_a_file_without_caption_is_refused_unless_one_is_given_for_all(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "a.txt").write_text(" \n")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00bad")
    refused = dict(scan(tmp_path).refused)
    assert "no caption" in refused["a.mp4"] and "not UTF-8" in refused["b.mp4"]
    assert [i.caption for i in scan(tmp_path, caption="any").items] == ["any"]


@pytest.mark.parametrize("keys", [("file_name", "text"), ("video", "caption"), ("path", "prompt"), ("file", "text")])
def test_jsonl_and_csv_say_the_same_in_their_own_order(tmp_path: Path, keys: tuple[str, str]) -> None:
    touch(tmp_path, "b.mp4", "a.mp4")
    rows = [("b.mp4", 'says, "b"'), ("a.mp4", "says ä")]
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps(dict(zip(keys, r, strict=True))) for r in rows) + "\n\n")
    (tmp_path / "m.csv").write_text(f'{keys[0]},{keys[1]}\nb.mp4,"says, ""b"""\na.mp4,says ä\n', encoding="utf-8")
    one, two = scan(tmp_path / "m.jsonl"), scan(tmp_path / "m.csv")
    assert one == two
    assert [(i.key, i.caption) for i in one.items] == rows


def test_a_manifest_beats_walking_and_a_repeated_file_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "metadata.jsonl").write_text('{"file": "a.mp4", "text": "t"}\n{"file": "./a.mp4", "text": "u"}')
    listing = scan(tmp_path)
    assert [i.key for i in listing.items] == ["a.mp4"]
    assert "listed twice" in listing.refused[0][1]
    assert listing == scan(tmp_path / "metadata.jsonl")


def test_videos_txt_and_prompts_txt_go_line_by_line(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "videos.txt").write_text("b.mp4\na.mp4\n")
    (tmp_path / "prompts.txt").write_text("of b\nof a\n")
    assert [(i.key, i.caption) for i in scan(tmp_path).items] == [("b.mp4", "of b"), ("a.mp4", "of a")]
    (tmp_path / "prompts.txt").write_text("of b\n")
    with pytest.raises(UserError, match="2 lines, prompts.txt 1"):
        scan(tmp_path)


def test_prompts_alone_come_as_text_or_as_rows_without_files(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\n\n two  words \n")
    (tmp_path / "p.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two words"}\n')
    for source in (tmp_path / "prompts.txt", tmp_path, tmp_path / "p.jsonl"):
        assert scan(source).prompts == ("one", "two words")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("m.jsonl", "{}", "m.jsonl:1: keys are none"),
        ("m.jsonl", '{"text": "t"}\n[1]', "m.jsonl:2: expected an object, found list"),
        ("m.jsonl", '{"file_name": "a"', "m.jsonl:1: not a line of JSON"),
        ("m.jsonl", "[" * 100_000, "m.jsonl:1: not a line of JSON"),
        ("m.jsonl", '{"file_name": 3, "text": "t"}', "m.jsonl:1: file_name/.*expected text, found int"),
        ("m.jsonl", '{"file_name": "a.mp4", "text": ["t"]}', "m.jsonl:1: text/.*expected text, found list"),
        ("m.jsonl", "", "no video found"),
        ("m.csv", "", "columns are none"),
        ("m.csv", "name,words\na,b\n", "columns are name, words"),
        ("m.csv", "file_name,text\n" + "x" * 200_000, "m.csv:.*not CSV"),
        ("p.txt", "\n \n", "holds no prompt"),
        ("a.mp4", "x", "expected a folder"),
    ],
)
def test_a_wrong_manifest_is_named_with_its_line(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=reason):
        scan(tmp_path / name)


def test_nothing_to_list_says_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        scan(tmp_path / "gone")
    with pytest.raises(UserError, match="no video found"):
        scan(tmp_path)
    touch(tmp_path, "a.png")
    with pytest.raises(UserError, match="1 images: --images"):
        scan(tmp_path)
    touch(tmp_path, "metadata.jsonl", "metadata.csv")
    with pytest.raises(UserError, match="both"):
        scan(tmp_path)
