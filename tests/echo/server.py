"""
A little service that DLI does not have: it echoes. Everything about it is unlike a SQL job.

An echo is created and then told to go, has states of its own, no tags but a note, and no word for cancelled: one that
was halted is ``broken``, as one that failed. Told to go after that, it hums all the same.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass
class Echo:
    """One echo, and how often it was told what."""

    key: str
    say: str
    note: str
    lasts: float
    since: float = field(default_factory=time.time)
    humming_since: float | None = None
    is_broken: bool = False
    told: Counter = field(default_factory=Counter)

    @property
    def state(self):
        if self.is_broken:
            return "broken"
        if self.humming_since is None:
            return "new"
        return "done" if time.time() >= self.humming_since + self.lasts else "humming"

    def line(self):
        return {"key": self.key, "say": self.say, "note": self.note, "mood": self.state, "since": self.since * 1000}


class EchoServer:
    """Serves echoes on a free port of this machine; a context manager."""

    def __init__(self):
        self.echoes: dict[str, Echo] = {}
        self._lasts: dict[str, list[float]] = defaultdict(list)
        self._lost: Counter = Counter()
        self._slow: dict[tuple[str, str], float] = {}
        self._failing: set[tuple[str, str]] = set()
        self._refused: dict[tuple[str, str], Callable[[], None]] = {}
        #: How often a call has begun, by its name and what its echo says.
        self.calls: Counter = Counter()
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"server_of": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self):
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()

    def plan(self, say, *lasts):
        """Have the next echoes that say this last so many seconds; all others last one."""
        self._lasts[say] += lasts

    def lose(self, call, say):
        """Carry out the next such call, and close the connection instead of answering it."""
        self._lost[call, say] += 1

    def slow(self, call, say, seconds):
        """Have such calls take so long until they are carried out."""
        self._slow[call, say] = seconds

    def refuse(self, call, say, meanwhile):
        """Have the next such call do this, and be answered with 401."""
        self._refused[call, say] = meanwhile

    def fail(self, call, say):
        """Have all such calls be answered with 503."""
        self._failing.add((call, say))

    def of(self, say):
        """Return all echoes that say this, oldest first."""
        return [echo for echo in self.echoes.values() if echo.say == say]

    def carry_out(self, call, key, query, body):
        """Return status and body of an answer; None when it gets lost."""
        say = body.get("say") or (self.echoes[key].say if key in self.echoes else "")
        self.calls[call, say] += 1
        time.sleep(self._slow.get((call, say), 0))
        if meanwhile := self._refused.pop((call, say), None):
            meanwhile()
            return 401, {"message": "who are you?"}
        if (call, say) in self._failing:
            return 503, {"message": "later"}
        with self._lock:
            if call == "sql":
                return 200, {"jobs": [], "job_count": 0}
            if call == "page":
                found = [echo for echo in reversed(self.echoes.values()) if query.get("mood", echo.state) == echo.state]
                first = int(query["first"])
                return 200, {"echoes": [echo.line() for echo in found[first : first + 20]], "total": len(found)}
            if call == "create":
                key = f"echo-{len(self.echoes) + 1}"
                lasts = self._lasts[say].pop(0) if self._lasts[say] else 1.0
                self.echoes[key] = Echo(key, say, body["note"], lasts)
            if key not in self.echoes:
                return 404, {"message": "no such echo"}
            echo = self.echoes[key]
            echo.told[call] += 1
            if call == "go":
                if echo.humming_since is not None:
                    return 409, {"message": "it hums already"}
                echo.humming_since, echo.is_broken = time.time(), False
            if call == "halt":
                if echo.state in ("done", "broken"):
                    return 409, {"message": "it is silent already"}
                echo.is_broken = True
            if self._lost[call, say]:
                self._lost[call, say] -= 1
                return None
            return 200, echo.line()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._answer("GET")

    def do_POST(self):
        self._answer("POST")

    def _answer(self, method):
        parts = urlsplit(self.path)
        _, _version, _project, *rest = parts.path.split("/")
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        key = rest[1] if len(rest) > 1 else ""
        call = {"jobs": "sql"}.get(rest[0]) or (
            rest[2] if len(rest) > 2 else "look" if key else {"GET": "page", "POST": "create"}[method]
        )
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        answer = self.server_of.carry_out(call, key, query, body)
        if answer is None:
            self.close_connection = True
            return
        content = json.dumps(answer[1]).encode()
        self.send_response(answer[0])
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass
