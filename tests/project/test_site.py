"""The site that `make docs` builds: it names all that is public, shows what is so, and looks as it should."""

import functools
import importlib
import re
import shutil
import subprocess
import threading
import tomllib
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CONFIG = (ROOT / "zensical.toml").read_text(encoding="utf-8")
REFERENCE = "".join(page.read_text(encoding="utf-8") for page in sorted((DOCS / "reference").glob("*.md")))
SHOWN_WHOLE = ("errors", "events", "callbacks", "ledger", "simulate", "testing")
"""Modules whose public names a page shows all, without naming them."""


@pytest.fixture
def script(monkeypatch):
    """Imports a script of docs/."""
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module


def test_every_page_is_in_the_navigation():
    """And nothing is in it that there is not."""
    named = re.findall(r'= "([\w./-]+\.md)" \}', CONFIG)
    assert sorted(named) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_every_public_name_is_in_the_reference():
    """By itself, or with the module that defines it."""
    package = importlib.import_module("llm_fallback")
    shown = {name for module in SHOWN_WHOLE for name in dir(importlib.import_module(f"llm_fallback.{module}"))}
    named = set(re.findall(r"^::: llm_fallback\.(\w+)$", REFERENCE, re.MULTILINE))
    assert set(SHOWN_WHOLE) <= named
    assert set(package.__all__) <= named | shown


def test_the_page_on_the_command_is_what_the_command_says(script):
    """docs/reference/command.md is what docs/generate_command.py writes."""
    generate_command = script("generate_command")
    assert generate_command.PAGE.read_text(encoding="utf-8") == generate_command.page(), "run `make docs`"


def test_the_messages_that_troubleshooting_explains_are_said_somewhere():
    """Each heading, in parts around what differs, stands in the source."""
    page = (DOCS / "guides/troubleshooting.md").read_text(encoding="utf-8")
    source = "".join(module.read_text(encoding="utf-8") for module in sorted((ROOT / "src").rglob("*.py")))
    headings = re.findall(r"^### `(.+)`$", page, re.MULTILINE)
    assert len(headings) > 15
    for heading in headings:
        for part in filter(None, (part.strip(" ()") for part in re.split(r"…|\$", heading))):
            assert part in source or part.rstrip(":;, s") in source, heading


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("page", ["", "reference/", "failures/"])
def test_a_page_fits_into_a_browser_s_window(page, width):
    """Wide as on a desk, narrow as on a phone: nothing has to be scrolled sideways, and no picture is missing."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    site = ROOT / tomllib.loads(CONFIG)["project"]["site_dir"]
    if browser is None or not site.is_dir():
        pytest.skip("needs a browser, and the site that `make docs` builds")
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(SiteHandler, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/measure?page={page}&width={width}"
        headless = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
        dom = subprocess.run([browser, *headless, address], capture_output=True, text=True, check=True, timeout=120)
        server.shutdown()
    measured = re.search(r"<body>(\d+) wide, (\d+) pictures missing", dom.stdout)
    assert measured is not None, dom.stdout
    assert int(measured[1]) <= width
    assert int(measured[2]) == 0


MEASURE = """<!doctype html><body><iframe src="/{page}" style="width:{width}px;height:900px;border:0" onload="
const page = this.contentDocument;
const missing = [...page.images].filter((image) => image.complete && image.naturalWidth === 0).length;
document.body.textContent = `${{page.documentElement.scrollWidth}} wide, ${{missing}} pictures missing`;
"></iframe>"""


class SiteHandler(SimpleHTTPRequestHandler):
    """Serves the site, and a page that measures one of its pages in a frame of a width."""

    def do_GET(self):
        asked = urlsplit(self.path)
        if asked.path == "/measure":
            self.measure(**dict(parse_qsl(asked.query, keep_blank_values=True)))
        else:
            super().do_GET()

    def measure(self, page, width):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(MEASURE.format(page=page, width=width).encode())

    def log_message(self, *_):
        pass
