"""The chains of a spec on Ray Serve, in two replicas.

    python chains_on_ray.py PORT SPEC

SIGHUP deploys it again, as `serve run` does: what changed in the spec is rolled out, replica by replica.
"""

import signal
import sys
from queue import SimpleQueue

import ray
from ray import serve

from llm_fallback.serving.ray import deployment


def deploy(spec: str) -> None:
    serve.run(deployment([spec]).options(num_replicas=2).bind(), name="chains", route_prefix="/")


def main(port: int, spec: str) -> None:
    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    orders: SimpleQueue[int] = SimpleQueue()
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda number, _: orders.put(number))
    deploy(spec)
    while orders.get() == signal.SIGHUP:
        deploy(spec)
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
