"""
What the triggers of an event loop share: the way to Airflow; and those with the same connection, its client.

That is a few HTTP connections, the pollers, and cancels that go before all status calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_dli import machine
from airflow_provider_dli.client.cancelling import HEDGE_AFTER, cancel_in_loop
from airflow_provider_dli.client.patience import BOUNDED, IN_THREAD, URGENT
from airflow_provider_dli.exceptions import DliAuthenticationError, DliError, DliTemporaryError
from airflow_provider_dli.hooks.dli import DliHook
from airflow_provider_dli.threads import run_in_thread
from airflow_provider_dli.triggers.questions import Channel, ConnectionKey
from airflow_provider_dli.waiting.poller import Poller
from airflow_provider_dli.waiting.watcher import OUTAGE_BUDGET

if TYPE_CHECKING:
    from airflow_provider_dli.api.job_kind import JobKind
    from airflow_provider_dli.client.client import DliClient
    from airflow_provider_dli.client.connection import DliConnection
    from airflow_provider_dli.job import Cancellation

T = TypeVar("T")

# One try, whose time the caller limits.
_ONCE = replace(BOUNDED, give_up_after=0)
_ONE_CANCEL = replace(_ONCE, is_urgent=True)
# How many cancels are sent at the same time.
_CANCELS_AT_ONCE = 64
# For how long status calls wait for cancels after the first one, in seconds.
_CANCELS_FIRST_FOR = 30.0
# The longest pause before the connection is asked for again, in seconds.
_LONGEST_PAUSE = 30.0
# For how long a key that has just signed a cancel is used by others without waiting for the first one, in seconds.
_TRUSTED_FOR = 1.0
# For how long other cancels do not send what was refused to the first one, in seconds.
_REFUSED_FOR = 5.0
# How long a cancel whose credentials are refused asks Airflow for newer ones, and how often, in seconds.
_ASKS_FOR_NEWER, _ASKS_AGAIN_AFTER = 20.0, 1.0


class _ConnectionUnknownError(DliTemporaryError):
    """Airflow does not tell the connection, or not whether the credentials that were refused have been replaced."""


class SharedClient:
    """
    The client of one connection in one event loop.

    :param hook: Names the connection.
    :param ask: Asks Airflow for the connection. The hook does not, for only the event loop may.
    """

    def __init__(self, hook: DliHook, ask: Callable[[], Awaitable[DliConnection]]) -> None:
        self._conn_id = hook.dli_conn_id
        self._log = hook.log
        self._client = hook.client.patient(IN_THREAD)
        self._ask = ask
        self._is_read = self._has_answered = False
        self._idle: deque[DliClient] = deque()
        self._pollers: dict[str, Poller] = {}
        self._cancels = asyncio.Semaphore(_CANCELS_AT_ONCE)
        self._first = asyncio.Lock()
        self._trusted_until = 0.0
        self._refusal: tuple[int, DliAuthenticationError] | None = None
        self._refused_until = 0.0
        self._cancelling = 0
        self._cancels_first_until = 0.0
        self._no_cancels = asyncio.Event()
        self._no_cancels.set()

    def poller(self, kind: JobKind[Any]) -> Poller:
        """Return what looks at the jobs of a kind."""
        if kind.name not in self._pollers:
            self._pollers[kind.name] = Poller(kind, self.call, self._log)
        return self._pollers[kind.name]

    async def call(self, function: Callable[[DliClient], T], within: float) -> T:
        """
        Call a function in a thread, with a connected client that makes one try. Cancels go first.

        Once more, if the credentials are refused and Airflow has others by now.

        :param within: Seconds.
        :raises DliTemporaryError: The time was over, or Airflow does not tell the connection.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(self._cancels_first_until - machine.monotonic(), 0)):
                await self._no_cancels.wait()
        return await self._with_credentials(partial(self._in_thread, function, within))

    async def cancel(self, kind: JobKind[Any], job_id: str, *, with_savepoint: bool = False) -> Cancellation:
        """
        Cancel a job; also when Airflow does not tell the connection for a while.

        :raises DliError: See :func:`.cancel`.
        """
        if not self._cancelling:
            self._no_cancels.clear()
            self._cancels_first_until = machine.monotonic() + _CANCELS_FIRST_FOR
        self._cancelling += 1
        until = machine.monotonic() + _ASKS_FOR_NEWER
        try:
            async with self._cancels:
                while True:
                    await self._connected(until)
                    attempt = self._client.cancel_attempt(kind, job_id, _ONE_CANCEL, with_savepoint=with_savepoint)
                    send = partial(cancel_in_loop, attempt, kind.stop(job_id).what, URGENT, self._log)
                    with contextlib.suppress(_ConnectionUnknownError):
                        return await self._with_credentials(partial(self._after_the_first, send), until)
        finally:
            self._cancelling -= 1
            if not self._cancelling:
                self._no_cancels.set()
                self._client.access.cool_down()

    async def _after_the_first(self, send: Callable[[], Awaitable[Cancellation]]) -> Cancellation:
        """
        Send a cancel; where each request is signed with a key, once DLI has accepted the first of many.

        Five wrong signatures lock a key, also the new one: as many cancels as are sent at once after a mass kill would
        do that, if the key was rotated a moment ago.
        """
        access = self._client.access
        if access.connection().is_issued or machine.monotonic() < self._trusted_until:
            return await send()
        async with self._first:
            if self._refusal and self._refusal[0] == access.version and machine.monotonic() < self._refused_until:
                raise copy.copy(self._refusal[1])
            if machine.monotonic() < self._trusted_until:
                first = None
            else:
                version, first = access.version, asyncio.ensure_future(send())
                await self._wait_for_first(first, version)
        return await (first or send())

    async def _wait_for_first(self, first: asyncio.Future[Cancellation], version: int) -> None:
        try:
            # One that DLI does not answer holds up the others no longer than until it is repeated.
            await asyncio.wait({first}, timeout=HEDGE_AFTER)
        except asyncio.CancelledError:
            first.cancel()
            raise
        error = first.exception() if first.done() else None
        if isinstance(error, DliAuthenticationError):
            self._refusal, self._refused_until = (version, error), machine.monotonic() + _REFUSED_FOR
        else:
            self._trusted_until = machine.monotonic() + _TRUSTED_FOR

    async def _in_thread(self, function: Callable[[DliClient], T], within: float) -> T:
        def run() -> T:
            try:
                client = self._idle.pop()
            except IndexError:
                client = self._client.for_thread(_ONCE)
            # One that hangs keeps its client.
            try:
                return function(client)
            finally:
                self._idle.append(client)

        try:
            async with asyncio.timeout(within):
                result = await run_in_thread(run)
        except TimeoutError:
            raise DliTemporaryError(f"DLI has given no complete answer within {within:.0f} s") from None
        self._has_answered = True
        return result

    async def _with_credentials(self, call: Callable[[], Awaitable[T]], until: float = 0.0) -> T:
        """
        Call a function; again with newer credentials, if its own are refused and Airflow has such.

        :param until: When Airflow is asked for newer ones for the last time. Default: it is asked once.
        """
        if not self._is_read:
            await self._read()
        for is_last in (False, False, True):
            refused = self._client.access.version
            try:
                return await call()
            except DliAuthenticationError:
                # Until Airflow has others, they are not tried again: that would lock the user.
                if is_last or not await self._has_newer(refused, until):
                    raise
        raise AssertionError("the last turn returns or raises")

    async def _has_newer(self, refused: int, until: float) -> bool:
        while self._client.access.version <= refused and await self._read() <= refused:
            if machine.monotonic() + _ASKS_AGAIN_AFTER > until:
                return False
            await asyncio.sleep(_ASKS_AGAIN_AFTER)
        return True

    async def _read(self) -> int:
        """
        Ask Airflow for the connection; return the version that is used from now on.

        :raises DliValueError: A field is missing or contradicts another one.
        :raises _ConnectionUnknownError: Airflow does not tell it.
        """
        access = self._client.access
        self._is_read, read = False, access.begin_read()
        try:
            lease = access.use(await self._ask(), read)
        except DliError:
            raise
        except Exception as error:
            # Of Airflow, an API server that is away looks like a connection that does not exist.
            problem = str(error) or type(error).__name__
            raise _ConnectionUnknownError(f"Connection {self._conn_id!r} cannot be used yet: {problem}") from error
        self._is_read = True
        return lease.version

    async def _connected(self, until: float) -> None:
        """Read the connection and get a token, for however long that takes; ask for newer ones until then."""
        pause, give_up_at = 1.0, machine.monotonic() + OUTAGE_BUDGET
        while not (self._has_answered and self._is_read):
            try:
                await self._with_credentials(lambda: run_in_thread(self._client.connect), until)
                self._has_answered = True
            except DliTemporaryError as error:
                if machine.monotonic() > give_up_at:
                    raise
                self._log.warning("A cancel waits. %s", error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)


class Shared:
    """What the triggers of an event loop share."""

    def __init__(self) -> None:
        self.channel = Channel()
        self._clients: dict[ConnectionKey, SharedClient] = {}

    def client(self, key: ConnectionKey) -> SharedClient:
        """Return the client of a connection. Those of different credentials never mix."""
        if key not in self._clients:
            hook = DliHook(key.conn_id, region=key.region, project_id=key.project_id)
            self._clients[key] = SharedClient(hook, partial(self.channel.connections.answer, key))
        return self._clients[key]


# A triggerer has one event loop; if it gets another one, nothing of the first must be waited for.
_of_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Shared] = weakref.WeakKeyDictionary()


def shared() -> Shared:
    """Return what the triggers of the running event loop share."""
    loop = asyncio.get_running_loop()
    found = _of_loop.get(loop)
    if found is None:
        found = _of_loop[loop] = Shared()
    return found
