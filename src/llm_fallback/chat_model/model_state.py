"""The type of what `model.state()` tells: deployments by their name, and beside them the fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar, overload

from llm_fallback.engine.health import DeploymentState
from llm_fallback.fleet.status import FleetStatus

_Default = TypeVar("_Default")


class ModelState(dict[str, DeploymentState]):
    """What is known of each deployment now, by its name; with a fleet, under `fleet`, how that stands.

    A type for checkers only, like a TypedDict: what `state()` returns is a plain dict."""

    if TYPE_CHECKING:  # A TypedDict has no way yet to say: this key, and any other.

        @overload
        def __getitem__(self, key: Literal["fleet"], /) -> FleetStatus: ...  # type: ignore[overload-overlap]
        @overload
        def __getitem__(self, key: str, /) -> DeploymentState: ...
        def __getitem__(self, key: str, /) -> FleetStatus | DeploymentState: ...

        @overload  # type: ignore[override]
        def get(self, key: Literal["fleet"], /) -> FleetStatus | None: ...  # type: ignore[overload-overlap]
        @overload
        def get(self, key: str, default: None = None, /) -> DeploymentState | None: ...
        @overload
        def get(self, key: str, default: _Default, /) -> DeploymentState | _Default: ...
        def get(self, key: str, default: object = None, /) -> object: ...
