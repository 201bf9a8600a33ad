"""The hook: an Airflow connection turned into authenticated calls of DLI."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_dli.api import iam, sql
from airflow_provider_dli.api.jobs import Cancellation, Job, JobKind, JobState
from airflow_provider_dli.cancelling import cancel
from airflow_provider_dli.compat import connection_form, connection_form_behaviour
from airflow_provider_dli.connection import CONN_TYPE, DliConnection
from airflow_provider_dli.credentials import credentials_of
from airflow_provider_dli.exceptions import (
    PERMANENT,
    SAID_TWICE,
    DliAuthenticationError,
    DliError,
    DliNotFoundError,
    DliTemporaryError,
    DliValueError,
)
from airflow_provider_dli.exchange import CONNECT_TIMEOUT, exchange, new_session
from airflow_provider_dli.kill import CANCEL_WITHIN
from airflow_provider_dli.threads import call_in_thread, pause

if TYPE_CHECKING:
    import requests
    from pendulum import DateTime
    from tenacity import RetryCallState

    from airflow_provider_dli.api.call import Call

T = TypeVar("T")

# How long one call is repeated while DLI is away, in seconds.
GIVE_UP_AFTER = 60.0
# The shortest pause before a call is repeated, and the longest, in seconds; in between they double, with jitter.
FIRST_PAUSE = 0.5
MAX_PAUSE = 60.0
# The longest pause of what a killed task waits for, which has few seconds.
URGENT_PAUSE = 1.0
# How long such a call waits for the next piece of an answer before it tries again, in seconds.
URGENT_TIMEOUT = 3.0
# How long one look at a waiting job may take at first, in seconds; twice as long after each that took longer.
FIRST_PATIENCE = 15.0
# How long a waiting task bears that DLI is away, in seconds.
OUTAGE_BUDGET = 1800.0
# The first wait between two status calls, in seconds; each wait is half as long again, up to `poll_interval`.
FIRST_POLL_INTERVAL = 0.5

_MAX_PAGES = 100
_PROGRESS_EVERY = 10.0


class _Access:
    """The connection that a hook and all its copies use; one that was read anew reaches them all."""

    connection: DliConnection | None = None


class DliHook(BaseHook):
    """
    Sends calls to DLI with the credentials of an Airflow connection.

    The connection is read, and a token fetched, at the first call or by :meth:`connect`, never in the constructor.

    :param dli_conn_id: Airflow connection of type ``dli``.
    :param region: Takes the place of the connection's ``region``.
    :param project_id: Takes the place of the connection's ``project_id``.
    """

    conn_name_attr = "dli_conn_id"
    default_conn_name = "dli_default"
    conn_type = CONN_TYPE
    hook_name = "Data Lake Insight (DLI)"

    def __init__(
        self,
        dli_conn_id: str = default_conn_name,
        *,
        region: str | None = None,
        project_id: str | None = None,
    ) -> None:
        super().__init__()
        self.dli_conn_id = dli_conn_id
        self.region = region
        self.project_id = project_id
        #: Called at least every 0.25 s in every wait of this hook; what it raises ends the wait.
        self.watch: Callable[[], None] = _no_watch
        self._urgent = False
        self._give_up_after = GIVE_UP_AFTER
        # Whether whoever calls bounds the time, so that requests are sent in the calling thread.
        self._is_bounded = False
        # Whether this is the hook of a thread, which must not ask Airflow for anything.
        self._of_thread = False
        self._access = _Access()
        self._session: requests.Session | None = None

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the fields of the connection form, for Airflow before 3.2."""
        return connection_form(_connection_type())

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return the labels and the hidden fields of the connection form, for Airflow before 3.2."""
        return connection_form_behaviour(_connection_type())

    def read_connection(self) -> DliConnection:
        """
        Ask Airflow for the connection, unless that was done: from then on calls need no Airflow.

        :raises DliValueError: A field of the connection is missing or contradicts another one.
        """
        if self._access.connection is None:
            self.use_connection(self._asked_connection())
        return cast("DliConnection", self._access.connection)

    def use_connection(self, connection: DliConnection) -> bool:
        """Use this connection from now on, in all copies of this hook too; return whether it is another than before."""
        was, self._access.connection = self._access.connection, connection
        if was is not None and connection != was:
            self.log.info("Connection %r has changed and is used from now on.", self.dli_conn_id)
        return connection != was

    def reread_connection(self) -> bool:
        """
        Ask Airflow for the connection once more, because its credentials are refused; return whether it has changed.

        Somebody may have rotated a password, or put in new temporary keys. Never raises.
        """
        try:
            return self.use_connection(self._asked_connection())
        except Exception as error:  # of another kind in every Airflow; the refusal itself says enough
            self.log.warning("Connection %r could not be read again: %s", self.dli_conn_id, error)
            return False

    def connect(self) -> DliConnection:
        """
        Read the connection and get a token, unless that was done: from then on a cancel is a single call.

        :raises DliValueError: A field of the connection is missing or contradicts another one.
        :raises DliAuthenticationError: IAM refuses the user.
        """
        connection = self.read_connection()
        try:
            self._project_id(connection)
        except DliAuthenticationError:
            if self._of_thread or not self.reread_connection():
                raise
            connection = self.read_connection()
            self._project_id(connection)
        return connection

    def for_thread(self, *, urgent: bool = False, bounded: bool = False) -> DliHook:
        """
        Return a hook for a thread: connected, with a session of its own, and asking Airflow for nothing.

        :param urgent: For what a kill waits for: a call without an answer is given up after 3 s, no pause before a
            repeat is longer than 1 s, not even for a ``Retry-After``, and it is repeated for 30 s.
        :param bounded: Whether whoever calls bounds the time itself; then requests are sent in the calling thread.
        """
        self.connect()
        hook = copy.copy(self)
        hook.watch = _no_watch
        hook._urgent = urgent
        hook._of_thread = True
        hook._is_bounded = bounded
        hook._session = None
        if urgent:
            hook._give_up_after = CANCEL_WITHIN
        return hook

    def send(self, call: Call[T], *, give_up_after: float | None = None, within: float | None = None) -> T:
        """
        Send a call and return what it reads from the answer.

        A temporary failure is repeated, with growing pauses or as long as ``Retry-After`` says, where a repeat
        does no harm. A void token is renewed once, and the connection is read again once when its credentials are
        refused; a refused signature is never repeated, for that locks the key.

        :param call: The call.
        :param give_up_after: Seconds after which no further try is started, 0 for a single one. Default 60.
        :param within: Seconds after which one try counts as unanswered, however it goes on. Default: the ``timeout`` of
            the connection, and 10 for connecting.
        :raises DliError: It failed; the subclass says in what way.
        """
        import tenacity

        def worth_repeating(error: BaseException) -> bool:
            return isinstance(error, DliTemporaryError) and (call.repeatable or error.nothing_started)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(worth_repeating),
            wait=self._seconds_to_wait,
            stop=tenacity.stop_before_delay(self._give_up_after if give_up_after is None else give_up_after),
            sleep=self.pause,
            reraise=True,
        )
        return cast("T", retrying(self._send_authenticated, call, within))

    def pause(self, seconds: float) -> None:
        """Sleep, calling :attr:`watch` at least every 0.25 s."""
        pause(seconds, self.watch)

    def submit_sql_job(
        self,
        statement: str,
        *,
        database: str | None = None,
        queue_name: str | None = None,
        conf: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Job:
        """
        Submit one SQL statement (API page "Submitting a SQL Job").

        Never repeated unless it is certain that nothing was started.

        :param statement: One SQL statement, in DLI's Spark dialect.
        :param database: Database of unqualified names; default is the connection's ``default_database``.
        :param queue_name: Queue of type ``sql``; default is the connection's ``default_queue``, then DLI's own.
        :param conf: Settings, such as ``{"spark.sql.shuffle.partitions": 200}``.
        :param tags: Labels for look-ups.
        :raises DliValueError: The statement is empty, or DLI refuses a name; nothing was sent.
        :raises DliTemporaryError: No answer. Unless ``nothing_started``, the job may run all the same.
        """
        connection = self.connect()
        return self.send(
            sql.submit(
                statement,
                database=database or connection.default_database,
                queue_name=queue_name or connection.default_queue,
                conf=conf,
                tags=tags,
            )
        )

    def get_job(
        self, job_id: str, kind: str = "sql", *, give_up_after: float | None = None, within: float | None = None
    ) -> Job:
        """
        Ask DLI for the state of a job (API page "Querying Job Status").

        :param job_id: The job.
        :param kind: Its family: ``"sql"``.
        :param give_up_after: As in :meth:`send`.
        :param within: As in :meth:`send`.
        :raises DliNotFoundError: DLI knows no such job.
        """
        _checked_kind(kind)
        return self.send(sql.status(job_id), give_up_after=give_up_after, within=within)

    def cancel_job(self, job_id: str, kind: str = "sql", *, give_up_after: float | None = None) -> Cancellation:
        """
        Cancel a job (API page "Canceling a Job"). A job that is over already is not an error.

        Repeated while the job is active, whatever DLI said; a second request goes out on a fresh connection when the
        first is not answered within a second. Cancelling twice does no harm. That DLI accepted it does not mean that
        the job is over: it may still finish. :meth:`wait_for_job` tells.

        :param job_id: The job.
        :param kind: Its family: ``"sql"``.
        :param give_up_after: Seconds after which no further request is sent. Default 60.
        :raises DliNotFoundError: DLI knows no such job.
        :raises DliPermissionError: The user may not cancel.
        :raises DliError: The time was over, and the job is still active, as far as is known.
        """
        _checked_kind(kind)
        call = sql.cancel(job_id)
        self.read_connection()
        carry_through = partial(
            cancel,
            partial(self._cancel_once, call, job_id, kind),
            call.what,
            within=self._give_up_after if give_up_after is None else give_up_after,
            longest_pause=URGENT_PAUSE if self._urgent else MAX_PAUSE,
            watch=self.watch,
        )
        try:
            return carry_through()
        except DliAuthenticationError:
            # The threads that send must not ask Airflow for the connection themselves.
            if self._of_thread or not self.reread_connection():
                raise
            return carry_through()

    def _cancel_once(self, call: Call[None], job_id: str, kind: str) -> Cancellation:
        # In a thread, so it must neither be ended by what the task watches for, nor ask Airflow for anything.
        hook = copy.copy(self)
        hook.watch = _no_watch
        hook._of_thread = True
        hook._session = None
        try:
            hook.send(call, give_up_after=0)
            return Cancellation(job_id, accepted=True)
        except (DliTemporaryError, DliNotFoundError, *PERMANENT):
            raise
        except DliError:
            # DLI documents no answer for a job that is over: it may be an error or a soft failure with any code.
            job = hook.get_job(job_id, kind, give_up_after=0)
            if job.state.is_active:
                raise
            return Cancellation(job_id, accepted=False, state=job.state)

    def list_jobs(
        self,
        kind: str = "sql",
        *,
        status: str | None = None,
        queue_name: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Iterator[Job]:
        """
        List jobs, newest first, page by page as they are asked for (API page "Querying All Jobs").

        DLI shows at most 10,000 jobs per query; older ones are then asked for by their start time.

        :param kind: Family of the jobs: ``"sql"``.
        :param status: Only jobs in this state, such as ``RUNNING``.
        :param queue_name: Only jobs of this queue.
        :param tags: Only jobs with these tags, compared exactly.
        """
        _checked_kind(kind)
        end: int | None = None
        seen: set[str] = set()
        while True:
            # Ids only: there may be ten thousand jobs, with long statements.
            window: set[str] = set()
            oldest: DateTime | None = None
            for page in range(1, _MAX_PAGES + 1):
                found = self.send(sql.list_jobs(page=page, status=status, queue_name=queue_name, tags=tags, end=end))
                # A job that is submitted meanwhile moves the others to the next page.
                for job in found.jobs:
                    if job.id not in window and job.id not in seen and _has_tags(job, tags):
                        yield job
                    window.add(job.id)
                    oldest = min(filter(None, (oldest, job.start_time)), default=None)
                if len(found.jobs) < sql.PAGE_SIZE:
                    return
            # One more millisecond: whether DLI counts the end itself is not documented.
            earlier = int(oldest.timestamp() * 1000) + 1 if oldest else None
            if earlier is None or (end is not None and earlier >= end):
                self.log.warning("DLI lists no more than %d jobs of one moment; older ones are not shown.", len(window))
                return
            end, seen = earlier, window

    def wait_for_job(self, job_id: str, kind: str = "sql", *, poll_interval: float = 10.0) -> Job:
        """
        Wait until a job is over, however it ends, and return it.

        Asks often at first, then every ``poll_interval``. Bears it for 30 minutes when DLI does not answer.
        Logs changes of the state and the progress.

        :param job_id: The job.
        :param kind: Its family: ``"sql"``.
        :param poll_interval: Seconds between two status calls, at most. Default 10.
        :raises DliNotFoundError: DLI knows no such job.
        :raises DliTemporaryError: DLI has not answered for 30 minutes.
        """
        watcher = JobWatcher(self, job_id, kind, poll_interval=poll_interval)
        while (job := watcher.look()) is None or job.state.is_active:
            self.watch()
            self.pause(watcher.interval)
        self.watch()
        return job

    def test_connection(self) -> tuple[bool, str]:
        """
        Tell whether the connection works, for Airflow's *Test* button and ``airflow connections test``.

        Reads one line of the list of jobs. The sentence says at which step it failed (the fields, IAM, DLI), with
        which host, and what to change.
        """
        hook, step = copy.copy(self), "Fields"
        hook._give_up_after = 0
        hook._access = _Access()
        try:
            fields = self._asked_connection()
            step = f"IAM at {fields.iam_endpoint}" if fields.auth_type == "password" else f"DLI at {fields.endpoint}"
            hook.connect()
            step = f"DLI at {fields.endpoint}"
            hook.send(sql.list_jobs(page_size=1))
        except Exception as error:  # the edge of the button: everything becomes a sentence
            return False, f"{step}: {error}"
        return True, f"{step} answers, and {fields.user!r} may list the jobs of project {hook._project_id(fields)}."

    def _asked_connection(self) -> DliConnection:
        connection = self.get_connection(self.dli_conn_id)
        return DliConnection.from_airflow(connection, region=self.region, project_id=self.project_id)

    def _seconds_to_wait(self, state: RetryCallState) -> float:
        import tenacity

        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, DliTemporaryError) and error.retry_after is not None:
            # Also when DLI asks to be asked again at once, as it may while it fails again and again.
            pause = max(error.retry_after, FIRST_PAUSE)
        else:
            pause = tenacity.wait_random_exponential(multiplier=2 * FIRST_PAUSE, min=FIRST_PAUSE, max=MAX_PAUSE)(state)
        return min(pause, URGENT_PAUSE if self._urgent else MAX_PAUSE)

    def _send_authenticated(self, call: Call[T], within: float | None) -> T:
        """Send a call once, and once more each with a new token and a new connection if the credentials are refused."""
        connection = self.read_connection()
        with_token = connection.auth_type == "password" and not call.anonymous
        stale = None
        try:
            if with_token:
                stale = self._token(connection)
            return self._send_once(call, connection, within)
        except DliAuthenticationError as error:
            if call.anonymous:
                raise
            refusal = error
        if with_token:
            # A token can be void before it expires: when a right, the password or the user changes.
            try:
                self._renew_token(connection, stale)
                return self._send_once(call, connection, within)
            except DliAuthenticationError as error:
                refusal = error
        if self._access.connection == connection and (self._of_thread or not self.reread_connection()):
            if not with_token:  # (that IAM refuses a password was noted when it did)
                credentials_of(connection).refuse(refusal)
            raise refusal
        return self._send_once(call, self.read_connection(), within)

    def _send_once(self, call: Call[T], connection: DliConnection, within: float | None = None) -> T:
        timeout = max(call.timeout or 0, URGENT_TIMEOUT if self._urgent else connection.timeout)
        authenticate, project_id = self._prepare(call, connection)
        session = self._session = self._session or new_session()

        def once() -> T:
            return exchange(session, call, connection, authenticate, project_id, timeout)

        if self._is_bounded:
            return once()
        longest = timeout + min(CONNECT_TIMEOUT, timeout)
        try:
            return call_in_thread(once, self.watch, min(longest, within or longest), call.what)
        except DliTemporaryError:
            # Whatever became of the old one's connection, the next call shall not depend on it.
            self._session = None
            raise

    def _prepare(self, call: Call[Any], connection: DliConnection) -> tuple[Callable[[Any], Any], str]:
        """Return what authenticates the request, and the project that it is for."""
        authenticate = self._authentication(call, connection)
        return authenticate, "" if call.service == "iam" else self._project_id(connection)

    def _authentication(self, call: Call[Any], connection: DliConnection) -> Callable[[Any], Any]:
        from airflow_provider_dli.auth import AkSkAuth, NoAuth, TokenAuth

        if call.anonymous:
            return NoAuth()
        if connection.auth_type == "password":
            return TokenAuth(self._token(connection).value)
        if not self._urgent:
            # (One wrong signature for a job that may be left running is worth it.)
            credentials_of(connection).check()
        return AkSkAuth(
            connection.user,
            connection.secret,
            project_id=None if call.service == "iam" else self._project_id(connection),
            security_token=connection.security_token,
        )

    def _project_id(self, connection: DliConnection) -> str:
        credentials = credentials_of(connection)
        if connection.auth_type == "password":
            token = self._token(connection)
            found = connection.project_id or token.project_id
        elif connection.project_id:
            found = connection.project_id
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

    def _token(self, connection: DliConnection) -> iam.Token:
        import pendulum

        token = credentials_of(connection).token
        if token is None or token.renew_at <= pendulum.now("UTC"):
            return self._renew_token(connection, token)
        return token

    def _renew_token(self, connection: DliConnection, stale: iam.Token | None) -> iam.Token:
        patience = URGENT_PAUSE if self._urgent else connection.timeout
        with _before_the_call():
            return credentials_of(connection).renewed(
                stale, partial(self._fetch_token, connection), self.watch, patience
            )

    def _fetch_token(self, connection: DliConnection) -> iam.Token:
        token = self.send(
            iam.create_token(
                user=connection.user,
                password=connection.secret,
                domain_name=connection.domain_name or "",
                project_id=connection.project_id,
                project_name=connection.project_name,
            ),
            give_up_after=0 if self._urgent else None,
        )
        if connection.project_name and token.project_name not in (None, connection.project_name):
            raise DliValueError(
                f"Connection {connection.conn_id!r}: project_id {connection.project_id} is the project "
                f"{token.project_name!r}, but project_name is {connection.project_name!r}. Remove one of them.",
                field="project_name",
            )
        return token


def checked_poll_interval(seconds: float) -> float:
    """
    Return the interval.

    :raises DliValueError: It is no number above 0.
    """
    if isinstance(seconds, (int, float)) and 0 < seconds < float("inf"):
        return seconds
    raise DliValueError(f"poll_interval must be a number of seconds above 0, not {seconds!r}.", field="poll_interval")


class JobWatcher:
    """
    Looks at one job again and again, and logs what is new.

    :param hook: Asks DLI.
    :param job_id: The job.
    :param kind: Its family: ``"sql"``.
    :param poll_interval: Seconds between two looks, at most. Default 10.
    """

    def __init__(self, hook: DliHook, job_id: str, kind: str = "sql", *, poll_interval: float = 10.0) -> None:
        self._hook = hook
        self._job_id = job_id
        self._kind = kind
        self._poll_interval = checked_poll_interval(poll_interval)
        #: Seconds until the next look: short at first, then half as long again each time; or as DLI asks.
        self.interval = 0.0
        self._next_interval = min(FIRST_POLL_INTERVAL, self._poll_interval)
        self._status = ""
        self._progress = 0.0
        self._progress_at = time.monotonic()
        self._away_since: float | None = None
        self._patience = FIRST_PATIENCE
        self._is_refused = False

    def look(self) -> Job | None:
        """
        Return the job, or None when DLI gave no usable answer this time.

        Only what no repeat mends counts at once. A job that DLI does not know, or a right that is missing, has to be
        said twice in a row: the first time, it may come from a proxy that is in the way.

        :raises DliError: DLI has given no usable answer for 30 minutes, or it is certain that it never will.
        """
        self.interval = self._next_interval
        self._next_interval = min(self._next_interval * 1.5, self._poll_interval)
        begun = time.monotonic()
        try:
            job = self._hook.get_job(self._job_id, self._kind, give_up_after=0, within=self._patience)
        except DliError as error:
            is_refusal = isinstance(error, SAID_TWICE)
            if (is_refusal and self._is_refused) or (not is_refusal and isinstance(error, PERMANENT)):
                raise
            self._is_refused = is_refusal
            # An answer that drips is not waited for; a DLI that is slow gets more time with each look.
            if time.monotonic() - begun >= self._patience:
                self._patience *= 2
            self._bear(error)
            if isinstance(error, DliTemporaryError) and error.retry_after is not None:
                self.interval = max(error.retry_after, self.interval)
            return None
        self._is_refused = False
        if self._away_since is not None:
            self._say(self._hook.log.info, "DLI answers again.")
            self._away_since = None
        self._tell(job)
        return job

    def _bear(self, error: DliError) -> None:
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            self._say(self._hook.log.warning, "No usable answer from DLI; the job goes on, asking again. %s", error)
        if now - self._away_since > OUTAGE_BUDGET:
            raise error

    def _tell(self, job: Job) -> None:
        log = self._hook.log
        if job.status != self._status:
            self._status = job.status
            took = f" after {job.duration.total_seconds():.1f} s" if job.duration and not job.state.is_active else ""
            self._say(log.info, "%s is %s%s", job, job.status, took)
            if job.state is JobState.UNKNOWN:
                unknown = "%s: this provider does not know the state %r; it counts as active."
                self._say(log.warning, unknown, job, job.status)
        elif job.state is JobState.RUNNING and time.monotonic() - self._progress_at >= _PROGRESS_EVERY:
            self._tell_progress(job)

    def _tell_progress(self, job: Job) -> None:
        self._progress_at = time.monotonic()
        try:
            progress = self._hook.send(sql.progress(job.id), give_up_after=0)
        except DliError:
            return  # DLI has none while the queue is busy; a figure for people must not fail the task
        if progress is not None and abs(progress - self._progress) >= 0.1:
            self._progress = progress
            self._say(self._hook.log.info, "%s is %s, %d %%", job, job.status, progress * 100)

    def _say(self, log: Callable[..., None], text: str, *values: object) -> None:
        # A task whose supervisor was killed has no log any more (BrokenPipeError). Its job is for the next try.
        with contextlib.suppress(OSError):
            log(text, *values)


@contextlib.contextmanager
def _before_the_call() -> Iterator[None]:
    """What fails here, fails before the call itself is sent: it may be repeated, even a submit."""
    try:
        yield
    except DliTemporaryError as error:
        error.nothing_started = True
        raise


def _has_tags(job: Job, tags: Mapping[str, str] | None) -> bool:
    return all(job.tags.get(key) == value for key, value in (tags or {}).items())


def _checked_kind(kind: str) -> None:
    if kind not in JobKind.__members__.values():
        known = ", ".join(repr(str(each)) for each in JobKind)
        raise DliValueError(f"kind must be one of {known}, not {kind!r}.", field="kind")


def _connection_type() -> dict[str, Any]:
    from airflow_provider_dli.get_provider_info import get_provider_info

    return cast("dict[str, Any]", get_provider_info()["connection-types"][0])


def _no_watch() -> None:
    """Watch nothing."""
