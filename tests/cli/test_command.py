"""The command as a whole, in a process of its own: what it loads, and how it ends."""

import io
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from llm_fallback.cli import main
from llm_fallback.testing import FakeServer, Stall
from tests.cli.conftest import FINE

HEAVY = ("litellm", "langchain_litellm", "aiohttp")
LOADED = f"""
import sys
from llm_fallback.cli import main
try:
    main(sys.argv[1:])
finally:
    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


INTERRUPTIBLE = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("llm_fallback.cli", run_name="__main__")
"""
"""The command, as in a terminal: a shell has what it starts in the background ignore Ctrl-C, and all that starts."""


def in_a_process(*arguments):
    """A Python of its own."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["check", "explain", "simulate", "schema"])
def test_what_sends_nothing_loads_no_litellm(write, command):
    """They are for editors, hooks and build jobs, and have to be quick."""
    write()
    result = in_a_process("-c", LOADED, command)
    assert result.returncode == 0
    assert result.stderr == "[]\n"


def test_check_loads_no_rich(write):
    """Text is enough, and it saves a quarter of the time."""
    write()
    result = in_a_process("-X", "importtime", "-m", "llm_fallback.cli", "check")
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "llm_fallback.plan.checks" in loaded
    assert not loaded & {"rich", "rich.console", *HEAVY}


@pytest.mark.slow
def test_an_interrupt_ends_it_quietly(write):
    """Ctrl-C in the middle of a call: exit code 130, and not a word."""
    with FakeServer({"primary": Stall()}) as server:
        write(server.spec())
        command = [sys.executable, "-c", INTERRUPTIBLE, "ask", "hi"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        server.wait_until(lambda: server.received(), timeout_s=60)
        os.kill(process.pid, signal.SIGINT)
        output = process.communicate(timeout=30)
    assert (process.returncode, *output) == (130, "", "")


def test_help_and_version_are_there(run):
    """Every command has a line of help."""
    text = run("--help").stdout
    for command in ("demo", "check", "explain", "simulate", "ask", "batch", "report", "schema"):
        assert f"\n  {command} " in text
        assert run(command, "--help").exit_code == 0
    assert run("--version").stdout.startswith("llm-fallback, version ")


def test_a_command_that_is_not_there_is_wrong_usage(run):
    """Exit code 2."""
    assert run("chekc").exit_code == 2


@pytest.mark.slow
@pytest.mark.parametrize("command", ["schema", "explain"])
def test_a_reader_that_leaves_is_no_error_to_tell(write, command):
    """As `| head -1` does: not a word, and not the interpreter's own exit code."""
    write()
    shell = f"{sys.executable} -m llm_fallback.cli {command} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip() in ("0", "1"), done.stderr) == (True, "")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("command", ["schema", "explain", "check"])
def test_a_full_disk_is_told_in_one_line(write, command):
    """Exit code 1: what was asked for is not there."""
    write()
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "llm_fallback.cli", command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "cannot write the output: No space left on device" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["schema", "explain", "check --json"])
def test_a_closed_output_is_told_in_one_line(write, command):
    """As `>&-` leaves it: there is nowhere to write to, and that is no traceback."""
    write()
    shell = f"{sys.executable} -m llm_fallback.cli {command} >&-"
    done = subprocess.run(["bash", "-c", shell], stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "cannot write the output: Bad file descriptor" in done.stderr


@pytest.mark.parametrize(
    "command", [["ask", "hi"], ["ping"], ["batch", "llm-fallback.yaml", "-o", "x.jsonl"], ["serve"]]
)
def test_a_variable_that_is_not_set_is_told_with_its_line(run, write, monkeypatch, command):
    """By every command that needs it, as by `check`."""
    monkeypatch.delenv("OWN_URL", raising=False)
    write('{"prompt": "hi"}', "p.jsonl")
    write(FINE.replace("${OWN_URL:-http://localhost:8000}", "${OWN_URL}"))
    result = run(*command)
    assert result.exit_code == 1
    assert "llm-fallback.yaml:5 deployments.own.api_base: the variable OWN_URL is not set" in result.stderr


def closed_pipe():
    """What nobody reads any more."""
    reads, writes = os.pipe()
    os.close(reads)
    return open(writes, "w")


@pytest.mark.parametrize(
    ("opened", "told"),
    [
        pytest.param(lambda: None, "cannot write the output: Bad file descriptor", id="none"),
        pytest.param(closed_pipe, "", id="a pipe that nobody reads"),
        pytest.param(
            partial(Path("/dev/full").open, "w"),
            "cannot write the output: No space left on device",
            id="a full disk",
            marks=pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has one"),
        ),
    ],
)
def test_an_output_that_cannot_be_written_ends_it_with_a_line_at_most(monkeypatch, opened, told):
    """Who closed it knows that, and is told nothing."""
    monkeypatch.setattr("sys.stdout", out := opened())
    monkeypatch.setattr("sys.stderr", said := io.StringIO())
    with pytest.raises(SystemExit) as ended:
        main(["schema"], prog_name="llm-fallback")
    if out is not None:
        out.close()
    assert ended.value.code == 1
    assert said.getvalue() == (f"llm-fallback: {told}\n" if told else "")
