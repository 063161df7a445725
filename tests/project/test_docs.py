"""The documentation: whatever it shows is run, and prints what it says.

A page's blocks are run in order, in a directory of their own. YAML that begins with a file's name is written there;
Python is executed, its tests are called with the fixtures they name, and what `print(...)  # text` prints is compared
with the text; `$ llm-fallback ...` in a console block is run and its output compared with what follows.
"""

import importlib.util
import inspect
import json
import re
import shlex
import typing
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from itertools import groupby
from pathlib import Path

import pytest
from click.testing import CliRunner
from langchain_core import exceptions as langchain_errors

from llm_fallback import errors, load_spec
from llm_fallback.cli import main
from llm_fallback.events import Failure
from llm_fallback.testing import Fail, FakeServer, fake_chat_model

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "docs/tutorial.md",
    "docs/exporters.md",
    "docs/observability.md",
    "docs/budgets.md",
    "docs/failures.md",
    "docs/balancing.md",
    "docs/runnables.md",
    "docs/batch.md",
    "docs/testing.md",
    "docs/simulation.md",
    "docs/litellm-proxy.md",
    *sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("docs/migrate/*.md"), *ROOT.glob("docs/guides/*.md"))),
    "docs/types.md",
]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PRINTS = re.compile(r"^ *print\(.*\) +# (.*)$", re.MULTILINE)


def blocks(page):
    """Language and text of every fenced block."""
    return _BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


@pytest.fixture
def servers(monkeypatch, tmp_path):
    """An empty directory to be in, and a server behind the variables the pages name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-none")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    with FakeServer({"own": "Bonne nuit.", "gpu-a": Fail(503), "gpu-b": "Bonne nuit."}) as server:
        monkeypatch.setenv("VLLM_URL", server.base("own"))
        monkeypatch.setenv("GPU_A_URL", server.base("gpu-a"))
        monkeypatch.setenv("GPU_B_URL", server.base("gpu-b"))
        monkeypatch.setenv("PROXY_URL", server.base("gpu-a"))
        for later in ("QWEN_URL", "GPT_URL"):
            # Set and deleted, so that what the page sets is taken back in the end.
            monkeypatch.setenv(later, "")
            monkeypatch.delenv(later)
        yield server


def called(test, directory):
    """A test of a page, with what it asks for."""
    marks = {mark.name: mark for mark in vars(test).get("pytestmark", ())}
    scripts = marks["fake_llm_server"].args if "fake_llm_server" in marks else ()
    words = marks["fake_llm"].kwargs if "fake_llm" in marks else {}
    with FakeServer(*scripts) as server:
        fixtures = {
            "fake_llm": partial(fake_chat_model, **words),
            "fake_llm_server": server,
            "tmp_path": directory,
        }
        test(**{name: fixtures[name] for name in inspect.signature(test).parameters})


def run_python(text, names, directory):
    """Execute a block and its tests; what it prints is what it says it prints."""
    out = StringIO()
    before = set(names)
    with redirect_stdout(out):
        exec(compile(text, "<docs>", "exec"), names)
        for name in sorted(set(names) - before):
            if name.startswith("test_"):
                called(names[name], directory)
    assert out.getvalue().splitlines() == _PRINTS.findall(text)


def run_console(text):
    """Run each `$ llm-fallback ...`; the lines up to the next `$` are its output, without the last empty ones."""
    lines = text.splitlines()
    starts = [index for index, line in enumerate(lines) if line.startswith("$ ")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        program, *arguments = shlex.split(lines[start][2:])
        assert program == "llm-fallback"
        output = CliRunner().invoke(main, arguments).output
        assert [line.rstrip() for line in output.rstrip().splitlines()] == lines[start + 1 : end]


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_is_true(page, servers):
    """Every block of the page runs, in order, and prints what it says."""
    names = {"__name__": "docs"}
    for language, text in blocks(page):
        if language == "yaml":
            Path(text.splitlines()[0].removeprefix("# ")).write_text(text, encoding="utf-8")
        elif language == "python":
            run_python(text, names, Path())
        elif language == "console":
            run_console(text)


def test_the_readme_s_spec_has_no_mistake(servers):
    """`check` has nothing to say about it."""
    (spec,) = [text for language, text in blocks("README.md") if language == "yaml"]
    Path("llm-fallback.yaml").write_text(spec, encoding="utf-8")
    load_spec("llm-fallback.yaml")
    result = CliRunner().invoke(main, ["check", "--env", "--strict"])
    assert result.exit_code == 0, result.output


def test_the_readme_s_metadata_are_those_of_its_first_call(servers):
    """The sample differs from a real reply in nothing but times."""
    (sample,) = [json.loads(text) for language, text in blocks("README.md") if language == "json"]
    first = next(text for language, text in blocks("README.md") if language == "python")
    names = {}
    run_python(first, names, Path())
    assert untimed(names["reply"].response_metadata["llm_fallback"]) == untimed(sample)


def untimed(facts):
    """The facts with every latency called a latency."""
    match facts:
        case dict():
            return {key: "a latency" if key.endswith("latency_s") else untimed(value) for key, value in facts.items()}
        case list():
            return [untimed(value) for value in facts]
    return facts


def test_the_readme_is_short_and_its_commands_exist():
    """Under 160 lines and its links; `make` knows what it is told to make."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert sum(not line.startswith("[") for line in readme.splitlines()) < 160
    assert set(re.findall(r"\bmake (\w+)", readme)) <= set(targets)
    for command in re.findall(r"^llm-fallback (\w+)", readme, re.MULTILINE):
        assert CliRunner().invoke(main, [command, "--help"]).exit_code == 0


@pytest.mark.parametrize(
    "page", sorted(str(p.relative_to(ROOT)) for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
)
def test_every_link_of_a_page_leads_somewhere(page):
    """Links to files and folders of the project."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert ((ROOT / page).parent / target).exists(), target


def test_the_failure_table_has_every_failure_once():
    """In docs/failures.md, and no other word."""
    rows = re.findall(r"^\| `([a-z_]+)` \|", (ROOT / "docs/failures.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(typing.get_args(Failure))
    assert all(len(list(same)) == 1 for _, same in groupby(sorted(rows)))


def test_every_class_of_an_error_is_in_the_table_of_classes():
    """By its name, and with LangChain's classes that it is: what a search of the pages has to find."""
    page = (ROOT / "docs/failures.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `((?:Chain|Stream)\w+)` \| (.*?) \|", page, re.MULTILINE))
    kinds = {name: kind for name, kind in vars(errors).items() if name in rows}
    ours = (errors.ChainExhausted, errors.StreamBroken)
    named = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and not name.startswith("_")}
    assert {name for name, kind in named.items() if issubclass(kind, ours)} == {
        *rows,
        *(kind.__name__ for kind in ours),
    }
    for name, kind in kinds.items():
        told = {each for each in re.findall(r"`(\w+)`", rows[name]) if hasattr(langchain_errors, each)}
        assert {base.__name__ for base in kind.__bases__ if base.__module__ == langchain_errors.__name__} == told


def test_the_reference_of_the_spec_is_up_to_date():
    """docs/spec.md is what docs/generate_spec.py writes."""
    location = importlib.util.spec_from_file_location("generate_spec", ROOT / "docs/generate_spec.py")
    generate_spec = importlib.util.module_from_spec(location)
    location.loader.exec_module(generate_spec)
    assert generate_spec.PAGE.read_text(encoding="utf-8") == generate_spec.page(), "run `make docs`"
