"""Sends the webhooks that the settle script stored: at least once, a few tries each, whoever is alive.

`longshore:webhooks` is a sorted set; a score is the time from which on anybody may send the entry. Only addresses of
hosts that the operator allows are called, and no redirect is followed: what a job names can't lead elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from consumer.settings import Rq
from consumer.tasks import end

if TYPE_CHECKING:
    import aiohttp

log = structlog.get_logger()

KEY = "longshore:webhooks"
EVERY = 1.0
"""Seconds between two looks for webhooks that are due."""
DELAYS = (10, 60)
"""Seconds until the second and the third try, the last one."""
AT_A_TIME = 20
LONGEST = 60.0
"""Seconds that a webhook may take, whatever its job says."""

_TAKE = """
-- 1 how many, 2 seconds that they are ours
local now = tonumber(redis.call('TIME')[1])
local due = redis.call('ZRANGEBYSCORE', KEYS[1], 0, now, 'LIMIT', 0, ARGV[1])
for _, entry in ipairs(due) do redis.call('ZADD', KEYS[1], now + ARGV[2], entry) end
return due
"""

_AGAIN = """
-- 1 the entry, 2 its successor or '', 3 seconds until that is due
if redis.call('ZREM', KEYS[1], ARGV[1]) == 1 and ARGV[2] ~= '' then
  redis.call('ZADD', KEYS[1], tonumber(redis.call('TIME')[1]) + ARGV[3], ARGV[2])
end
"""


class Webhooks:
    """The sender of one consumer."""

    def __init__(self, redis: Redis, rq: Rq) -> None:
        self._redis, self._rq = redis, rq
        self._take = redis.register_script(_TAKE)
        self._again = redis.register_script(_AGAIN)
        self._session: aiohttp.ClientSession | None = None
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Sends what is due, until cancelled."""
        while True:
            try:
                for entry in await self._take(keys=[KEY], args=[AT_A_TIME - len(self._sending), int(LONGEST) + 30]):
                    task = asyncio.create_task(self._deal_with(entry))
                    self._sending.add(task)
                    task.add_done_callback(self._sending.discard)
            except RedisError:
                pass  # the signs of life report it
            await asyncio.sleep(EVERY)

    async def close(self) -> None:
        """What isn't sent yet is sent by another consumer, or by the next one."""
        await end(*self._sending)
        if self._session is not None:
            await self._session.close()

    async def _deal_with(self, entry: bytes) -> None:
        told: dict[str, Any] = {}
        try:
            call = json.loads(entry)
            hook, body, tries = dict(call["hook"]), dict(call["body"]), int(call["tries"])
            told = {"job": body.get("job_id"), "host": urlsplit(str(hook.get("url"))).hostname}
            failure, lasting = await self._send(hook, body)
        except (ValueError, TypeError, KeyError) as error:
            failure, lasting, tries, call = f"can't be read ({type(error).__name__})", True, 0, {}
        successor, delay = "", 0
        if failure and not lasting and tries < len(DELAYS):
            successor, delay = json.dumps({**call, "tries": tries + 1}), DELAYS[tries]
        elif failure:
            log.warning("webhook_not_sent", error=failure, tries=tries + 1, **told)
        with contextlib.suppress(RedisError):  # then it comes once more
            await self._again(keys=[KEY], args=[entry, successor, delay])

    async def _send(self, hook: Mapping[str, Any], body: Mapping[str, Any]) -> tuple[str, bool]:
        """What went wrong, if anything; and whether it would again."""
        import aiohttp  # a fifth of a second at each start, and few consumers send webhooks

        url = urlsplit(str(hook["url"]))
        if url.scheme not in ("http", "https") or not url.hostname:
            return "its URL is no http:// or https:// address", True
        if not self._rq.may_call(url.hostname):
            return "its host isn't among those of rq.webhooks", True
        headers = {str(name): str(value) for name, value in dict(hook.get("headers") or {}).items()}
        seconds = min(LONGEST, max(1.0, float(hook.get("timeout") or 10)))
        post = hook.get("method") == "POST"
        if post:
            headers = {"Content-Type": "application/json", **headers}
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=True, cookie_jar=aiohttp.DummyCookieJar())
        try:
            async with self._session.request(
                "POST" if post else "GET",
                str(hook["url"]),
                data=json.dumps(body).encode() if post else None,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=seconds),
                allow_redirects=False,
            ) as answer:
                if answer.status < 300:
                    return "", False
                return f"it was answered with {answer.status}", answer.status < 500 and answer.status != 429
        except (aiohttp.InvalidURL, ValueError) as error:
            return f"its request can't be made ({type(error).__name__})", True
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return f"no answer ({type(error).__name__})", False
