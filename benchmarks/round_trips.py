"""Count the statements of SQLite and the round trips to PostgreSQL, below every library."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, make_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.storage.engine import Database

_CHUNK = 65_536


@dataclass(slots=True)
class Counter:
    """A number of statements or of round trips, counted by all threads of one process."""

    count: int = 0


def count_sqlite(database: Database) -> Counter:
    """Count all statements of connections that are opened from now on, BEGIN and COMMIT included.

    The read and write engines of a database share a pool. Connections for leases are not counted.
    """
    counter = Counter()

    def add(_statement: str) -> None:
        counter.count += 1

    def trace(connection: Any, _entry: Any) -> None:
        connection.set_trace_callback(add)

    for engine in (database.write, database.check):
        event.listen(engine.pool, "connect", trace)
    return counter


@contextmanager
def counting_proxy(url: str) -> Iterator[tuple[str, Counter]]:
    """Forward connections to PostgreSQL in the block; yield the proxy's URL and its counter.

    One round trip is data of the client after data of the server. The connections of all pools
    are counted, so leases must be renewed rarely meanwhile.
    """
    target = make_url(url)
    counter = Counter()
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(
            target=_accept,
            args=(server, (target.host or "127.0.0.1", target.port or 5432), counter),
            daemon=True,
        ).start()
        # Encryption would hide nothing from the counter, but costs a round trip per connection.
        proxied = target.set(host="127.0.0.1", port=server.getsockname()[1])
        proxied = proxied.update_query_dict({"sslmode": "disable", "gssencmode": "disable"})
        yield proxied.render_as_string(hide_password=False), counter


def _accept(server: socket.socket, target: tuple[str, int], counter: Counter) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return  # The block has ended.
        upstream = socket.create_connection(target)
        for one in (client, upstream):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        is_clients_turn = threading.Event()
        is_clients_turn.set()
        for source, sink, is_client in ((client, upstream, True), (upstream, client, False)):
            threading.Thread(
                target=_forward,
                args=(source, sink, is_client, is_clients_turn, counter),
                daemon=True,
            ).start()


def _forward(
    source: socket.socket,
    sink: socket.socket,
    is_client: bool,
    is_clients_turn: threading.Event,
    counter: Counter,
) -> None:
    try:
        while data := source.recv(_CHUNK):
            if not is_client:
                is_clients_turn.set()
            elif is_clients_turn.is_set():
                is_clients_turn.clear()
                counter.count += 1
            sink.sendall(data)
    except OSError:
        pass  # The other side closed the connection.
    finally:
        source.close()
        sink.close()
