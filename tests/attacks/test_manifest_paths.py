"""A manifest names files under its own folder, or nothing: every way out is refused by name, unopened."""

from __future__ import annotations

import csv
import json
import os
import socket
from pathlib import Path

import pytest

from vdistill.core.errors import BadMedia
from vdistill.data import paths
from vdistill.data.manifest import scan

NAMES = {  # what a manifest says -> a piece of the reason
    "": "names no file",
    "   ": "names no file",
    "../outside.mp4": "by ..",
    "sub/../../outside.mp4": "by ..",
    "sub/..": "by ..",
    "..\\outside.mp4": "by ..",
    "/etc/passwd": "absolute",
    "//server/share/a.mp4": "absolute",
    "\\\\server\\share\\a.mp4": "absolute",
    "C:\\a.mp4": "URL, protocol or drive",
    "file:///etc/passwd": "URL, protocol or drive",
    "file:a.mp4": "URL, protocol or drive",
    "http://example.com/a.mp4": "URL, protocol or drive",
    "pipe:cat /etc/passwd": "URL, protocol or drive",
    "pipe:0": "URL, protocol or drive",
    "concat:a.mp4|b.mp4": "URL, protocol or drive",
    "subfile,,start,0,end,9,,:a.mp4": "URL, protocol or drive",
    "a.mp4\0.txt": "NUL",
    "missing.mp4": "no such file",
    "a.mp4/b.mp4": "cannot be looked up",
    "x" * 5000 + ".mp4": "cannot be looked up",
    "\ud800.mp4": "cannot be looked up",
    "link_out.mp4": "link out",
    "linked_folder/outside.mp4": "link out",
    "link_up/outside.mp4": "link out",
    "loop.mp4": "cannot be looked up",
    "dangling.mp4": "no such file",
    "to_device.mp4": "link out",
    "fifo.mp4": "named pipe",
    "socket.mp4": "socket",
    "sub": "a folder",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside.mp4").write_bytes(b"secret")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "outside.mp4").write_bytes(b"secret")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "a.mp4").write_bytes(b"x")
    (root / "link_in.mp4").symlink_to("a.mp4")
    (root / "link_out.mp4").symlink_to("../outside.mp4")
    (root / "linked_folder").symlink_to("../elsewhere")
    (root / "link_up").symlink_to("..")
    (root / "loop.mp4").symlink_to("loop.mp4")
    (root / "dangling.mp4").symlink_to("gone.mp4")
    (root / "to_device.mp4").symlink_to("/dev/zero")
    os.mkfifo(root / "fifo.mp4")
    here = os.getcwd()
    os.chdir(root)  # a socket's whole path has to be short
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("socket.mp4")
    os.chdir(here)
    return root.resolve()


@pytest.mark.parametrize("name", NAMES, ids=lambda n: ascii(n)[:40])
def test_is_refused_by_name_before_it_is_opened(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(os, "open", opened)
    with pytest.raises(BadMedia, match=NAMES[name]):
        paths.inside(root, name)


def test_files_and_links_inside_are_taken(root: Path) -> None:
    assert paths.inside(root, "a.mp4") == paths.inside(root, ".//a.mp4") == root / "a.mp4"
    assert paths.inside(root, "link_in.mp4") == root / "a.mp4"


@pytest.mark.parametrize("kind", ["metadata.jsonl", "metadata.csv"])
def test_a_manifest_full_of_them_lists_each_with_its_reason(root: Path, kind: str) -> None:
    names = [n for n in NAMES if n.strip() and "\ud800" not in n and not (kind.endswith("csv") and "\0" in n)]
    with (root / kind).open("w", newline="") as handle:
        if kind.endswith("jsonl"):
            handle.writelines(json.dumps({"file_name": n, "text": "t"}) + "\n" for n in [*names, "a.mp4"])
        else:
            csv.writer(handle).writerows([("file_name", "text"), *((n, "t") for n in [*names, "a.mp4"])])
    listing = scan(root)
    assert [i.key for i in listing.items] == ["a.mp4"]
    assert [k for k, _ in listing.refused] == names
    assert all(NAMES[k] in reason for k, reason in listing.refused)


def test_walking_a_folder_never_leaves_it(root: Path) -> None:
    for path in root.glob("*.mp4"):
        if not path.is_symlink():
            path.with_suffix(".txt").write_text("t")
    listing = scan(root, caption="t")
    assert {i.key for i in listing.items} == {"a.mp4", "link_in.mp4"}
    refused = dict(listing.refused)
    assert refused.keys() == {
        "link_out.mp4",
        "loop.mp4",
        "dangling.mp4",
        "to_device.mp4",
        "fifo.mp4",
        "socket.mp4",
        "linked_folder",
        "link_up",
    }
    assert not any(b"secret" in i.path.read_bytes() for i in listing.items)


def test_a_caption_file_may_not_be_a_link_out_either(root: Path) -> None:
    (root / "a.txt").symlink_to("../outside.mp4")
    assert "link out" in dict(scan(root).refused)["a.mp4"]


def test_what_turned_into_a_pipe_after_look_up_is_not_read(root: Path) -> None:
    with pytest.raises(BadMedia, match="not a regular file"):
        paths.open_regular(root / "fifo.mp4")
