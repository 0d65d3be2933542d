"""The real programs tests talk to: each on loopback, its own port, its own empty folder, ended by its process id."""

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

PLACES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def program(name: str) -> str | None:
    """Where it is, also where PATH of an ordinary user does not look."""
    return shutil.which(name) or shutil.which(name, path=PLACES)


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(program(name) is None, reason=f"NOT RUN: {name} is not installed (make test installs it)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition, timeout_s: float = 15.0, what: str = "") -> None:  # type: ignore[no-untyped-def]
    """Poll until the condition holds; the failure says what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what or condition}")
        time.sleep(0.02)


class Mosquitto:
    """A real broker that can be killed and started again on the same port."""

    def __init__(self, folder: Path, *, persistence: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 1000\n"
            f"max_queued_messages 0\npersistence {str(persistence).lower()}\n"
            + (f"persistence_location {folder}/\nautosave_interval 1\n" if persistence else ""),
            encoding="utf-8",
        )
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def provisioned(cls, folder: Path, files: Path, port: int) -> "Mosquitto":
        """With the files that `vitals provision` made for the broker, as they are at each start."""
        broker = cls.__new__(cls)
        folder.mkdir(parents=True, exist_ok=True)
        broker.port, broker._process = port, None
        broker._config = folder / "mosquitto.conf"
        # Started as root, mosquitto would become a user who may not read our files.
        root = "user root\n" if os.getuid() == 0 else ""
        broker._config.write_text((files / "mosquitto.conf").read_text(encoding="utf-8") + root, encoding="utf-8")
        return broker

    def reload(self) -> None:
        """SIGHUP: passwords, access rules, certificates and the list of revoked ones are read again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)
        time.sleep(0.3)  # mosquitto says nothing when it is done; its loop turns every 100 ms

    def end(self) -> None:
        """As an operator's `systemctl stop`: with a farewell, and everything saved."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)
        self._process = None

    def restart(self) -> None:
        self.end()
        self.start()

    def start(self) -> None:
        binary = program("mosquitto")
        assert binary is not None
        self._process = subprocess.Popen(
            [binary, "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._answers, 10, "mosquitto listening")

    def kill(self) -> None:
        """As kill -9: no farewell, nothing saved."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        return _listening(self.port)


_INFLUXD = """\
reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
dir = "{folder}/meta"
[data]
dir = "{folder}/data"
wal-dir = "{folder}/wal"
query-log-enabled = false
[http]
bind-address = "127.0.0.1:{http}"
log-enabled = false
[logging]
level = "error"
suppress-logo = true
[monitor]
store-enabled = false
"""
_NGINX = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{}}
http {{
  access_log off;
  client_max_body_size 32m;
  client_body_buffer_size 8m;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream influx {{ server 127.0.0.1:{http}; keepalive 4; }}
  map $arg_bucket $db {{ ~^(?<d>[^/%]+)(?:/|%2[Ff])?.*$ $d; }}
  map $arg_bucket $rp {{ default ""; ~(?:/|%2[Ff])(?<r>.+)$ $r; }}
  map $arg_precision $prec {{ default n; us u; ms ms; s s; }}
  map $http_authorization $token_ok {{ default {unknown}; "Token right" 1; }}
  server {{
    listen 127.0.0.1:{port};
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Authorization "";
    default_type application/json;
    if ($token_ok = 0) {{ return 401 '{{"code":"unauthorized","message":"unauthorized access"}}'; }}
    location = /api/v2/write {{
      set $args "db=$db&rp=$rp&precision=$prec"; rewrite ^ /write break; proxy_pass http://influx;
    }}
    location / {{ proxy_pass http://influx; }}
  }}
}}
"""


class Influx:
    """The real engine, InfluxDB 1.6, behind an nginx that gives it the write road of InfluxDB 2.

    `url` takes any token; `locked_url` only the token `right`. What 1.6 does not have is not tested by it.
    """

    def __init__(self, folder: Path) -> None:
        self._http, rpc, self._port, self._locked = (free_port() for _ in range(4))
        self.url = f"http://127.0.0.1:{self._port}"
        self.locked_url = f"http://127.0.0.1:{self._locked}"
        self._config = folder / "influxd.conf"
        folder.mkdir(parents=True, exist_ok=True)
        self._config.write_text(_INFLUXD.format(folder=folder, rpc=rpc, http=self._http), encoding="utf-8")
        self._proxies = []
        for port, unknown in ((self._port, 1), (self._locked, 0)):
            place = folder / f"nginx-{port}"
            place.mkdir()
            text = _NGINX.format(folder=place, http=self._http, port=port, unknown=unknown)
            (place / "nginx.conf").write_text(text, encoding="utf-8")
            self._proxies.append(place)
        self._running: list[subprocess.Popen[bytes]] = []
        self._engine: subprocess.Popen[bytes] | None = None
        self._databases = 0

    def start(self) -> None:
        self.start_engine()
        for place in self._proxies:
            self._running.append(_quiet("nginx", "-c", str(place / "nginx.conf"), "-p", str(place)))
        wait_until(lambda: _listening(self._port) and _listening(self._locked), 10, "nginx listening")

    def start_engine(self) -> None:
        self._engine = _quiet("influxd", "-config", str(self._config))
        wait_until(lambda: _listening(self._http), 30, "influxd listening")

    def kill_engine(self) -> None:
        """As kill -9."""
        if self._engine is not None:
            self._engine.kill()
            self._engine.wait()
            self._engine = None

    def freeze_engine(self) -> None:
        """It keeps its connections and answers nothing, until `thaw_engine`."""
        assert self._engine is not None
        self._engine.send_signal(signal.SIGSTOP)

    def thaw_engine(self) -> None:
        assert self._engine is not None
        self._engine.send_signal(signal.SIGCONT)

    def restore(self) -> None:
        """Running, whatever a test did to it."""
        if self._engine is None:
            self.start_engine()
        self.thaw_engine()

    def stop(self) -> None:
        self.kill_engine()
        for process in self._running:
            process.terminate()
            process.wait()
        self._running = []

    def database(self, *, kept: str = "INF") -> str:
        """A new, empty database; `kept`: how long its default policy keeps rows."""
        self._databases += 1
        name = f"db{self._databases}"
        self.ask(f"CREATE DATABASE {name} WITH DURATION {kept} NAME autogen")
        return name

    def ask(self, statement: str, database: str = "") -> str:
        """InfluxQL sent to the engine itself, without our code."""
        form = urllib.parse.urlencode({"q": statement, "db": database, "epoch": "ns"}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self._http}/query", form, timeout=30) as answer:
            return str(answer.read().decode())

    def put(self, database: str, lines: str) -> None:
        """Lines written to the engine itself, without our code."""
        url = f"http://127.0.0.1:{self._http}/write?db={database}"
        with urllib.request.urlopen(url, lines.encode(), timeout=30):
            pass


def _quiet(name: str, *arguments: str) -> subprocess.Popen[bytes]:
    binary = program(name)
    assert binary is not None
    return subprocess.Popen([binary, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
