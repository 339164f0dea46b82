"""``dlrun board``: TensorBoard on the runs.

It has no password, so it listens on this machine alone unless told otherwise.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING

from dlrun.cli.shared import no_more, outputs
from dlrun.cli.text import printable
from dlrun.errors import ConfigError

if TYPE_CHECKING:
    from dlrun.cli.grammar import Arguments

FIRST_PORT, PORTS = 6006, 100
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def run(arguments: Arguments) -> int:
    """Print the address and become TensorBoard: no process of ours stays behind it."""
    no_more("board", arguments.words, "no words")
    root = outputs(arguments)
    host = arguments.text("--host") or LOOPBACK[0]
    port = arguments.number("--port", least=1, most=65535) or free_port(host)
    if not root.is_dir():
        print(f"note: there are no runs under {printable(root)} yet", flush=True)
    if host not in LOOPBACK:
        print(
            f"warning: TensorBoard asks for no password; everyone who can reach {printable(host)} can read these runs",
            file=sys.stderr,
            flush=True,
        )
    name = f"[{host}]" if ":" in host else host
    print(f"TensorBoard on {printable(root)}: http://{printable(name)}:{port}/ (Ctrl-C stops it)", flush=True)
    words = ["-m", "tensorboard.main", "--logdir", str(root), "--host", host, "--port", str(port)]
    os.execv(sys.executable, [sys.executable, *words])


def free_port(host: str) -> int:
    """The first port from 6006 that nobody listens on."""
    for port in range(FIRST_PORT, FIRST_PORT + PORTS):
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(address)
        except socket.gaierror as error:
            raise ConfigError(
                f"--host {host}: there is no such address; leave it out for this machine alone"
            ) from error
        except OSError:
            continue
        return port
    raise ConfigError(f"no free port at {host} from {FIRST_PORT} to {FIRST_PORT + PORTS - 1}; choose one with --port N")
