"""Google's XML requests before a server that knows them in part: fake-gcs-server.

The library speaks the XML interface of Google Cloud Storage. fake-gcs-server keeps objects,
generations and conditions, but takes a put and lists with all facts by the JSON interface only. So
these two are translated here, and everything else passes through as it is. No promise of the
store is kept in here: conditions are only renamed, and what the server answers is the answer.
"""

from __future__ import annotations

import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit
from xml.sax.saxutils import escape

_PASSED_BACK = ("etag", "last-modified", "x-goog-generation", "content-range", "content-type")


def start_translator(server_port: int) -> int:
    """Translate for the server on that port of loopback; returns the port to speak to."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            bucket, name = self._names()
            query = {"uploadType": "media", "name": name}
            condition = self.headers.get("x-goog-if-generation-match")
            if condition is not None:
                query["ifGenerationMatch"] = condition
            length = int(self.headers.get("Content-Length") or 0)
            status, _, body = self._ask(
                "POST",
                f"/upload/storage/v1/b/{bucket}/o?{urlencode(query)}",
                self.rfile.read(length),
                {"Content-Type": "application/octet-stream"},
            )
            if status != 200:
                self._answer(status, {}, body)
                return
            made = json.loads(body)
            facts = {"ETag": made["etag"], "x-goog-generation": str(made["generation"])}
            self._answer(200, facts, b"")

        def do_GET(self) -> None:
            if self._names()[1]:
                self._pass_through()
            else:
                self._list()

        def do_HEAD(self) -> None:
            self._pass_through()

        def do_DELETE(self) -> None:
            self._pass_through()

        def _list(self) -> None:
            asked = {
                name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()
            }
            query = {
                "prefix": asked.get("prefix", ""),
                "startOffset": asked.get("start-after", ""),
                "pageToken": asked.get("continuation-token", ""),
                "maxResults": asked.get("max-keys", "1000"),
            }
            given = urlencode({name: value for name, value in query.items() if value})
            status, _, body = self._ask("GET", f"/storage/v1/b/{self._names()[0]}/o?{given}")
            if status != 200:
                self._answer(status, {}, body)
                return
            page = json.loads(body)
            after = asked.get("start-after", "")
            items = [item for item in page.get("items", []) if not after or item["name"] > after]
            contents = "".join(
                f"<Contents><Key>{escape(item['name'])}</Key><Size>{item['size']}</Size>"
                f"<LastModified>{item['updated']}</LastModified>"
                f"<ETag>{escape(item['etag'])}</ETag></Contents>"
                for item in items
            )
            token = page.get("nextPageToken")
            more = (
                f"<NextContinuationToken>{escape(token)}</NextContinuationToken>" if token else ""
            )
            xml = f"<ListBucketResult>{contents}{more}</ListBucketResult>"
            self._answer(200, {"Content-Type": "application/xml"}, xml.encode())

        def _pass_through(self) -> None:
            bucket, name = self._names()
            headers = {"Range": self.headers["Range"]} if self.headers["Range"] else {}
            place = f"/{bucket}/{quote(name)}"
            if self.command == "DELETE":
                place = f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}"
            self._answer(*self._ask(self.command, place, None, headers))

        def _names(self) -> tuple[str, str]:
            bucket, _, name = urlsplit(self.path).path.lstrip("/").partition("/")
            return unquote(bucket), unquote(name)

        def _ask(
            self,
            method: str,
            path: str,
            body: bytes | None = None,
            headers: dict[str, str] | None = None,
        ) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", server_port, timeout=30)
            try:
                connection.request(method, path, body, headers or {})
                answer = connection.getresponse()
                kept = {n: v for n, v in answer.getheaders() if n.lower() in _PASSED_BACK}
                if method == "HEAD":
                    kept["Content-Length"] = answer.headers.get("Content-Length") or "0"
                return answer.status, kept, answer.read()
            finally:
                connection.close()

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_address[1])
