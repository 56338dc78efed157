"""An archive for tests that misbehaves on demand: it speaks enough DICOMweb to list, give and take one study."""

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pydicom


@dataclass
class StandIn:
    """What the archive holds and how it misbehaves.

    Attributes:
        images: of the one study.
        status: HTTP status of every answer that `where` is in the path of.
        where: part of a path, `""` for all.
        body: `whole`; `cut`: fewer bytes than announced; `short`: half a body that says nothing of it; `fewer`: without
            the last image.
        taken: what was stored.
        asked: paths of the requests.
    """

    images: list[pydicom.Dataset]
    status: int = 200
    where: str = ""
    body: str = "whole"
    taken: list[bytes] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def listed(self, keyword: str) -> list[dict]:
        """Studies, series or instances in DICOM JSON, as QIDO-RS lists them."""
        found = {}
        for image in self.images:
            said = pydicom.Dataset()
            for tag in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
                setattr(said, tag, image.get(tag))
            found.setdefault(str(image.get(keyword)), said.to_json_dict())
        return list(found.values())

    def of_series(self, uid: str) -> bytes:
        """The images of a series as a multipart body."""
        parts = []
        for image in self.images:
            if image.SeriesInstanceUID == uid:
                written = io.BytesIO()
                image.save_as(written, enforce_file_format=True)
                parts.append(b"--here\r\nContent-Type: application/dicom\r\n\r\n" + written.getvalue() + b"\r\n")
        if self.body == "fewer":
            parts.pop()
        return b"".join(parts) + b"--here--\r\n"


@contextmanager
def serving(images: list[Path]) -> Iterator[StandIn]:
    """The archive on the loopback address, with these images."""
    archive = StandIn([pydicom.dcmread(path) for path in images])

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def answer(self, content: bytes, kind: str, announced: int | None = None) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content) if announced is None else announced))
            self.end_headers()
            self.wfile.write(content)

        def refused(self) -> bool:
            archive.asked.append(self.path)
            if archive.status != 200 and archive.where in self.path:
                self.send_response(archive.status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return True
            return False

        def do_GET(self) -> None:
            if self.refused():
                return
            parts, asked = urlsplit(self.path).path.strip("/").split("/")[1:], parse_qs(urlsplit(self.path).query)
            if len(parts) == 4:
                body = archive.of_series(parts[3])
                sent = body[: len(body) // 2] if archive.body in ("cut", "short") else body
                kind = 'multipart/related; type="application/dicom"; boundary=here'
                self.answer(sent, kind, len(body) if archive.body == "cut" else None)
                self.close_connection = True
                return
            level = ("StudyInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPInstanceUID")
            found = archive.listed(level[min(len(parts), 4)])
            if len(parts) == 5:
                found = [item for item in found if item["0020000E"]["Value"] == [parts[3]]]
            for keyword, tag in (("StudyInstanceUID", "0020000D"), ("SOPInstanceUID", "00080018")):
                if keyword in asked:
                    found = [item for item in found if item[tag]["Value"] == asked[keyword]]
            if len(parts) > 1:
                found = [item for item in found if item["0020000D"]["Value"] == [parts[1]]]
            found = found[int(asked.get("offset", ["0"])[0]) :]
            self.answer(json.dumps(found).encode(), "application/dicom+json")

        def do_POST(self) -> None:
            if self.refused():
                return
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                content = b""
                while size := int(self.rfile.readline(), 16):
                    content += self.rfile.read(size)
                    self.rfile.readline()
            else:
                content = self.rfile.read(int(self.headers["Content-Length"]))
            archive.taken.append(content)
            self.answer(b"", "application/dicom+json")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    archive.url = f"http://127.0.0.1:{server.server_port}/dicom-web"
    try:
        yield archive
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
