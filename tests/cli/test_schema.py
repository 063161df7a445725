"""`llm-fallback schema`: the JSON Schema of a spec."""

import json

import jsonschema
import yaml

from tests.cli.conftest import FINE


def test_it_is_a_schema_that_a_spec_fulfils(run):
    """And a mistake does not."""
    schema = json.loads(run("schema").stdout)
    validator = jsonschema.Draft202012Validator(schema)
    spec = yaml.safe_load(FINE)
    assert validator.is_valid(spec)
    assert not validator.is_valid({**spec, "deployment": {}})
