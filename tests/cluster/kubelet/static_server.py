"""The smallest server of the test image `static`: 200 and four bytes to everything, one connection after another."""

import _signal  # type: ignore[import-not-found]
import _socket
import sys

# As process 1 it would not even notice.
_signal.signal(15, lambda *_: sys.exit(0))

port = int(sys.argv[sys.argv.index("--port") + 1]) if "--port" in sys.argv else 8080
listening = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
listening.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
listening.bind(("0.0.0.0", port))
listening.listen(64)
while True:
    number, _ = listening._accept()  # type: ignore[attr-defined]
    with_client = _socket.socket(fileno=number)
    try:
        if with_client.recv(65536):
            with_client.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhere\n")
    except OSError:
        pass
    with_client.close()
