"""`llm-fallback serve`: the chains of a spec as an OpenAI-compatible endpoint."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import click

from llm_fallback.cli.shared import EXIT_FAILED, files_option, loading_litellm
from llm_fallback.spec import load_spec


@click.command("serve")
@files_option
@click.option("--host", help="The address to listen at. Default: the spec's `serve.host`, 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port. Default: the spec's `serve.port`, 8000.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="How many processes answer.")
@click.pass_context
def command(ctx: click.Context, files: tuple[Path, ...], host: str | None, port: int | None, workers: int) -> None:
    """Serve the chains as models of an OpenAI-compatible endpoint.

    Needs: pip install "langchain-llm-fallback[serve]"

    Callers need one of the keys under `serve.keys`; without keys only this machine is answered. SIGHUP reads the spec
    again. SIGTERM ends it once all is answered that was begun.
    """
    spec = load_spec(*files)
    # `accept` may name a function in a module beside the spec; `python -m` would find it, too.
    sys.path.insert(0, os.getcwd())
    try:
        with loading_litellm():
            from llm_fallback.serving import server
            from llm_fallback.serving.caller_keys import CallerKeys, is_loopback
    except ImportError as error:
        click.echo(f"{ctx.command_path}: {error}", err=True)
        ctx.exit(EXIT_FAILED)
    host, keys = host or spec.serve.host, CallerKeys.of_spec(spec, os.environ)
    if not keys and "LITELLM_MASTER_KEY" in os.environ:
        why = "LITELLM_MASTER_KEY is set, and is no key here unless `serve.keys` has ${LITELLM_MASTER_KEY}"
        click.echo(f"{ctx.command_path}: {why}", err=True)
    if not keys and not is_loopback(host):
        click.echo(f"{ctx.command_path}: not at {host}, because there are no keys: name some in `serve.keys`", err=True)
        host = "127.0.0.1"
    port = spec.serve.port if port is None else port
    try:
        listener = server.listen(host, port)
    except OSError as error:
        click.echo(f"{ctx.command_path}: cannot listen at {host}:{port}: {error.strerror}", err=True)
        ctx.exit(EXIT_FAILED)
    _log_to_stderr()
    address, port = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    who = "with a key" if keys else "without keys: only this machine is answered"
    serving = f"serving {', '.join(spec.chains)} at http://{shown}:{port}/v1, {who}"
    paths = [path.absolute() for path in files]
    ctx.exit(server.serve(paths, listener, lambda: click.echo(serving, err=True), workers))


def _log_to_stderr() -> None:
    """What happens to calls is told, as nobody is shown their courses."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("llm_fallback")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
