"""A page of a deployment's server: its health, its models."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import httpx
from pydantic import SecretStr

from llm_fallback.faults import Fault
from llm_fallback.looks import Page
from llm_fallback.plan import Target
from llm_fallback.seam.headers import own_headers, replaced
from llm_fallback.seam.redirects import Redirects, guarding
from llm_fallback.seam.upstream import classes_of, fault_of_transfer


def headers_for(target: Target, api_key: SecretStr | None) -> dict[str, str]:
    """What a request to the deployment would carry."""
    key = {} if api_key is None else {"Authorization": f"Bearer {api_key.get_secret_value()}"}
    return replaced(key, own_headers(target.parameters))


async def look(
    client: httpx.AsyncClient, url: str, headers: Mapping[str, str], scrub: Callable[[str], str]
) -> Page | Fault:
    """The page, or why there is none. What is raised in here would take the headers along; so nothing is."""
    cancelled, redirects = False, Redirects()
    try:
        with guarding(redirects):
            response = await client.get(url, headers=headers)
        return Page(response.status_code, _data(scrub(response.text)), response.elapsed.total_seconds())
    except asyncio.CancelledError:
        cancelled = True
    except Exception as error:  # noqa: BLE001 - whatever an HTTP library raises is a fault to classify
        fault = redirects.refused or fault_of_transfer(error, classes_of(error), None)
    if cancelled:
        raise asyncio.CancelledError
    return Fault(fault.failure, scrub(fault.message), fault.status)


def _data(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
