"""A listener is told what happens during a call, as it happens; the state of the breakers tells what is left.

Prints:

    attempt failed: primary, rate_limited
    breaker opened: primary for 30 s
    fell back: primary -> backup
    call ended: answered by backup after 2 attempts
    {'primary': 'open', 'backup': 'closed'}
"""

from llm_fallback import AttemptFailed, BreakerOpened, CallEnded, Event, FellBack, build_chat_model
from llm_fallback.testing import Fail, FakeServer


def listen(event: Event) -> None:
    match event:
        case AttemptFailed(attempt=attempt):
            print(f"attempt failed: {attempt.deployment}, {attempt.failure}")
        case BreakerOpened(deployment=deployment, retry_in_s=seconds):
            print(f"breaker opened: {deployment} for {seconds:.0f} s")
        case FellBack(source=source, target=target):
            print(f"fell back: {source} -> {target}")
        case CallEnded(record=record):
            print(f"call ended: answered by {record.deployment} after {len(record.attempts)} attempts")


with (
    FakeServer({"primary": Fail(429, retry_after=30), "backup": "hello"}) as server,
    build_chat_model(server.spec(), listeners=[listen]) as model,
):
    model.invoke("hi")
    print({name: state["breaker"] for name, state in model.state().items()})
