"""`fleet` in a spec: what may be written, what it comes to, and that its password stays in."""

from __future__ import annotations

import pickle

import pytest

from llm_fallback import SpecError, load_spec
from llm_fallback.plan.resolve import resolve_spec
from llm_fallback.spec.dump import dump_spec

BASE = {"deployments": {"a": {"model": "openai/x"}}, "chains": {"c": {"tiers": ["a"]}}}


def spec(**fleet):
    return load_spec({**BASE, "fleet": fleet})


def mistakes(**fleet) -> list[str]:
    with pytest.raises(SpecError) as raised:
        spec(**fleet)
    return [str(mistake) for mistake in raised.value.mistakes]


@pytest.mark.parametrize("store", ["redis://h:1/0", "rediss://u:p@h/0", "unix:///run/redis.sock", "file:///var/x.json"])
def test_a_store_is_redis_or_a_file(store):
    """By its address."""
    assert spec(store=store).fleet.store == store


def test_a_store_of_another_kind_is_told():
    """With those there are."""
    [mistake] = mistakes(store="memcached://h")
    assert mistake.startswith("fleet.store: must be an address that begins with redis://, rediss://, unix://, file:///")


def test_unknown_keys_missing_stores_and_impossible_numbers_are_told():
    """All at once, as anywhere."""
    assert len(mistakes(nme="x", processes=0)) == 3


def test_no_deployment_is_called_fleet():
    """`model.state()` tells of the fleet under that name."""
    with pytest.raises(SpecError, match="cannot be the name of a deployment"):
        load_spec({"deployments": {"fleet": {"model": "openai/x"}}, "chains": {"c": {"tiers": ["fleet"]}}})


def test_names_are_made_unreadable_by_the_stores_password_unless_there_is_a_secret():
    """Every process has it already."""
    plan = resolve_spec(spec(store="redis://:${PASSWORD}@h:1/0", name="${STAGE:-prod}"), {"PASSWORD": "sesame-open"})
    assert (plan.fleet.secret, plan.fleet.name) == ("sesame-open", "prod")
    assert resolve_spec(spec(store="redis://h", secret="own-secret"), {}).fleet.secret == "own-secret"


def test_an_unset_variable_and_a_wrong_address_behind_one_are_told():
    """When the model is built."""
    with pytest.raises(SpecError, match="REDIS_URL is not set"):
        resolve_spec(spec(store="${REDIS_URL}"), {})
    with pytest.raises(SpecError, match=r"fleet\.store: comes to no address"):
        resolve_spec(spec(store="${REDIS_URL}"), {"REDIS_URL": "h:6379"})


def test_its_secrets_are_shown_nowhere():
    """Not in a repr, a dump or a pickle; and they are redacted in what libraries say."""
    clear = spec(store="redis://:sesame-open@h:1/0", secret="own-secret")
    plan = resolve_spec(clear, {})
    data, notes = dump_spec(clear)
    for text in (repr(clear), repr(plan.fleet), str(data), str(notes), clear.model_dump_json()):
        assert "sesame" not in text
        assert "own-secret" not in text
    assert {"sesame-open", "own-secret"} <= set(plan.secrets)
    with pytest.raises(TypeError, match="secret in clear"):
        pickle.dumps(clear)
    assert pickle.loads(pickle.dumps(spec(store="${REDIS_URL}"))).fleet.store == "${REDIS_URL}"
