"""The client: sends calls with the credentials of a connection, repeats them, cancels and lists jobs of any kind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from airflow_provider_dli import machine
from airflow_provider_dli.api import iam, metadata
from airflow_provider_dli.client import exchange
from airflow_provider_dli.client.access import Access
from airflow_provider_dli.client.cancelling import cancel, may_be_about_the_job, without_cancel
from airflow_provider_dli.client.credentials import credentials_of
from airflow_provider_dli.client.finding import list_jobs
from airflow_provider_dli.client.line import Line
from airflow_provider_dli.client.patience import IN_THREAD, Patience
from airflow_provider_dli.exceptions import (
    PERMANENT,
    DliAuthenticationError,
    DliError,
    DliNotFoundError,
    DliTemporaryError,
    DliValueError,
)
from airflow_provider_dli.job import Cancellation, JobState
from airflow_provider_dli.threads import call_in_thread, pause

if TYPE_CHECKING:
    import requests
    from tenacity import RetryCallState

    from airflow_provider_dli.api.call import Call
    from airflow_provider_dli.api.job_kind import JobKind, Query
    from airflow_provider_dli.client.access import Lease
    from airflow_provider_dli.client.connection import DliConnection
    from airflow_provider_dli.client.credentials import Issued
    from airflow_provider_dli.job import Job

T = TypeVar("T")

# The shortest pause before a call is repeated, in seconds; the pauses double, with jitter.
FIRST_PAUSE = 0.5

# How long a job that has failed may take until DLI starts it again by itself, in seconds.
_RECOVERS_WITHIN = 2.0


class Log(Protocol):
    """Where to log: a logger of Airflow or of the standard library."""

    def info(self, event: str, *values: Any) -> Any: ...

    def warning(self, event: str, *values: Any) -> Any: ...

    def error(self, event: str, *values: Any) -> Any: ...

    def exception(self, event: str, *values: Any) -> Any: ...


class _Wire:
    """The HTTP session of one thread; made at the first call."""

    session: requests.Session | None = None


class DliClient:
    """
    Sends calls to DLI.

    Of one thread: another one gets a client of its own by :meth:`for_thread`.

    :param access: The connection.
    :param log: Where to log.
    :param patience: How patient its calls are.
    """

    def __init__(self, access: Access, log: Log, patience: Patience | None = None) -> None:
        self.access = access
        self.log = log
        self.patience = patience or Patience()
        self._wire = _Wire()

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown, should DLI repeat it."""
        connection = self.access.connection()
        issued = credentials_of(connection).issued
        return (*connection.secrets, *(issued.secrets if issued else ()))

    def patient(self, patience: Patience) -> DliClient:
        """Return a client for the same thread, of another patience."""
        client = DliClient(self.access, self.log, patience)
        client._wire = self._wire
        return client

    def watching(self, watch: Callable[[], None]) -> DliClient:
        """Return a client for the same thread, whose waits end when ``watch`` raises."""
        return self.patient(replace(self.patience, watch=watch))

    def for_thread(self, patience: Patience, log: Log | None = None) -> DliClient:
        """
        Return a client for another thread: connected, with a session of its own.

        :param log: Where it logs. Default: where this one does.
        :raises DliError: See :meth:`connect`.
        """
        self.connect()
        return DliClient(self.access, log or self.log, patience)

    def introduce(self) -> None:
        """Say in the log which DLI is called and as whom, unless that was said."""
        self.access.introduce(self.project_id(self.connect()))

    def connect(self) -> DliConnection:
        """
        Read the connection and get a token, unless that was done: from then on a cancel is a single call.

        :raises DliValueError: A field of the connection is missing or contradicts another one.
        :raises DliAuthenticationError: IAM refuses the user.
        """
        # Keys are used without a call before: nothing else would have imported the HTTP client by then.
        exchange.prepare()

        def connected(lease: Lease) -> DliConnection:
            self.project_id(lease.connection)
            return lease.connection

        return self._with_newest(connected)

    def send(self, call: Call[T]) -> T:
        """
        Send a call and return what it reads from the answer.

        A temporary failure is repeated, with growing pauses or as long as ``Retry-After`` says, where a repeat does no
        harm. A void token is renewed once, and the connection is read again once when its credentials are refused; a
        refused signature is never repeated, for that locks the key.

        :raises DliError: It failed; the subclass says in what way.
        """
        import tenacity

        def worth_repeating(error: BaseException) -> bool:
            return isinstance(error, DliTemporaryError) and (call.repeatable or error.nothing_started)

        end = machine.monotonic() + self.patience.give_up_after

        def seconds_to_wait(state: RetryCallState) -> float:
            # Whatever the dice say, the time is used to its end: an outage may be over by then.
            return min(self._seconds_to_wait(state), max(end - machine.monotonic(), 0))

        def is_over(state: RetryCallState) -> bool:
            return machine.monotonic() + (self._asked_to_wait(state) or 0) >= end

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(worth_repeating),
            wait=seconds_to_wait,
            stop=is_over,
            sleep=self.pause,
            reraise=True,
        )
        return cast("T", retrying(self._send_authenticated, call))

    def pause(self, seconds: float) -> None:
        """Sleep, for as long as :attr:`patience` lets it."""
        pause(seconds, self.patience.watch)

    def job(self, kind: JobKind[Any], job_id: str) -> Job:
        """
        Ask DLI for the state of a job; of one that has failed, also why.

        A job that DLI may start again by itself counts as failed only if it still is a moment later.

        :raises DliNotFoundError: DLI knows no such job.
        """
        job = self.send(kind.status(job_id))
        if job.state is not JobState.FAILED:
            return job
        if kind.detail is not None:
            try:
                job = self.send(kind.detail(job_id))
            except DliError as error:
                self.log.warning("DLI does not say more of %s: %s", job, error)
        if job.may_recover:
            self.pause(_RECOVERS_WITHIN)
            again = self.send(kind.status(job_id))
            return job if again.state is job.state else again
        return job

    def cancel(
        self, kind: JobKind[Any], job_id: str, *, with_savepoint: bool = False, keep_draft: bool = False
    ) -> Cancellation:
        """
        Cancel a job. A job that is over already is not an error.

        Repeated while the job is active, whatever DLI said; a second request goes out on a fresh connection when the
        first is not answered within a second. Cancelling twice does no harm. That DLI accepted it does not mean that
        the job is over: it may still finish. A job that a task has created and never started is deleted.

        :param kind: The job's kind.
        :param job_id: The job.
        :param with_savepoint: Whether to save its state first, where jobs of the kind have savepoints.
        :param keep_draft: Whether to keep a job that was never started, because it may be about to.
        :raises DliNotFoundError: DLI knows no such job.
        :raises DliPermissionError: The user may not cancel.
        :raises DliError: The time was over, and the job is still active, as far as is known.
        """
        self.access.connection()
        # In threads, so that neither what the task watches for ends it, nor Airflow is asked for anything.
        once = replace(IN_THREAD, is_urgent=self.patience.is_urgent, give_up_after=0)
        attempt = self.cancel_attempt(kind, job_id, once, with_savepoint=with_savepoint, keep_draft=keep_draft)
        carry_through = partial(cancel, attempt, kind.stop(job_id).what, self.patience, self.log)
        return self._with_newest(lambda lease: carry_through())

    def cancel_attempt(
        self,
        kind: JobKind[Any],
        job_id: str,
        patience: Patience,
        *,
        with_savepoint: bool = False,
        keep_draft: bool = False,
    ) -> Callable[[], Cancellation]:
        """
        Return what sends one request to cancel a job, on a connection of its own, and looks at it when DLI refuses.

        :param patience: How patient the request is.
        :param with_savepoint: See :meth:`cancel`.
        :param keep_draft: See :meth:`cancel`.
        """
        calls = [kind.stop(job_id)]
        if with_savepoint and kind.stop_with_savepoint is not None:
            calls.append(kind.stop_with_savepoint(job_id))
        # Of hundreds of cancels, not each has to make a connection; but what follows a request without an answer does.
        warm = [client for client in [self.access.warm()] if client is not None]
        refusals: list[DliError] = []

        def attempt() -> Cancellation:
            client = (warm.pop() if warm else DliClient(self.access, self.log)).patient(patience)
            try:
                client.send(calls[-1])
                self.access.keep_warm(client)
                return Cancellation(job_id, accepted=True)
            except PERMANENT:
                raise
            except DliError as error:
                if not may_be_about_the_job(error):
                    raise
                found = without_cancel(client, kind, job_id, error, keep_draft=keep_draft)
                if found is not None:
                    return found
                is_first, refusals[:] = not refusals, [error]
                if len(calls) > 1 and not (is_first and isinstance(error, DliTemporaryError)):
                    # A job that cannot be saved must not keep running for that.
                    calls.pop()
                    self.log.warning("The job is stopped without a savepoint. %s", error)
                if isinstance(error, DliNotFoundError):
                    # It may mean the call, or be the answer of a proxy.
                    raise DliError(f"{error} DLI still shows the job.", code=error.code, status=error.status) from error
                raise

        return attempt

    def jobs(self, kind: JobKind[Any], query: Query) -> Iterator[Job]:
        """
        List jobs, newest first, page by page as they are asked for.

        DLI shows at most so many jobs per query (10,000 SQL jobs); older ones are then asked for by their start time.

        :param query: Which jobs. Tags and the name are compared exactly.
        """
        return list_jobs(self.send, kind, query, self.log, self.access.said)

    def project_id(self, connection: DliConnection) -> str:
        """
        Return the id of the project of a connection; ask IAM for it where the connection only names it.

        :raises DliError: IAM does not tell.
        """
        credentials = credentials_of(connection)
        issued = self._issued(connection)
        if connection.project_id:
            found: str | None = connection.project_id
        elif isinstance(issued, iam.Token):
            found = issued.project_id
        else:
            with _before_the_call():
                credentials.project_id = credentials.project_id or self.send(
                    iam.find_project(connection.project_name or "")
                )
            found = credentials.project_id
        if not found:
            raise DliValueError(
                f"Connection {connection.conn_id!r}: IAM named no project for project_name "
                f"{connection.project_name!r}. Set extra field `project_id`.",
                field="project_id",
            )
        return found

    def _seconds_to_wait(self, state: RetryCallState) -> float:
        import tenacity

        if (asked := self._asked_to_wait(state)) is not None:
            return asked
        longest = self.patience.longest_pause
        return tenacity.wait_random_exponential(multiplier=2 * FIRST_PAUSE, min=FIRST_PAUSE, max=longest)(state)

    def _asked_to_wait(self, state: RetryCallState) -> float | None:
        """Return how long DLI asks to wait, in seconds, as far as it is let; None when it does not ask."""
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, DliTemporaryError) or error.retry_after is None:
            return None
        # Also when DLI asks to be asked again at once, as it may while it fails again and again.
        return min(max(error.retry_after, FIRST_PAUSE), self.patience.longest_pause)

    def _send_authenticated(self, call: Call[T]) -> T:
        """Send a call once, and once more each with what is issued anew and a new connection if it is refused."""
        if call.anonymous:
            return self._send_once(call, self.access.connection())
        return self._with_newest(lambda lease: self._send_issued(call, lease.connection))

    def _with_newest(self, use: Callable[[Lease], T]) -> T:
        """
        Call a function with the credentials; again with newer ones, if they are refused and there are such.

        :raises DliAuthenticationError: The newest credentials are refused.
        """
        for is_last in (False, False, True):
            lease = self.access.lease()
            try:
                return use(lease)
            except DliAuthenticationError:
                if is_last or not self._has_newer(lease):
                    raise
        raise AssertionError("the last turn returns or raises")

    def _has_newer(self, refused: Lease) -> bool:
        """Whether there are newer credentials than these, or Airflow has such; not every thread may ask it."""
        return self.access.version > refused.version or (self.patience.may_ask and self.access.reread(refused.version))

    def _send_issued(self, call: Call[T], connection: DliConnection) -> T:
        """Send a call; once more, with a token or keys that are issued anew, if those are refused."""
        stale = None
        try:
            stale = self._issued(connection)
            return self._send_once(call, connection)
        except DliAuthenticationError as error:
            if not connection.is_issued:
                # (That IAM refuses a password is noted when it does.)
                credentials_of(connection).refuse(error)
                raise
        # It can be void before it expires: when a right, the password or the user changes.
        self._renew(connection, stale)
        return self._send_once(call, connection)

    def _send_once(self, call: Call[T], connection: DliConnection) -> T:
        timeout = max(call.timeout or 0, self.patience.answer_within(connection.timeout))
        authenticate = self._authentication(call, connection)
        project_id = self.project_id(connection) if call.service == "dli" else ""
        session = self._wire.session = self._wire.session or exchange.new_session()

        longest = timeout + min(exchange.CONNECT_TIMEOUT, timeout)
        within = min(longest, self.patience.within or longest)
        line = Line(within)

        def once() -> T:
            return exchange.exchange(session, call, connection, authenticate, project_id, timeout, line)

        def give_up() -> None:
            line.cut()
            self._wire.session = None

        if self.patience.is_bounded:
            return once()
        try:
            return call_in_thread(once, self.patience.watch, within, call.what, give_up)
        except DliTemporaryError:
            # The state of the old session's connection is not known: the next call gets a new one.
            self._wire.session = None
            raise

    def _authentication(self, call: Call[Any], connection: DliConnection) -> Callable[[Any], Any]:
        from airflow_provider_dli.client.signing import AkSkAuth, NoAuth, TokenAuth

        if call.anonymous:
            return NoAuth()
        project_id = None if call.service == "iam" else self.project_id(connection)
        issued = self._issued(connection)
        if isinstance(issued, iam.Token):
            return TokenAuth(issued.value)
        if issued is not None:
            return AkSkAuth(
                issued.access_key, issued.secret_key, project_id=project_id, security_token=issued.security_token
            )
        if not self.patience.is_urgent:
            # (One wrong signature for a job that may be left running is worth it.)
            credentials_of(connection).check()
        return AkSkAuth(
            connection.user,
            connection.secret,
            project_id=project_id,
            security_token=connection.security_token,
        )

    def _issued(self, connection: DliConnection) -> Issued | None:
        """Return a token or temporary keys that last for a while yet; None where the connection holds its own keys."""
        import pendulum

        if not connection.is_issued:
            return None
        issued = credentials_of(connection).issued
        if issued is None or issued.renew_at <= pendulum.now("UTC"):
            return self._renew(connection, issued)
        return issued

    def _renew(self, connection: DliConnection, stale: Issued | None) -> Issued:
        wait_for_others = 1.0 if self.patience.is_urgent else connection.timeout
        with _before_the_call():
            return credentials_of(connection).renewed(
                stale, partial(self._fetch, connection), self.patience.watch, wait_for_others
            )

    def _fetch(self, connection: DliConnection) -> Issued:
        client = self.patient(replace(self.patience, give_up_after=0)) if self.patience.is_urgent else self
        if connection.auth_type == "metadata":
            try:
                return client.send(metadata.security_key())
            except DliTemporaryError as error:
                raise DliTemporaryError(
                    f'{error} Connection {connection.conn_id!r} has auth_type "metadata": that works on a machine in '
                    "the cloud that has an agency, or in a pod there."
                ) from error
        if connection.source is not None:
            source = connection.source
            of_source = DliClient(Access(lambda: source, self.log), self.log, client.patience)
            return of_source.send(iam.assume_agency(connection.agency_name or "", connection.agency_domain_name or ""))
        token = client.send(
            iam.create_token(
                user=connection.user,
                password=connection.secret,
                domain_name=connection.domain_name or "",
                project_id=connection.project_id,
                project_name=connection.project_name,
            )
        )
        if connection.project_name and token.project_name not in (None, connection.project_name):
            raise DliValueError(
                f"Connection {connection.conn_id!r}: project_id {connection.project_id} is the project "
                f"{token.project_name!r}, but project_name is {connection.project_name!r}. Remove one of them.",
                field="project_name",
            )
        return token


@contextlib.contextmanager
def _before_the_call() -> Iterator[None]:
    """What fails here fails before the call itself is sent: the call may be repeated, even a submit."""
    try:
        yield
    except DliTemporaryError as error:
        error.nothing_started = True
        raise
