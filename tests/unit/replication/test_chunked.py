"""The response of a primary, in whatever pieces it comes; nothing unbounded is believed."""

from __future__ import annotations

import pytest

from sqlitecluster.errors import LimitError, SQLiteClusterError, WireError
from sqlitecluster.replication.chunked import MAX_HEAD, ResponseParser, chunk, request_head

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def body(data: bytes, step: int) -> tuple[ResponseParser, bytes]:
    parser = ResponseParser()
    pieces = [p for at in range(0, len(data), step) for p in parser.feed(data[at : at + step])]
    return parser, b"".join(pieces)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64, 100_000])
def test_chunks_come_out_whole_however_they_are_split(step: int) -> None:
    parts = [b"a", b"bc" * 100, bytes(range(256)) * 20]
    parser, found = body(HEAD + b"".join(chunk(p) for p in parts) + b"0\r\n\r\n", step)
    assert found == b"".join(parts)
    assert parser.ended
    assert parser.head is not None
    assert parser.head.status == 200


def test_a_body_without_chunks_is_given_as_it_is() -> None:
    parser, found = body(b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\n{}", 5)
    assert (parser.head is not None and parser.head.status, found) == (409, b"{}")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"SSH-2.0-x\r\n\r\n", WireError),
        (b"HTTP/1.1 " + bytes(MAX_HEAD + 100), LimitError),
        (HEAD + b"zz\r\n", WireError),
        (HEAD + b"-5\r\nabc", SQLiteClusterError),
        (HEAD + b"ffffffff\r\n", LimitError),
        (HEAD + b"1" * 100, WireError),
        (HEAD + b"3\r\nabcX\r\n", WireError),
    ],
)
def test_what_is_no_response_is_refused(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        body(data + bytes(MAX_HEAD), 50)


def test_the_request_names_path_and_host() -> None:
    head = request_head("/stream", "n1:20202")
    assert head.startswith(b"POST /stream HTTP/1.1\r\nHost: n1:20202\r\n")
    assert head.endswith(b"\r\n\r\n")
