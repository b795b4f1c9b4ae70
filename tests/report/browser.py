"""A real browser without a window: what a page says after its scripts have run, and what it complains about."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


def visit(page: Path, *, width: int = 1200, query: str = "") -> tuple[str, list[str]]:
    """Open a file; give the document after its scripts have run, and the lines of the console."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory() as profile:
        command = [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={profile}", f"--window-size={width},1000", "--virtual-time-budget=4000"),
            *("--enable-logging=stderr", "--dump-dom", f"{page.as_uri()}{query}"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, re.findall(r"CONSOLE[^\n]*", done.stderr)


def with_script(page: Path, script: str) -> Path:
    """Copy a page so that one more script runs in it, which its policy would not allow: it plays the reader.

    The script is the body of an async function; what it returns is what :func:`played` gives.
    """
    html = page.read_text(encoding="utf-8")
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html, count=1)
    copy = page.with_name(f"{page.stem}-played.html")
    play = (
        f"<pre id=played></pre><script>(async () => {{{script}}})().then((t) => {{ played.textContent = t }})</script>"
    )
    copy.write_text(html.replace("</body>", f"{play}</body>"), encoding="utf-8")
    return copy


def played(document: str) -> str:
    """Give what the script of :func:`with_script` returned."""
    match = re.search(r'<pre id="played">(.*?)</pre>', document, re.S)
    assert match is not None
    return match[1]
