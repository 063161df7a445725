"""How servers word what their status leaves open, one dialect each.

A status means the same with every server; a code or type in the body, where there is one, is next; wording comes last
and decides only what those leave open. Gateways hand on the words of whatever stands behind them, so no dialect is
tied to a provider: every error is read in all of them. The bodies these were taken from are in tests/corpus/.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from llm_fallback.events import Failure

Words = Mapping[Failure, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one family of servers says."""

    family: str
    codes: Words = field(default_factory=dict)
    """Codes, types, reasons and names of exceptions, in lower case."""
    wordings: Words = field(default_factory=dict)
    """Regular expressions, for any place in the text."""
    statuses: Mapping[str, int] = field(default_factory=dict)
    """The HTTP status a code would have come with, for errors inside of a 200."""


DIALECTS = (
    Dialect(
        "OpenAI, and the many who speak like it",
        codes={
            "context_window": ("context_length_exceeded", "model_context_window_exceeded"),
            "content_policy": ("content_policy_violation", "content_filter"),
            "quota_exhausted": ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active"),
            "auth": ("invalid_api_key",),
            "not_found": ("model_not_found",),
        },
        wordings={
            "context_window": (
                *(r"maximum context length", r"\bcontext window\b", r"reduce the length of the (?:messages|prompt)"),
                *(r"input tokens exceed the configured limit", r"context length (?:is )?exceeded"),
                # OpenAI bounds every field by its characters, and these hold the prompt.
                r"invalid '(?:input|prompt|(?:messages|input)\[\d+\]\.content(?:\[\d+\]\.text)?)': string too long",
            ),
            "bad_request": (r": string too long\. expected a string with maximum length",),
            "content_policy": (r"rejected as a result of our safety system", r"prompt was (?:flagged|blocked)"),
            "quota_exhausted": (
                r"exceeded your current quota",
                r"billing hard limit",
                r"check your billing details",
                r"insufficient (?:account )?(?:balance|credits?|funds)",
            ),
            "auth": (r"incorrect api key",),
            "not_found": (r"the model .{1,200} does not exist",),
        },
        statuses={"rate_limit_exceeded": 429, "insufficient_quota": 429, "invalid_request_error": 400},
    ),
    Dialect(
        "Azure",
        codes={"content_policy": ("responsibleaipolicyviolation",)},
        wordings={
            "content_policy": (r"content management policy",),
            "quota_exhausted": (r"out of (?:call volume|bandwidth) quota",),
        },
    ),
    Dialect(
        "Anthropic",
        codes={"overloaded": ("overloaded_error",), "quota_exhausted": ("billing_error",)},
        wordings={
            "context_window": (r"prompt is too long", r"max_tokens. exceed context limit"),
            "content_policy": (r"blocked by (?:our )?content filter",),
            "quota_exhausted": (r"credit balance is too low", r"reached your specified api usage limits"),
            "auth": (r"invalid x-api-key",),
            "overloaded": (r"^overloaded$",),
        },
        statuses={
            "overloaded_error": 529,
            "rate_limit_error": 429,
            "authentication_error": 401,
            "permission_error": 403,
            "not_found_error": 404,
            "request_too_large": 413,
        },
    ),
    Dialect(
        "Amazon Bedrock",
        codes={
            "quota_exhausted": ("servicequotaexceededexception",),
            "overloaded": ("modelnotreadyexception",),
        },
        wordings={
            "context_window": (r"input is too long", r"too many input tokens"),
            "not_found": (r"model identifier is invalid", r"with on-demand throughput isn.t supported"),
        },
        statuses={
            "internalserverexception": 500,
            "modelstreamerrorexception": 424,
            "serviceunavailableexception": 503,
            "throttlingexception": 429,
            "validationexception": 400,
        },
    ),
    Dialect(
        "Google (Gemini, Vertex)",
        codes={"auth": ("api_key_invalid",)},
        wordings={
            "context_window": (r"input token count.{0,40}exceeds the maximum",),
            "quota_exhausted": (r"please enable billing",),
            "auth": (r"api key (?:not valid|expired)", r"user location is not supported"),
        },
        statuses={"resource_exhausted": 429, "unavailable": 503, "invalid_argument": 400},
    ),
    Dialect(
        "Mistral",
        codes={"not_found": ("invalid_model",)},
        wordings={"context_window": (r"too large for model with \d+ maximum context",)},
    ),
    Dialect(
        "OpenRouter, DeepSeek, xAI, Groq",
        codes={
            "content_policy": ("flagged_input",),
            "overloaded": ("capacity_exceeded",),
            "not_found": ("model_decommissioned",),
        },
        wordings={
            "context_window": (r"maximum prompt length is",),
            "content_policy": (r"content exists risk", r"failed check: safety_check"),
            "bad_request": (r"no endpoints found that (?:support|can handle)",),
            "quota_exhausted": (
                *(r"used all available credits", r"out of credits", r"payment required"),
                r"(?:doesn.t|do not|don.t|does not) have any (?:more )?credits",
            ),
            "not_found": (r"^model not exist",),
        },
    ),
    Dialect(
        "Groq, Fireworks and others about an account",
        codes={"auth": ("organization_restricted",)},
        wordings={
            "quota_exhausted": (r"account .{0,80}is suspended", r"reach(?:ed|ing) .{0,40}spending limit"),
        },
    ),
    Dialect(
        "Alibaba Model Studio (DashScope)",
        codes={
            "quota_exhausted": ("arrearage", "allocationquota.freetieronly"),
            "content_policy": ("data_inspection_failed", "datainspectionfailed"),
        },
        wordings={"context_window": (r"range of input length should be",)},
    ),
    Dialect(
        "Z.AI (Zhipu)",
        codes={
            "quota_exhausted": ("1113",),
            "auth": ("1110", "1111", "1112", "1121"),
            "not_found": ("1211",),
            "context_window": ("1261",),
            "content_policy": ("1301",),
        },
        wordings={"context_window": (r"tokens in request more than max tokens", r"prompt 超长")},
    ),
    Dialect(
        "Moonshot (Kimi)",
        codes={"quota_exhausted": ("exceeded_current_quota_error",)},
        wordings={
            "context_window": (r"exceeded model token limit", r"input token length too long"),
            "content_policy": (r"rejected because it was considered high risk",),
        },
    ),
    Dialect(
        "Baidu Qianfan",
        codes={"context_window": ("tokens_too_long", "characters_too_long")},
    ),
    Dialect(
        "GitHub Models and Copilot",
        codes={"context_window": ("model_max_prompt_tokens_exceeded", "tokens_limit_reached")},
        wordings={
            "context_window": (r"prompt token count of \d+ exceeds", r"request body too large for .{0,80}max size")
        },
    ),
    Dialect(
        "IBM watsonx, SiliconFlow, Cohere",
        wordings={
            "context_window": (
                r"number of input tokens \d+ cannot exceed",
                r"length of prompt_tokens .{0,40}must be less than max_seq_len",
                r"too many tokens: ",
            ),
        },
    ),
    Dialect(
        "vLLM, and Ray Serve LLM and OpenLLM over it",
        wordings={
            "context_window": (
                *(r"maximum input length of", r"cannot be greater than max_model_len"),
                r"longer than the maximum model length",
            ),
        },
    ),
    Dialect(
        "TensorRT-LLM",
        wordings={
            "context_window": (
                r"should not exceed max_(?:seq_len|num_tokens|input_len)",
                r"default_max_tokens. \(-?\d+\) must be greater than 0",
                r"is greater than .max_seq_len",
                r"larger than max_seq_len",
            ),
        },
    ),
    Dialect(
        "SGLang",
        wordings={
            "context_window": (
                *(r"longer than the model's context", r"requested token count exceeds"),
                r"exceeds the maximum allowed length",
            ),
        },
        statuses={"service_unavailable": 503},
    ),
    Dialect(
        "llama.cpp, LM Studio, text-generation-inference, transformers serve",
        codes={"context_window": ("exceed_context_size_error",)},
        wordings={
            "context_window": (
                r"exceeds? the (?:available )?context size",
                r"loaded with context length of only",
                r"greater than the context length",
                r"exceeded (?:max )?context length",
                r"`max_new_tokens` must be <=",
            ),
            "not_found": (r"server is pinned to",),
        },
    ),
    Dialect(
        "Ray Serve",
        wordings={"overloaded": (r"/-/routes for available routes", r"route table is not populated")},
    ),
    Dialect(
        "LiteLLM, as a proxy",
        codes={"auth": ("no_db_connection",), "quota_exhausted": ("budget_exceeded",)},
        wordings={
            "context_window": (r"ContextWindowExceeded",),
            "content_policy": (r"ContentPolicyViolation",),
            "not_found": (r"invalid model name",),
        },
    ),
    Dialect(
        "LiteLLM, as a library: the classes of its exceptions",
        codes={
            "context_window": ("contextwindowexceedederror",),
            "content_policy": ("contentpolicyviolationerror",),
            "quota_exhausted": ("paymentrequirederror",),
            "auth": ("authenticationerror", "permissiondeniederror"),
        },
    ),
)

_IN_ORDER: tuple[Failure, ...] = (
    *("context_window", "content_policy", "quota_exhausted", "auth", "not_found", "overloaded", "bad_request"),
)
"""Where a text has the words of two failures, the first of these wins."""

CODES: Mapping[str, Failure] = {
    code: failure for dialect in DIALECTS for failure, codes in dialect.codes.items() for code in codes
}
STATUSES: Mapping[str, int] = {code: status for dialect in DIALECTS for code, status in dialect.statuses.items()}

_WORDINGS = {
    failure: re.compile(
        "|".join(pattern for dialect in DIALECTS for pattern in dialect.wordings.get(failure, ())),
        re.IGNORECASE | re.MULTILINE,
    )
    for failure in _IN_ORDER
}


def by_code(codes: Iterable[str], among: frozenset[Failure]) -> Failure | None:
    """What the first code that means one of these failures means."""
    meant = (CODES.get(code.lower()) for code in codes)
    return next((failure for failure in meant if failure in among), None)


def by_wording(text: str, among: frozenset[Failure]) -> Failure | None:
    """Which of these failures a text talks of."""
    return next((failure for failure in _IN_ORDER if failure in among and _WORDINGS[failure].search(text)), None)
