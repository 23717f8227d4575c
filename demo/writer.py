"""The demo's client: adds rows through the ``-rw`` Service and says which ones were acknowledged.

    python writer.py HOST PORT ROWS_A_SECOND

Runs in a pod; the source is given to the interpreter as it is, so it imports the standard library
only. Each row has a token and is sent until it is acknowledged: the program answers the
same row for the same token, so that a doubt becomes no second row.
"""

import http.client
import json
import socket
import sys
import time
import uuid

TIMEOUT_S = 0.5
PAUSE_S = 0.02


def acknowledged(address: str, port: int, token: str) -> "dict[str, object] | None":
    """Send a row once; what the program says, None when nobody acknowledged it."""
    connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", "/rows", json.dumps({"token": token}))
        answer = connection.getresponse()
        body = json.loads(answer.read())
        return dict(body) if answer.status == 201 else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def resolve(host: str) -> str:
    """The Service's address, which never changes: asked for once."""
    while True:
        try:
            return socket.gethostbyname(host)
        except OSError:
            time.sleep(0.2)


def main() -> None:
    """Until the pod is deleted."""
    host, port, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    address = resolve(host)
    while True:
        began, token = time.monotonic(), uuid.uuid4().hex
        while (answer := acknowledged(address, port, token)) is None:
            time.sleep(PAUSE_S)
        print(json.dumps({"at": time.time(), "token": token, "id": answer["id"], "pod": answer["pod"]}), flush=True)
        time.sleep(max(0.0, 1 / rate - (time.monotonic() - began)))


if __name__ == "__main__":
    main()
