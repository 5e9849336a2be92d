"""A real PostgreSQL server for tests, in a directory of its own and on a socket there."""

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from pathlib import Path

NOT_ROOT = "nobody"
"""PostgreSQL refuses to run as root; as somebody else it does."""


def found() -> Path | None:
    """The directory of `initdb` and `pg_ctl`; None where PostgreSQL is not installed."""
    if on_path := shutil.which("initdb"):
        return Path(on_path).parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return debian[-1].parent if debian else None


class PostgresServer:
    """Begun anew at `start`; what was stored stays over `stop` and `start`."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        # short and open to others: a socket's path has 107 bytes, and pytest's own are private
        self.directory = Path(tempfile.mkdtemp(prefix="semcache-pg-", dir="/tmp"))
        if os.geteuid() == 0:
            shutil.chown(self.directory, NOT_ROOT)
        self._run(
            "initdb", "--no-sync", "-A", "trust", "-U", "semcache", "-E", "UTF8", "--no-locale"
        )

    def url(self, schema: str | None = None) -> str:
        """Of this server, and there of a schema."""
        options = f"&options=-csearch_path%3D{schema}" if schema else ""
        return f"postgresql+psycopg://semcache@/postgres?host={self.directory}{options}"

    def new_schema(self) -> str:
        """A place of its own for a ledger; a database each would take ten times as long."""
        name = f"s{uuid.uuid4().hex}"
        self.run(f"CREATE SCHEMA {name}")
        return name

    def run(self, statements: str) -> None:
        import psycopg

        with psycopg.connect(host=str(self.directory), user="semcache", dbname="postgres") as one:
            one.execute(statements.encode())

    def start(self) -> None:
        # fsync: a killed server loses nothing without it, only a machine without power does
        options = f"-c listen_addresses='' -c unix_socket_directories={self.directory} -c fsync=off"
        self._run("pg_ctl", "start", "-w", "-l", str(self.directory / "log"), "-o", options)

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "stop", "-w", "-m", mode)

    def pause(self, paused: bool) -> None:
        """The whole server, like a host that hangs: its sockets stay open and say nothing."""
        leader = int((self.directory / "data" / "postmaster.pid").read_text().split()[0])
        listed = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(leader)], capture_output=True, text=True, check=True
        )
        for pid in [leader, *map(int, listed.stdout.split())]:
            os.kill(pid, signal.SIGSTOP if paused else signal.SIGCONT)

    def close(self) -> None:
        if (self.directory / "data" / "postmaster.pid").exists():
            self.stop("immediate")
        shutil.rmtree(self.directory)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), "-D", str(self.directory / "data"), *arguments]
        # its output into a file: a server that is started would keep a pipe open
        with (self.directory / "output").open("w+") as output:
            done = subprocess.run(
                command,
                stdout=output,
                stderr=output,
                cwd=self.directory,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
                user=NOT_ROOT if os.geteuid() == 0 else None,
                check=False,
            )
            output.seek(0)
            assert done.returncode == 0, output.read()
