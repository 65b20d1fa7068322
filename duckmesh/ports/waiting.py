"""Waiting with a bound.

Not `asyncio.wait_for`: on Python 3.11 it loses a cancellation that comes in the same turn as the result, and a task
that lost its cancellation never ends.
"""

import asyncio


async def waited(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait until the event is set, at most ``timeout_s`` seconds; whether it is."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
