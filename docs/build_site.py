"""Builds the site from docs/ into site/, with `llms.txt`, and checks it: `python docs/build_site.py`.

Ends with exit code 1, and a line for each flaw, where a page links to nothing or fetches something from elsewhere.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from bs4 import BeautifulSoup
from markdownify import MarkdownConverter

ROOT = Path(__file__).parents[1]
CONFIG = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
SITE = ROOT / CONFIG["site_dir"]
ADDRESS: str = CONFIG["site_url"]

Nav = list[dict[str, "str | Nav"]]


def build() -> None:
    """Write the site anew; whatever Zensical has to object to ends it."""
    subprocess.run([sys.executable, "-m", "zensical", "build", "--clean", "--strict"], cwd=ROOT, check=True)


def write_llms_txt() -> None:
    """`llms.txt`, the pages by name, and `llms-full.txt`, all they say: https://llmstxt.org."""
    head = f"# {CONFIG['site_name']}\n\n> {CONFIG['site_description']}\n\n"
    pages = [(name, _address_of(page)) for name, page in _pages(CONFIG["nav"])]
    named = "".join(f"- [{name}]({ADDRESS}{address})\n" for name, address in pages)
    (SITE / "llms.txt").write_text(head + named, encoding="utf-8")
    texts = (_text(SITE / address / "index.html") for _, address in pages)
    (SITE / "llms-full.txt").write_text(head + "\n\n".join(texts) + "\n", encoding="utf-8")


def _pages(nav: Nav) -> Iterator[tuple[str, str]]:
    for entry in nav:
        for name, below in entry.items():
            if isinstance(below, str):
                yield name, below
            else:
                yield from _pages(below)


def _address_of(page: str) -> str:
    """`guides/fastapi.md` is served as `guides/fastapi/`, an index page as its folder."""
    path = page.removesuffix(".md").removesuffix("index").rstrip("/")
    return f"{path}/" if path else ""


def _text(page: Path) -> str:
    article = _parsed(page).find("article")
    return MarkdownConverter(heading_style="ATX").convert_soup(article).strip()


def flaws() -> Iterator[str]:
    """What a reader would miss, or somebody else would hear of."""
    for page in sorted(SITE.rglob("*.html")):
        where = page.relative_to(SITE).as_posix()
        base = ADDRESS + where.removesuffix("index.html")
        for fetched in _fetched(page):
            if urlsplit(urljoin(base, fetched)).netloc != urlsplit(ADDRESS).netloc:
                yield f"{where}: fetches {fetched}"
        for link in _links(page):
            target, anchor = urldefrag(urljoin(base, link))
            is_ours = target.startswith(ADDRESS) or not urlsplit(link).scheme
            if is_ours and not _is_there(target.removeprefix(ADDRESS), unquote(anchor)):
                yield f"{where}: links to {link}, which is not there"


def _fetched(page: Path) -> Iterator[str]:
    """What a browser asks for by itself."""
    for tag in _parsed(page).select("[src], link[rel~=stylesheet], link[rel~=preconnect], link[rel~=icon]"):
        yield str(tag.get("src") or tag["href"])


def _links(page: Path) -> Iterator[str]:
    for tag in _parsed(page).select("a[href], img[src]"):
        yield str(tag["href"] if tag.name == "a" else tag["src"])


def _is_there(path: str, anchor: str) -> bool:
    file = SITE / unquote(path)
    file = file / "index.html" if file.is_dir() else file
    if not file.is_file():
        return False
    return not anchor or file.suffix != ".html" or anchor in _anchors(file)


@cache
def _anchors(page: Path) -> frozenset[str]:
    return frozenset(str(tag["id"]) for tag in _parsed(page).select("[id]"))


@cache
def _parsed(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


if __name__ == "__main__":
    build()
    write_llms_txt()
    found = list(flaws())
    print("\n".join(found) or f"{SITE.name}/ is whole: no dead link, nothing fetched from elsewhere")
    sys.exit(bool(found))
