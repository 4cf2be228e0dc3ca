"""Python imports this at start when tests/offline is on PYTHONPATH: it shuts the network but for this machine.

The chapters' kernels, and whatever they start, run under it. Every attempt raises, as on a machine with no network, and
is written to the file that CLIPBOOK_NETWORK_LOG names, with whether `clipbook.features.published` made it: that one
function may try, because it promises to go on without.
"""

import os
import socket
import sys

LOCAL = ("127.", "localhost", "::1", "0.0.0.0", "::")


def _outside(address) -> bool:
    host = address[0] if isinstance(address, tuple) else None  # a str is a unix socket
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    return bool(host) and not host.startswith(LOCAL[0]) and host not in LOCAL


def _refuse(address):
    frame, allowed = sys._getframe(), False
    while frame is not None:
        code = frame.f_code
        allowed |= code.co_name == "published" and code.co_filename.endswith(os.path.join("clipbook", "features.py"))
        frame = frame.f_back
    with open(os.environ["CLIPBOOK_NETWORK_LOG"], "a", encoding="utf-8") as log:
        log.write(f"{'published' if allowed else 'chapter'} {address[0]}\n")
    raise OSError(f"no network in the tests: {address[0]} was asked for")


def _guard(owner, name, of_address):
    original = getattr(owner, name)

    def guarded(*arguments, **options):
        address = of_address(arguments)
        if _outside(address):
            _refuse(address)
        return original(*arguments, **options)

    setattr(owner, name, guarded)


if os.environ.get("CLIPBOOK_NETWORK_LOG"):
    _guard(socket.socket, "connect", lambda a: a[1])
    _guard(socket.socket, "connect_ex", lambda a: a[1])
    _guard(socket.socket, "sendto", lambda a: a[-1])
    _guard(socket, "getaddrinfo", lambda a: (a[0],))
