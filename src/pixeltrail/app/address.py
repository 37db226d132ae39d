"""Where the server listens. Light, so that the browser can be opened before the server itself is imported."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from pixeltrail.errors import InputError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN_LENGTH = 22


def require_safe(host: str, token: str) -> None:
    """Raise InputError for a host other than loopback without a token, and for a token that could be guessed."""
    if token and (
        len(token) < TOKEN_LENGTH or not token.isascii() or not token.replace("-", "").replace("_", "").isalnum()
    ):
        raise InputError(
            f"--token: give {TOKEN_LENGTH} or more letters and digits, such as those of: openssl rand -hex 16"
        )
    if host not in LOOPBACK and not token:
        raise InputError(
            f"--host {host}: others could reach your files; give --token too, such as: openssl rand -hex 16"
        )


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens: whoever comes from now on waits instead of being refused. Raises InputError where the port
    is taken."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind((host, port))
        except OSError as error:
            raise InputError(f"port {port} of {host}: {error.strerror}; choose another --port") from error
        place.listen()
        yield place


def address(host: str, port: int, token: str) -> str:
    """What to open in a browser."""
    name = f"[{host}]" if ":" in host else ("127.0.0.1" if host == "0.0.0.0" else host)
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")
