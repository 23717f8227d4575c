"""The program of `helm test`: rows of a SQLite database over HTTP.

POST /rows adds one, GET /rows counts them. It knows nothing of replication.
"""

import http.server
import json
import os
import sqlite3

DATABASE = os.environ.get("DATABASE", "/data/test.db")


class Handler(http.server.BaseHTTPRequestHandler):
    """Each request opens the database by itself, as a simple program does."""

    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        """Count rows."""
        self._answer("SELECT count(*) FROM rows", write=False)

    def do_POST(self) -> None:
        """Add a row."""
        self._answer("INSERT INTO rows DEFAULT VALUES RETURNING id", write=True)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, sql: str, *, write: bool) -> None:
        try:
            connection = sqlite3.connect(DATABASE, timeout=5, isolation_level=None)
            if write:
                connection.execute("CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY)")
            status, body = 200, {"rows": connection.execute(sql).fetchall()[0][0], "pod": os.uname().nodename}
            connection.close()
        except sqlite3.Error as error:
            status, body = 503, {"error": str(error), "pod": os.uname().nodename}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())


http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
