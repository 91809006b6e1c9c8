"""Who may ask the page for what: names of this machine, headers, errors in words."""

import ipaddress
import socket
from typing import Any, FrozenSet
from urllib.parse import urlsplit

from absl import logging

from soka_tf.errors import of_the_machine, one_line, reason

# None but the page's own files, and no other page may show or read any of it.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
    "style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Refused(Exception):
    """What is wrong with a request: a sentence.

    Attributes:
      status: of the response.
    """

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


def allowed_hosts(host: str) -> FrozenSet[str]:
    """The names that a browser may call this machine by.

    A page of another machine can have its name resolve to this one (DNS rebinding), but
    cannot choose the name that the browser sends.

    Args:
      host: that the server listens on.

    Returns:
      Names; numeric addresses need none, see `_is_allowed`.
    """
    names = {host.lower(), "localhost"}
    if not is_loopback(host):
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return frozenset(names)


def guard(app: Any, host: str) -> None:
    """Turns away who calls this machine by another name; adds the headers.

    Args:
      app: a Flask application.
      host: that the server listens on.
    """
    from flask import request

    hosts, loopback = allowed_hosts(host), is_loopback(host)

    @app.before_request
    def check_host():
        host = request.headers.get("Host", "")
        if not _is_allowed(host, hosts, loopback):
            raise Refused(
                403, "This page answers to the address that its command has printed."
            )
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise Refused(403, "Other pages may not use this one.")

    @app.after_request
    def add_headers(response):
        response.headers.update(_HEADERS)
        return response


def answer_errors(app: Any, too_large: str) -> None:
    """Makes every error JSON, a sentence under "error".

    Args:
      app: a Flask application.
      too_large: the sentence for a body beyond its MAX_CONTENT_LENGTH.
    """
    from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

    @app.errorhandler(Refused)
    def refused(error):
        return {"error": str(error)}, error.status

    @app.errorhandler(RequestEntityTooLarge)
    def of_size(_):
        return {"error": too_large}, 413

    @app.errorhandler(HTTPException)
    def of_http(error):
        return {"error": error.description}, error.code

    @app.errorhandler(Exception)
    def other(error):
        known = of_the_machine(error)
        if known is None:
            logging.exception("The page has a fault.")
            sentence = "The program has a fault; its terminal says which."
        else:
            sentence = f"The machine refused: {one_line(reason(known))}."
            logging.warning("%s", sentence)
        return {"error": sentence}, 500 if known is None else 503


def _is_allowed(host: str, names: FrozenSet[str], loopback: bool) -> bool:
    """Whether a Host header names this machine; tunnels change the port."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in names:
        return True
    return is_loopback(name) if loopback else _is_numeric(name)


def is_loopback(host: str) -> bool:
    """Whether a name or numeric address is that of this machine alone."""
    numeric = _is_numeric(host) and ipaddress.ip_address(host).is_loopback
    return numeric or host == "localhost"


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
