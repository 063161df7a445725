"""A stream that breaks off: raised where it is delivered at once, mended where it is held until it is whole.

Prints:

    Once upon a [StreamBroken]
    Once upon a time there was a backup.
"""

import asyncio

from langchain_core.language_models import BaseChatModel

from llm_fallback import StreamBroken, build_chat_model
from llm_fallback.testing import Cut, FakeServer

STORY = "Once upon a time there was a backup."


async def tell(model: BaseChatModel) -> None:
    try:
        async for chunk in model.astream("Tell me a story."):
            print(chunk.text, end="")
    except StreamBroken:
        print(" [StreamBroken]", end="")
    print()


async def main() -> None:
    async with FakeServer({"primary": Cut(after_chunks=3, reply=STORY), "backup": STORY}) as server:
        async with build_chat_model(server.spec()) as model:
            await tell(model)
        async with build_chat_model(server.spec(), on_stream_break="hold") as model:
            await tell(model)


asyncio.run(main())
