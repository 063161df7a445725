"""The pytest plugin, as a project that has this library installed meets it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# What a run in the process imports is forgotten after it; what is here already need not be imported for each.
import llm_fallback.testing.model
import llm_fallback.testing.server  # noqa: F401

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def _without_slow_plugins(pytester, monkeypatch):
    """Others that happen to be installed here, and load a good second each."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest -p no:langsmith_plugin")


FALLS_BACK = """
    from llm_fallback.testing import Fail, assert_attempts

    def test_the_backup_answers(fake_llm):
        model = fake_llm({"primary": Fail(429), "backup": "hello"})
        assert_attempts(model.invoke("hi"), "primary: rate_limited", "backup: succeeded")
"""


class TestFixtures:
    def test_fake_llm_is_fake_chat_model(self, pytester):
        """Under its own name, ready to be called."""
        pytester.makepyfile(FALLS_BACK)
        pytester.runpytest().assert_outcomes(passed=1)

    def test_fake_llm_server_runs_what_its_marker_says(self, pytester):
        """Without a marker it is a server that answers sensibly; either way it is closed with the test."""
        pytester.makepyfile("""
            import pytest
            from llm_fallback.testing import Fail, FakeServer

            seen = []

            def test_one(fake_llm_server):
                seen.append(fake_llm_server)
                assert isinstance(fake_llm_server, FakeServer)
                assert fake_llm_server.deployments == ["fake"]
                assert fake_llm_server.url.startswith("http://127.0.0.1:")

            @pytest.mark.fake_llm_server({"primary": Fail(429), "backup": "hi"}, chain="assistant")
            def test_two(fake_llm_server):
                assert list(fake_llm_server.spec()["chains"]) == ["assistant"]
                assert fake_llm_server.deployments == ["primary", "backup"]

            def test_three():
                with pytest.raises(RuntimeError, match="not running"):
                    seen[0].url
        """)
        pytester.runpytest("--strict-markers").assert_outcomes(passed=3)

    def test_a_spec_file_of_ones_own_is_loaded_with_fakes_in_it(self, pytester):
        """Scripts by deployment; no variable is set; a typo is told with the nearest name."""
        pytester.makefile(
            ".yaml",
            **{
                "llm-fallback": """
                    deployments:
                      own: {backend: vllm, model: qwen, api_base: "${VLLM_URL}"}
                      hosted: {model: anthropic/claude-sonnet-4-5, api_key: "${ANTHROPIC_API_KEY}"}
                    chains:
                      assistant: {tiers: [own, hosted]}
                """
            },
        )
        pytester.makepyfile("""
            import pytest
            from llm_fallback.testing import Fail, assert_attempts

            def test_our_chain_falls_back(fake_llm):
                model = fake_llm({"own": Fail(503)}, spec="llm-fallback.yaml")
                assert_attempts(model.invoke("hi"), "own: overloaded", "hosted: succeeded")

            def test_healthy(fake_llm):
                assert_attempts(fake_llm(spec="llm-fallback.yaml").invoke("hi"), "own: succeeded")

            def test_typo(fake_llm):
                with pytest.raises(ValueError, match="did you mean 'hosted'"):
                    fake_llm({"hostde": "x"}, spec="llm-fallback.yaml")
        """)
        pytester.runpytest().assert_outcomes(passed=3)

    def test_a_marker_says_what_the_fakes_of_many_tests_are_made_with(self, pytester):
        """For a module, a class or a test, the nearest counts; a call may still say otherwise."""
        pytester.makefile(
            ".yaml",
            desk="""
                deployments:
                  own: {backend: vllm, model: qwen, api_base: "${VLLM_URL}"}
                  hosted: {model: anthropic/claude-sonnet-4-5, api_key: "${ANTHROPIC_API_KEY}"}
                chains:
                  assistant: {tiers: [own, hosted]}
                  cheap: {tiers: [own]}
                default_chain: assistant
            """,
        )
        pytester.makepyfile("""
            import pytest
            from llm_fallback.testing import Fail, assert_attempts

            pytestmark = pytest.mark.fake_llm(spec="desk.yaml")

            def test_our_chain_falls_back(fake_llm):
                assert_attempts(fake_llm({"own": Fail(503)}).invoke("hi"), "own: overloaded", "hosted: succeeded")

            @pytest.mark.fake_llm({"own": "hello"}, spec="desk.yaml", chain="cheap")
            def test_another_chain(fake_llm):
                facts = fake_llm().invoke("hi").response_metadata["llm_fallback"]
                assert (facts["chain"], facts["deployment"]) == ("cheap", "own")
                facts = fake_llm(chain="assistant").invoke("hi").response_metadata["llm_fallback"]
                assert facts["chain"] == "assistant"

            def test_one_of_its_own(fake_llm):
                assert_attempts(fake_llm({"a": "x"}, spec=None).invoke("hi"), "a: succeeded")
        """)
        pytester.runpytest("--strict-markers").assert_outcomes(passed=3)

    def test_a_failed_comparison_shows_the_course_of_the_call(self, pytester):
        """In the short summary, too."""
        pytester.makepyfile(FALLS_BACK.replace("primary: rate_limited", "primary: overloaded"))
        result = pytester.runpytest()
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*primary: rate_limited (429) after 0.00 s: Rate limit reached*"])

    @pytest.mark.slow
    @pytest.mark.parametrize("mode", ["auto", "strict"])
    def test_it_works_with_pytest_asyncio(self, pytester, mode):
        """In both modes, with the fixtures in async tests."""
        pytester.makepyfile("""
            import asyncio
            import pytest
            from llm_fallback.testing import Fail, Stall, assert_attempts

            @pytest.mark.asyncio
            async def test_in_the_process(fake_llm):
                model = fake_llm({"primary": Stall(), "backup": "hello"})
                assert_attempts(await model.ainvoke("hi"), "primary: timeout", "backup: succeeded")
                assert "".join([chunk.text async for chunk in model.astream("hi")]) == "hello"

            @pytest.mark.asyncio
            @pytest.mark.no_network
            @pytest.mark.fake_llm_server({"primary": Fail(500)})
            async def test_over_http(fake_llm_server):
                port = int(fake_llm_server.url.rpartition(":")[2])
                reader, writer = await asyncio.open_connection("localhost", port)
                writer.write(b"GET /primary/v1/models HTTP/1.1\\r\\nHost: here\\r\\n\\r\\n")
                assert await reader.readline() == b"HTTP/1.1 200 OK\\r\\n"
                writer.close()
        """)
        pytester.runpytest_subprocess("-o", f"asyncio_mode={mode}").assert_outcomes(passed=2)

    @pytest.mark.slow
    def test_it_works_with_xdist(self, pytester):
        """Each worker has its own fakes, ports and guard."""
        pytester.makeini("[pytest]\nllm_no_network = true")
        pytester.makepyfile(
            FALLS_BACK
            + """
    import socket
    import pytest

    @pytest.mark.parametrize("number", range(6))
    def test_the_server_answers(fake_llm_server, number):
        with socket.create_connection(("127.0.0.1", int(fake_llm_server.url.rpartition(":")[2]))):
            pass

    def test_nobody_gets_out():
        with pytest.raises(OSError):
            try:
                socket.create_connection(("192.0.2.1", 443))
            except RuntimeError as error:
                raise OSError from error
"""
        )
        pytester.runpytest_subprocess("-n", "2").assert_outcomes(passed=7, failed=1)


class TestGuard:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "reach",
        [
            'socket.create_connection(("192.0.2.1", 443))',
            'socket.create_connection(("api.openai.com", 443))',
            'socket.socket().connect(("192.0.2.1", 443))',
            'socket.socket().connect_ex(("192.0.2.1", 443))',
            'socket.socket(socket.AF_INET6).connect(("2001:db8::1", 443, 0, 0))',
            'socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53))',
            'socket.gethostbyname("api.openai.com")',
            'asyncio.run(asyncio.open_connection("api.openai.com", 443))',
            'asyncio.run(asyncio.open_connection("192.0.2.1", 443))',
            'urllib.request.urlopen("https://api.openai.com/v1/models")',
        ],
    )
    def test_a_marked_test_that_would_reach_out_fails(self, pytester, reach):
        """By name or number, in every way Python has, and it says whom."""
        pytester.makepyfile(f"""
            import asyncio, socket, urllib.request
            import pytest

            @pytest.mark.no_network
            def test_it():
                {reach}
        """)
        result = pytester.runpytest("--strict-markers")
        result.assert_outcomes(failed=1)
        whom = "api.openai.com" if "api.openai.com" in reach else "*192.0.2.1*" if "192" in reach else "2001:db8::1*"
        result.stdout.fnmatch_lines([f"*the test would reach {whom}, which is not this machine*"])

    def test_a_test_that_swallows_the_error_fails_all_the_same(self, pytester):
        """Code with a fallback does; so do threads, and fixtures after the test."""
        pytester.makepyfile("""
            import socket, threading
            import pytest

            pytestmark = pytest.mark.no_network

            def reach():
                try:
                    socket.create_connection(("api.openai.com", 443))
                except Exception:
                    pass

            @pytest.fixture
            def before():
                reach()

            @pytest.fixture
            def after():
                yield
                reach()

            def test_in_the_test():
                reach()

            def test_in_a_thread():
                thread = threading.Thread(target=reach)
                thread.start()
                thread.join()

            def test_before_it(before):
                pass

            def test_after_it(after):
                pass
        """)
        result = pytester.runpytest()
        result.assert_outcomes(failed=2, passed=1, errors=2)
        result.stdout.fnmatch_lines(["*the test would reach api.openai.com*"] * 4)

    def test_an_error_of_the_tests_own_is_told_why(self, pytester):
        """A comparison that fails because nobody could be reached says so in a note."""
        pytester.makepyfile("""
            import socket
            import pytest

            @pytest.mark.no_network
            def test_it():
                answer = None
                try:
                    socket.create_connection(("api.openai.com", 443))
                except RuntimeError:
                    answer = "none"
                assert answer == "Paris"
        """)
        result = pytester.runpytest()
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*assert 'none' == 'Paris'*", "*the test would reach api.openai.com*"])

    def test_this_machine_can_be_reached(self, pytester):
        """By all its names, over TCP, UDP and Unix sockets."""
        pytester.makepyfile("""
            import asyncio, socket
            import pytest

            pytestmark = pytest.mark.no_network

            @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.8.8", "0.0.0.0"])
            def test_tcp(host):
                with socket.create_server(("0.0.0.0", 0)) as server:
                    socket.create_connection((host, server.getsockname()[1])).close()
                    asyncio.run(asyncio.open_connection(host, server.getsockname()[1]))

            def test_udp():
                with socket.socket(type=socket.SOCK_DGRAM) as here:
                    here.bind(("127.0.0.1", 0))
                    socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", here.getsockname())
                    assert here.recv(1) == b"x"

            def test_unix(tmp_path):
                with socket.socket(socket.AF_UNIX) as server:
                    server.bind(str(tmp_path / "s"))
                    server.listen()
                    with socket.socket(socket.AF_UNIX) as client:
                        client.connect(str(tmp_path / "s"))
        """)
        pytester.runpytest().assert_outcomes(passed=6)

    @pytest.mark.slow
    def test_nobody_is_guarded_who_did_not_ask(self, pytester):
        """Installing a library must not change a suite; the marker or the setting turns it on, a marker off again."""
        reaches = """
            import socket
            import pytest

            def reached():
                patched = socket.getaddrinfo.__module__ == "llm_fallback.testing.network_guard"
                return not patched

            {marker}
            def test_it():
                assert reached() is {free}
        """
        cases = [
            ("", "", True),
            ("", "@pytest.mark.no_network", False),
            ("llm_no_network = true", "", False),
            ("llm_no_network = true", "@pytest.mark.allow_network", True),
            ("llm_no_network = false", "", True),
        ]
        for setting, marker, free in cases:
            pytester.makeini(f"[pytest]\n{setting}")
            pytester.makepyfile(reaches.format(marker=marker, free=free))
            pytester.runpytest().assert_outcomes(passed=1)

    def test_it_is_gone_after_the_test(self, pytester):
        """What Python had is back, and a test's own failure is its own."""
        pytester.makepyfile("""
            import socket
            import pytest

            before = socket.getaddrinfo, socket.socket.connect

            @pytest.mark.no_network
            def test_guarded():
                assert socket.getaddrinfo is not before[0]
                raise KeyError("my own")

            def test_free():
                assert (socket.getaddrinfo, socket.socket.connect) == before
        """)
        result = pytester.runpytest()
        result.assert_outcomes(failed=1, passed=1)
        result.stdout.no_fnmatch_line("*not this machine*")


def test_loading_it_loads_nothing_else():
    """It is loaded by every test run of everybody: no LangChain, no YAML, no sockets before a test asks."""
    program = """
import json, sys
import pytest
before = set(sys.modules)
import llm_fallback.testing.plugin
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = [name for name in json.loads(ran.stdout) if name.startswith("llm_fallback.")]
    assert json.loads(ran.stdout) == ["llm_fallback", *loaded]
    assert loaded == ["llm_fallback._imports", "llm_fallback.testing", "llm_fallback.testing.plugin"]


@pytest.mark.slow
def test_its_markers_and_its_setting_are_explained(pytester):
    """In --markers and --help."""
    markers = pytester.runpytest("--markers").stdout
    markers.fnmatch_lines(
        [
            "@pytest.mark.fake_llm(*",
            "@pytest.mark.fake_llm_server(*",
            "@pytest.mark.no_network:*",
            "@pytest.mark.allow_network:*",
        ]
    )
    pytester.runpytest("--help").stdout.fnmatch_lines(["*llm_no_network (bool):*"])
