"""A file of prompts, answered by a chain whose first deployment fails now and then; then once more with nothing to do.

Prints:

    6 of 6 rows answered, 0 failed
    q0: A fake answer to: Translate 0
    asked again: 0 times
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from llm_fallback import build_chat_model
from llm_fallback.testing import Fail, FakeServer

with TemporaryDirectory() as folder, FakeServer({"own": [Fail(500), Fail(429)], "backup": None}) as server:
    source, target = Path(folder) / "prompts.jsonl", Path(folder) / "answers.jsonl"
    source.write_text("".join(json.dumps({"id": f"q{n}", "prompt": f"Translate {n}"}) + "\n" for n in range(6)))

    with build_chat_model(server.spec()) as model:
        result = model.batch_file(source, target)
        print(f"{result['answered']} of {result['rows']} rows answered, {result['failed']} failed")

        rows = sorted((json.loads(line) for line in target.open()), key=lambda row: row["row"])
        print(f"{rows[0]['id']}: {rows[0]['answer']}")

        before = len(server.received())
        model.batch_file(source, target)
        print(f"asked again: {len(server.received()) - before} times")
