"""Requests are worked on a few at a time, and neither slow senders nor long answers keep others out."""

from __future__ import annotations

import asyncio

from portal.admission import MOST_AT_ONCE, in_turn
from portal.bodies import Message, Receive, Send
from tests.web.browsing import run_apart

REQUEST: Message = {"type": "http.request", "more_body": False}
START: Message = {"type": "http.response.start", "status": 200}


async def nowhere(message: Message) -> None:
    await asyncio.sleep(0)


async def sent() -> Message:
    return REQUEST


def test_no_more_are_worked_on_than_have_a_place() -> None:
    at_work: list[int] = []
    now = 0

    async def app(_scope: Message, receive: Receive, send: Send) -> None:
        nonlocal now
        await receive()
        now += 1
        at_work.append(now)
        await asyncio.sleep(0)
        now -= 1
        await send(START)

    async def story() -> None:
        await asyncio.gather(*(in_turn(app, {}, sent, nowhere) for _ in range(5 * MOST_AT_ONCE)))

    run_apart(story())
    assert len(at_work) == 5 * MOST_AT_ONCE
    assert max(at_work) == MOST_AT_ONCE


def test_slow_senders_long_answers_and_failures_hold_no_place() -> None:
    never = asyncio.Event()
    answered = 0

    async def waits(_scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await send(START)
        await never.wait()

    async def fails(_scope: Message, receive: Receive, _send: Send) -> None:
        await receive()
        raise ValueError

    async def answers(_scope: Message, receive: Receive, send: Send) -> None:
        nonlocal answered
        await receive()
        await send(START)
        answered += 1

    async def never_sent() -> Message:
        await never.wait()
        return REQUEST

    async def story() -> None:
        crowd = range(2 * MOST_AT_ONCE)
        slow = [asyncio.ensure_future(in_turn(answers, {}, never_sent, nowhere)) for _ in crowd]
        long = [asyncio.ensure_future(in_turn(waits, {}, sent, nowhere)) for _ in crowd]
        await asyncio.gather(*(in_turn(fails, {}, sent, nowhere) for _ in crowd), return_exceptions=True)
        await asyncio.wait_for(in_turn(answers, {}, sent, nowhere), timeout=10)
        for one in (*slow, *long):
            one.cancel()

    run_apart(story())
    assert answered == 1
