"""A WSGI application served by waitress, with all that it receives in memory.

This module does not need TensorFlow: what is missing is found out before anything slow.
"""

import contextlib
import logging
import socket
from typing import Any, Callable, Iterator, NamedTuple

from soka_tf.errors import UserError, one_line, reason
from soka_tf.tool_commands import extra_command

PACKAGES = ("flask", "waitress")  # the extra `serve`
_THREADS = 4
_CONNECTIONS = 20  # each may hold a body of the largest size
_SILENT_SECONDS = 60
_ON_DISK = 1 << 40  # bytes from which waitress would write to a file: never


class Server(NamedTuple):
    """A server that listens.

    Attributes:
      address: what to open.
      run: answers until KeyboardInterrupt, which ends it.
    """

    address: str
    run: Callable[[], None]


def require_packages() -> None:
    """Finds out whether the page can be served.

    Raises:
      UserError: if a package is missing, with how to install it.
    """
    for name in PACKAGES:
        try:
            __import__(name)
        except ImportError as error:
            raise UserError(
                f"soka_tf.serve needs the package {name}, which cannot be imported "
                f"({one_line(error)}): {extra_command('serve')}"
            ) from error


@contextlib.contextmanager
def listening(
    app: Any, host: str, bound: socket.socket, most_bytes: int
) -> Iterator[Server]:
    """Answers what comes to a socket, and stops with the block.

    Args:
      app: the application.
      host: address that it listens on.
      bound: of `bind`.
      most_bytes: of a request's body; the application refuses what is larger, in words.
    """
    import waitress

    # Requests that wait for the one lock are no news.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    server = waitress.create_server(
        app,
        sockets=[bound],
        threads=_THREADS,
        connection_limit=_CONNECTIONS,
        channel_timeout=_SILENT_SECONDS,
        # A little more, so that the application says what is wrong.
        max_request_body_size=most_bytes + (1 << 20),
        inbuf_overflow=_ON_DISK,
        outbuf_overflow=_ON_DISK,
        ident=None,
    )
    try:
        yield Server(_address(host, bound.getsockname()[1]), server.run)
    finally:
        server.close()


def bind(host: str, port: int) -> socket.socket:
    """Takes an address; who asks there waits until it is answered.

    Args:
      host: address to listen on.
      port: 0 for any that is free.

    Raises:
      UserError: if the address cannot be had.
    """
    try:
        (family, *_, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"Cannot listen on --host {host!r}, --port {port} ({reason(error)}). Give "
            "another --port (0 for any that is free) or --host."
        ) from error


def _address(host: str, port: int) -> str:
    shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"
