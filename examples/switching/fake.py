"""The app on fake.yaml, with the servers that the spec names played on this machine. No network, no key.

    python fake.py "Good night."

The first server is down: the second one answers.
"""

import os
import sys
from pathlib import Path

from app import main

from llm_fallback.testing import Fail, FakeServer

with FakeServer({"primary": Fail(503), "backup": "Bonne nuit."}) as server:
    os.environ["FAKE_URL"] = server.url
    main(Path(__file__).with_name("fake.yaml"), *sys.argv[1:])
