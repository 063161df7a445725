"""Callers: who makes a call as it is planned, from a task or from a thread, and leaves it as it is planned."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from langchain_core.messages import AIMessageChunk

from tests.histories import threads
from tests.histories.calls import AsyncTracer, Call, Tracer, current_call
from tests.histories.loop import SeededLoop
from tests.histories.servers import question
from tests.histories.threads import Threads
from tests.histories.world import World

MAX_TOKENS = 64
"""More than any answer has."""
_TOOLS = [
    {
        "type": "function",
        "function": {"name": "look_up", "description": "Look words up.", "parameters": {"type": "object"}},
    }
]


class Caller:
    """Makes one call."""

    def __init__(self, world: World, loop: SeededLoop, threads: Threads, call: Call) -> None:
        self._world, self._loop, self._threads, self._call = world, loop, threads, call
        self._model = call.process.model
        self._has_ended: asyncio.Future[None] = loop.create_future()

    async def make_it(self) -> None:
        """Until its end, or its caller's."""
        leave = self._begin()
        died = self._call.process.died
        if self._call.ask.leaving in ("cancels", "cancels twice"):
            leaves_after = self._call.ask.leaves_after
            await asyncio.wait([self._has_ended, died], timeout=leaves_after, return_when=asyncio.FIRST_COMPLETED)
            await self._cancel(leave)
        await asyncio.wait([self._has_ended, died], return_when=asyncio.FIRST_COMPLETED)
        self._call.was_killed = not self._has_ended.done()
        self._call.ended = self._world.now

    def _begin(self) -> Callable[[], object]:
        """Begin it in its process; returns by which it is cancelled."""
        call, context = self._call, self._call.process.context.copy()
        context.run(current_call.set, call)
        if call.ask.in_thread:
            thread = context.run(self._threads.start, self._in_thread)
            return lambda: thread.interrupt(KeyboardInterrupt())
        task = self._loop.create_task(self._in_task(), context=context)
        task.add_done_callback(lambda _: self._has_ended.set_result(None))
        return task.cancel

    async def _cancel(self, leave: Callable[[], object]) -> None:
        for _ in range(2 if self._call.ask.leaving == "cancels twice" else 1):
            if not self._has_ended.done() and self._call.process.is_alive:
                self._world.note(f"{self._call.name} is cancelled")
                self._call.has_left = True
                leave()
                await asyncio.sleep(0)

    def _words(self) -> dict[str, Any]:
        ask, tracer = self._call.ask, Tracer if self._call.ask.in_thread else AsyncTracer
        words: dict[str, Any] = {"chain": ask.chain, "max_tokens": MAX_TOKENS}
        words["config"] = {"configurable": {}, "metadata": {"call": ask.name}}
        if ask.thread is not None:
            words["config"]["configurable"]["thread_id"] = ask.thread
        if ask.is_traced:
            words["config"]["callbacks"] = [tracer(self._call.traced)]
        if ask.total_s is not None:
            words["timeout"] = ask.total_s
        if ask.zones is not None:
            words["zones"] = list(ask.zones)
        if ask.tools:
            words["tools"] = _TOOLS
        return words

    def _question(self) -> str:
        ask = self._call.ask
        return question(ask.name, ask.words, ask.tools)

    def _got(self, chunk: Any) -> None:
        call = self._call
        assert isinstance(chunk, AIMessageChunk)
        call.chunks.append(chunk)
        calls = "".join(f" {part['args']!r}" for part in chunk.tool_call_chunks)
        self._world.note(f"{call.name} gets {chunk.text!r}{calls}")
        if call.got_first_content_at is None and call.has_content:
            call.got_first_content_at = self._world.now

    @property
    def _has_enough(self) -> bool:
        ask = self._call.ask
        return ask.leaving in ("closes", "drops") and len(self._call.chunks) >= ask.leaves_after

    def _leave_stream(self) -> None:
        self._world.note(f"{self._call.name} {self._call.ask.leaving} its stream")
        self._call.has_left = True

    # From a task.

    async def _in_task(self) -> None:
        call = self._call
        try:
            async with asyncio.timeout(call.ask.leaves_after if call.ask.leaving == "times out" else None) as limit:
                await (self._stream() if call.ask.streamed else self._invoke())
        except BaseException as error:
            call.error, call.has_left = error, call.has_left or limit.expired()

    async def _invoke(self) -> None:
        self._call.reply = await self._model.ainvoke(self._question(), **self._words())

    async def _stream(self) -> None:
        stream: Any = self._model.astream(self._question(), **self._words())
        try:
            while not self._has_enough:
                chunk = await anext(stream, None)
                if chunk is None:
                    return
                self._got(chunk)
                if self._call.ask.pause_s:
                    await self._hold()
        except BaseException:
            await stream.aclose()
            raise
        self._leave_stream()
        if self._call.ask.leaving == "closes":
            await stream.aclose()

    async def _hold(self) -> None:
        since = self._world.now
        try:
            await asyncio.sleep(self._call.ask.pause_s)
        finally:
            self._call.held_s += self._world.now - since

    # From a thread.

    def _in_thread(self) -> None:
        call = self._call
        try:
            self._stream_in_thread() if call.ask.streamed else self._invoke_in_thread()
        except threads.Abandoned:
            raise
        except BaseException as error:
            call.error = error
        self._has_ended.set_result(None)

    def _invoke_in_thread(self) -> None:
        self._call.reply = self._model.invoke(self._question(), **self._words())

    def _stream_in_thread(self) -> None:
        stream: Any = self._model.stream(self._question(), **self._words())
        try:
            while not self._has_enough:
                chunk = next(stream, None)
                if chunk is None:
                    return
                self._got(chunk)
                if self._call.ask.pause_s:
                    self._hold_in_thread()
        except BaseException:
            stream.close()
            raise
        self._leave_stream()
        if self._call.ask.leaving == "closes":
            stream.close()

    def _hold_in_thread(self) -> None:
        since = self._world.now
        try:
            threads.sleep(self._call.ask.pause_s)
        finally:
            self._call.held_s += self._world.now - since
