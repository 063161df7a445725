"""The whole of what a user may write: the `Spec`, and its JSON Schema for editors.

A `Spec` is always consistent: its names are defined, its backends have addresses, its numbers are in range. `load_spec`
makes one from files and reports mistakes with their lines. Fields hold what was written; methods such as
`Spec.timeouts` return what applies, with every default filled in.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, PrivateAttr, SecretStr, ValidationInfo, model_validator
from pydantic.json_schema import GenerateJsonSchema

from llm_fallback.errors import Mistake, SpecError, unknown_chain
from llm_fallback.spec import consistency
from llm_fallback.spec.entries import Chain, ChainSettings, Defaults, Deployment, Fleet, RunnableSpec
from llm_fallback.spec.error_messages import validate
from llm_fallback.spec.locations import LocationMap, Note, Path, Problem, children, dotted
from llm_fallback.spec.secrets import secrets_in, secrets_of_address
from llm_fallback.spec.settings import (
    Affinity,
    Balance,
    Breaker,
    Budget,
    ColdStart,
    Hedge,
    Limits,
    OnStreamBreak,
    Part,
    Retries,
    Serve,
    Timeouts,
)
from llm_fallback.spec.variables import Reference, filled, references, unset

_P = TypeVar("_P", bound=Part)

NO_CHAIN = Mistake("chains", "there is none, so nothing can be asked", "write one that has tiers")


class Spec(Part):
    """Deployments, chains of them, and what goes for all."""

    deployments: Annotated[dict[str, Deployment], Field(min_length=1)] = Field(
        description="Where models are served, by names of one's own."
    )
    chains: dict[str, Chain] = Field(default_factory=dict, description="What applications ask for, by name.")
    default_chain: str | None = Field(
        None, description="The chain that is meant when none is named. Default: the only one."
    )
    defaults: Defaults = Field(default_factory=Defaults, description="What goes for every chain and deployment.")
    runnables: dict[str, RunnableSpec] = Field(
        default_factory=dict, description="Prompts joined to chains, by name; `build_runnables` makes them."
    )
    fleet: Fleet | None = Field(None, description="Processes that share what they learn. Default: each is on its own.")
    serve: Serve = Field(
        default_factory=Serve, description="Where `llm-fallback serve` listens, and the keys it asks for."
    )

    _locations: LocationMap = PrivateAttr(default_factory=LocationMap)
    _variables: dict[str, SecretStr] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, data: Any) -> Any:
        return _with_default_chain(without_foreign_keys(data)) if isinstance(data, Mapping) else data

    @model_validator(mode="after")
    def _fits_together(self, info: ValidationInfo) -> Self:
        # `load_spec` checks the data itself, to tell where each problem stands.
        if isinstance(info.context, LocationMap):
            return self
        problems = consistency.problems(self.model_dump())
        if problems:
            raise ValueError("; ".join(str(problem.at(LocationMap())) for problem in problems))
        return self

    def model_post_init(self, context: Any) -> None:
        """Keep the locations, if they were given as the validation's context."""
        if isinstance(context, LocationMap):
            self._locations = context

    def __getstate__(self) -> dict[Any, Any]:
        addresses = [deployment.api_base or "" for deployment in self.deployments.values()]
        addresses += [self.fleet.store] if self.fleet else []
        secrets = (
            *secrets_in(self.model_dump()),
            *self.own_variables().values(),
            *(secret for address in addresses for secret in secrets_of_address(address)),
        )
        if not all(map(references, secrets)):
            # A pickle can be read by whoever finds it.
            raise TypeError("a Spec with a secret in clear does not pickle: write ${NAME} for it and set the variable")
        return super().__getstate__()

    @property
    def locations(self) -> LocationMap:
        """The file and line of every path; unknown for what did not come from a file."""
        return self._locations

    @property
    def notes(self) -> tuple[Note, ...]:
        """What the sources contained that has no place in a spec, as in a LiteLLM proxy's configuration."""
        return self._locations.notes

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The process's variables with those that a LiteLLM proxy's configuration sets, which win, in clear.

        One that is set to another variable, as `os.environ/NAME`, is left out where that is not set.
        """
        values = {
            name: filled(text, environ) for name, text in self.own_variables().items() if not unset(text, environ)
        }
        return {**environ, **values}

    def own_variables(self) -> dict[str, str]:
        """The variables that the spec's sources set themselves, in clear."""
        return {name: value.get_secret_value() for name, value in self._variables.items()}

    def with_variables(self, variables: Mapping[str, str]) -> "Spec":
        """The spec, with these variables of its own."""
        self._variables = {name: SecretStr(value) for name, value in variables.items()}
        return self

    def chain_name(self, name: str | None, word: str = "chain") -> str:
        """The name, if a chain has it; for None the default chain's. Raises SpecError naming the nearest, and the
        `word` of an argument."""
        chosen = self.default_chain if name is None else name
        if chosen in self.chains:
            return str(chosen)
        if not self.chains:
            raise SpecError([NO_CHAIN])
        place: Literal["spec", "arguments"] = "spec" if name is None else "arguments"
        raise SpecError([Mistake(word, *unknown_chain(chosen, self.chains, word))], place)

    def timeouts(self, chain: str, deployment: str | None = None) -> Timeouts:
        """The timeouts of a call of the chain, or of its attempts at one deployment."""
        of_deployment = None if deployment is None else self.deployments[deployment].timeouts
        return _filled(Timeouts, self.defaults.timeouts, self.chains[chain].timeouts, of_deployment)

    def retries(self, chain: str) -> Retries:
        """The retries of the chain: requests beyond one per deployment."""
        return _filled(Retries, self.defaults.retries, self.chains[chain].retries)

    def breaker(self, deployment: str) -> Breaker | None:
        """The deployment's breaker; None if it is off."""
        written, default = self.deployments[deployment].breaker, self.defaults.breaker
        breaker = default if written is None else _override(default, written)
        return _filled(Breaker, breaker) if breaker is None or isinstance(breaker, Breaker) else None

    def limits(self, deployment: str) -> Limits | None:
        """The deployment's limits; None if there are none."""
        limits: Limits | None = self._setting("limits", self.deployments[deployment])
        return limits

    def cold_start(self, deployment: str) -> ColdStart | None:
        """How long to wait for the deployment to start; None if it is always up."""
        cold_start: ColdStart | None = self._setting("cold_start", self.deployments[deployment])
        return cold_start

    def params(self, deployment: str) -> dict[str, Any]:
        """The deployment's request parameters, merged over those of the defaults."""
        return {**self.defaults.params, **self.deployments[deployment].params}

    def hedge(self, chain: str) -> Hedge | None:
        """When the chain asks a second deployment; None if it never does."""
        hedge = self._setting("hedge", self.chains[chain])
        return hedge if isinstance(hedge, Hedge) else None

    def on_stream_break(self, chain: str) -> OnStreamBreak:
        """What to do when a stream ends early. Default: `hold` for a chain with `accept`, else `raise`."""
        written: OnStreamBreak | None = self._setting("on_stream_break", self.chains[chain])
        if written is not None:
            return written
        return "raise" if self.accept(chain) is None else "hold"

    def accept(self, chain: str) -> str | Callable[..., bool] | None:
        """The validator of the chain's replies, an import path or a function; None if there is none."""
        accept: str | Callable[..., bool] | None = self._setting("accept", self.chains[chain])
        return accept

    def budget(self, chain: str) -> Budget | None:
        """The budget of the chain; None if there is none."""
        budget: Budget | None = self._setting("budget", self.chains[chain])
        return budget

    def balance(self, chain: str) -> Balance:
        """Who of a tier of the chain is asked first."""
        balance: Balance | None = self._setting("balance", self.chains[chain])
        return balance or "least_loaded"

    def affinity(self, chain: str) -> Affinity:
        """What of the chain's calls stays on one member of a tier."""
        affinity: Affinity | None = self._setting("affinity", self.chains[chain])
        return affinity or "off"

    def zones(self, chain: str) -> frozenset[str] | None:
        """Where the chain's prompts may go; None: anywhere."""
        zones: frozenset[str] | None = self._setting("zones", self.chains[chain])
        return zones

    def is_inside(self, chain: str, deployment: str) -> bool:
        """Whether the chain's prompts may go to the deployment."""
        zones = self.zones(chain)
        return zones is None or self.deployments[deployment].zone in zones

    def references(self) -> Iterator[tuple[Path, Reference]]:
        """Every variable in the spec, with the path of the text it stands in."""
        yield from _references(self.defaults.params, ("defaults", "params"))
        settings: list[tuple[Path, ChainSettings]] = [(("defaults",), self.defaults)]
        for path, entry in settings + [(("chains", name), chain) for name, chain in self.chains.items()]:
            yield from _references(entry.budget and entry.budget.file, (*path, "budget", "file"))
        for name, deployment in self.deployments.items():
            for field in ("model", "base_model", "api_key", "api_base", "params"):
                yield from _references(getattr(deployment, field), ("deployments", name, field))
        for field in ("store", "name", "secret"):
            yield from _references(self.fleet and getattr(self.fleet, field), ("fleet", field))
        yield from _references(self.serve.keys, ("serve", "keys"))

    def with_chain_settings(self, *chains: str, **settings: Any) -> "Spec":
        """The spec with settings of chains overridden key by key, as the arguments of `build_chat_model` do.

        Raises SpecError with paths such as `build_chat_model(timeouts.total_s)`.
        """
        outcome = self._overridden(chains, settings)
        # A traceback shows this frame, and a refused setting may be a key.
        del settings
        if isinstance(outcome, Spec):
            return outcome
        raise SpecError([of_build(problem) for problem in outcome], "arguments")

    def _setting(self, name: str, entry: Part) -> Any:
        default = getattr(self.defaults, name)
        return _override(default, getattr(entry, name)) if name in entry.model_fields_set else default

    def _overridden(self, chains: Sequence[str], settings: Mapping[str, Any]) -> "Spec | list[Problem]":
        unknown = [Problem(("chain",), *unknown_chain(name, self.chains)) for name in chains if name not in self.chains]
        if unknown:
            return unknown
        overrides = validate(ChainSettings, settings, whole=Spec)
        if not isinstance(overrides, ChainSettings):
            return overrides
        changed = {name: self._changed(self.chains[name], overrides) for name in chains}
        problems = [
            problem
            for name, chain in changed.items()
            for problem in consistency.stream_break(chain.given(), self.defaults.given(), ("chains", name))
        ]
        return problems or self.model_copy(update={"chains": {**self.chains, **changed}})

    @staticmethod
    def _changed(chain: Chain, overrides: ChainSettings) -> Chain:
        update = {name: _override(getattr(chain, name), value) for name, value in overrides.given().items()}
        return chain.model_copy(update=update)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a spec file, for editors and other tools."""
    schema = Spec.model_json_schema(schema_generator=_Schema)
    schema["properties"]["$schema"] = {
        "type": "string",
        "description": "The address of this schema, for editors.",
    }
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        **schema,
        "title": "llm-fallback",
        "patternProperties": {"^x-": {"description": "Anything; ignored. A place for anchors."}},
    }


class _Schema(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def without_foreign_keys(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a spec without `x-...` keys, `$schema`, and sections that are null."""
    return {
        key: value
        for key, value in data.items()
        if not key.startswith("x-") and key != "$schema" and not (value is None and key in Spec.model_fields)
    }


def _with_default_chain(data: dict[str, Any]) -> dict[str, Any]:
    chains = data.get("chains")
    if "default_chain" in data or not isinstance(chains, Mapping) or len(chains) != 1:
        return data
    return {**data, "default_chain": next(iter(chains))}


def _override(base: Any, top: Any) -> Any:
    if isinstance(base, Part) and isinstance(top, Part):
        return type(top)(**{**base.given(), **top.given()})
    return top


def _filled(kind: type[_P], *layers: Part | None) -> _P:
    given: dict[str, Any] = {}
    for layer in layers:
        given.update({} if layer is None else layer.given())
    return kind(**given)


def _references(value: Any, path: Path) -> Iterator[tuple[Path, Reference]]:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if isinstance(text, str):
        yield from ((path, reference) for reference in references(text))
    for key, item in children(value):
        yield from _references(item, (*path, key))


def of_build(problem: Problem) -> Mistake:
    """The problem as a mistake in an argument of `build_chat_model`."""
    return Mistake(f"build_chat_model({dotted(problem.path)})", problem.text, problem.remedy)
