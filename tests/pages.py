"""What tests of HTML pages share: a parser that counts tags, the words a reader sees, and a browser."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "br", "input", "img"}
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic", "--enable-logging=stderr",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # the browser's own errands stay at home too
)  # fmt: skip


WATCH = """
const faults = [];
addEventListener("error", e => faults.push(String(e.message || e.target.outerHTML.slice(0, 80))), true);
addEventListener("unhandledrejection", e => faults.push(String(e.reason)));
addEventListener("securitypolicyviolation", e => faults.push("refused " + e.blockedURI));
// the page's clock is virtual and runs ahead of the decoder on a busy machine: wait long by it
const until = async test => { for (let i = 0; i < 6000 && !test(); i++) await new Promise(go => setTimeout(go, 25)); };
"""
"""What probes of a page begin with: what goes wrong on it, and a way to wait."""


class Balance(HTMLParser):
    """Open tags left over, and every attribute value."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.values: list[tuple[str, str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.values += [(tag, key, value or "") for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.values += [(tag, key, value or "") for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def words(page: str) -> str:
    """The page's text, tags and scripts left out."""
    return unescape(re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<(style|script).*?</\1>", "", page)))


def payloads(page: str, kind: str) -> list[bytes]:
    return [base64.b64decode(found) for found in re.findall(rf'"data:{kind};base64,([^"]+)"', page)]


def browse(page: Path, profile: Path, *flags: str) -> tuple[str, str]:
    """(the document after its scripts ran, what the browser logged)."""
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, done.stderr
