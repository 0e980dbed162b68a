"""A client that shares no code with gscthreads: http.client, json and gzip only."""

import datetime as dt
import gzip
import http.client
import json
import re
import urllib.parse

SITE = "sc-domain:example.com"
#: The clock of these tests; its day before yesterday is the last final day.
NOW = dt.datetime(2026, 11, 20, 12)
DAY = "2026-11-10"


class Reply:
    """Status, headers and decoded body of an answer."""

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = {name.lower(): value for name, value in headers}
        self.raw = body
        self.body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" and body else body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]


class Client:
    """One keep-alive connection to the simulator."""

    def __init__(self, sim, token=None, timeout=20):
        self.sim = sim
        self.headers = {"Authorization": f"Bearer {sim.token() if token is None else token}"}
        self.port = int(sim.url.rsplit(":", 1)[1])
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def close(self):
        self.connection.close()

    def send(self, method, path, body=None, **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            self.connection.request(method, path, body, {**self.headers, **named})
            answer = self.connection.getresponse()
            return Reply(answer.status, answer.getheaders(), answer.read())
        except BaseException:
            self.connection.close()
            raise

    def query(self, site=SITE, path="", **body):
        body = {"startDate": DAY, "endDate": DAY, **body}
        return self.send("POST", query_path(site) + path, json.dumps(body), Content_Type="application/json")

    def rows(self, site=SITE, **body):
        reply = self.query(site, **body)
        assert reply.status == 200, reply.body
        return as_tuples(reply.json.get("rows", []))

    def pages(self, limit, site=SITE, **body):
        """All rows, by paging until an empty slice."""
        rows, start = [], 0
        while True:
            got = self.rows(site, rowLimit=limit, startRow=start, **body)
            if not got:
                return rows
            rows += got
            start += limit

    def batch(self, requests, path="/batch", gzipped=False, **headers):
        """POST (content id, body, extra inner headers) requests; see batch_body."""
        encoding = "gzip" if gzipped else "identity"
        return self.send("POST", path, batch_body(requests), Accept_Encoding=encoding,
                         Content_Type="multipart/mixed; boundary=sep", **headers)


def query_path(site=SITE):
    return f"/webmasters/v3/sites/{urllib.parse.quote(site, safe='')}/searchAnalytics/query"


def as_tuples(rows):
    return [(tuple(row.get("keys", ())), row["clicks"], row["impressions"], row["ctr"], row.get("position"))
            for row in rows]


def batch_body(requests, end="\r\n", version=" HTTP/1.1", boundary="sep"):
    text = ""
    for content_id, body, *extra in requests:
        target = query_path() + "?prettyPrint=false"
        text += f"--{boundary}{end}Content-Type: application/http{end}"
        if content_id is not None:
            text += f"Content-ID: {content_id}{end}"
        text += f"{end}POST {target}{version}{end}Content-Type: application/json{end}"
        for name, value in (extra[0] if extra else {}).items():
            text += f"{name}: {value}{end}"
        text += f"{end}{json.dumps(body)}{end}"
    return text + f"--{boundary}--{end}"


def ask(start=0, limit=10, day=DAY, **more):
    return {"startDate": day, "endDate": day, "dimensions": ["page", "query"], "rowLimit": limit, "startRow": start,
            **more}


class Part:
    def __init__(self, text):
        outer, _, inner = text.partition("\r\n\r\n")
        self.content_id = next((line.split(": ", 1)[1] for line in outer.split("\r\n")
                                if line.lower().startswith("content-id")), None)
        head, _, self.body = inner.partition("\r\n\r\n")
        lines = head.split("\r\n")
        self.status = int(lines[0].split()[1]) if lines[0] else None
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if line)}

    @property
    def json(self):
        return json.loads(self.body)


def split_parts(reply):
    assert reply.headers["content-type"].startswith("multipart/mixed; boundary=")
    boundary = reply.headers["content-type"].split("boundary=")[1]
    text = reply.body.decode("utf-8")
    assert text.endswith(f"--{boundary}--\r\n")
    pieces = re.split(r"(?:\A|\r\n)--" + re.escape(boundary) + r"(?:--)?\r\n", text)
    return [Part(piece) for piece in pieces[1:-1]]
