"""The chains on Ray Serve: `serve run llm_fallback.serving.ray:app`, with LLM_FALLBACK_SPEC set. Extra: `[ray]`.

`app` is made when it is asked for: replicas import this module too, for what they run.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

try:
    from ray import serve
except ImportError as error:
    raise ImportError('llm_fallback.serving.ray needs Ray Serve: pip install "langchain-llm-fallback[ray]"') from error

from llm_fallback.serving.app import SPEC_VARIABLE, create_app, files_of_environment, keep_what_is_loaded
from llm_fallback.spec import load_spec

AT_ONCE = 1000
"""Requests that one replica answers at the same time. Ray's own number, 5, is for replicas that compute."""
_GRACE_S = 5
"""Seconds beyond the longest call for which a replica that is replaced may go on."""
_DIGEST_VARIABLE = "LLM_FALLBACK_SPEC_DIGEST"
"""Of the files' contents: Ray replaces replicas only if something about them changed, and paths do not."""


def _chains() -> Any:
    """What a replica answers with, made in the replica."""
    app = create_app()
    keep_what_is_loaded()
    return app


def deployment(files: Sequence[str | Path]) -> Any:
    """Ray's deployment over the spec in these files, which have to be where the replicas are: for `.options()`,
    `.bind()` and `serve.run`.

    A replica that is replaced answers what it was asked before, however long a call may take by the spec. Raises
    SpecError for a wrong spec.
    """
    spec, paths = load_spec(*map(Path, files)), [Path(file).absolute() for file in files]
    longest_s = max(spec.timeouts(name).total_s or 0 for name in spec.chains)
    variables = {
        SPEC_VARIABLE: os.pathsep.join(map(str, paths)),
        _DIGEST_VARIABLE: sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest(),
    }
    return serve.deployment(
        serve.ingress(_chains)(),
        name="llm-fallback",
        max_ongoing_requests=AT_ONCE,
        graceful_shutdown_timeout_s=longest_s + _GRACE_S,
        graceful_shutdown_wait_loop_s=1,
        ray_actor_options={"runtime_env": {"env_vars": variables}},
    )


def __getattr__(name: str) -> Any:
    if name == "app":
        return deployment(files_of_environment(os.environ)).bind()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
