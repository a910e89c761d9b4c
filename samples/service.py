"""Embed a bundle in a web service: python samples/service.py BUNDLE 8000, then open /images?seed=1&class=0

One generator serves all threads. The standard library's server keeps the sample short; any framework does the same.
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from sagan_deploy.errors import SaganDeployError
from sagan_deploy.images import encode_png, grid, to_uint8
from sagan_deploy.runtime import load

generator = load(sys.argv[1])


class Images(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        try:
            seed = int(query.get("seed", ["0"])[0])
            count = min(int(query.get("count", ["1"])[0]), 64)
            classes = [int(value) for value in query.get("class", [])] or None
            images = generator.sample(count, seed=seed, classes=classes)
        except (SaganDeployError, ValueError) as error:
            self.answer(400, "text/plain", str(error).encode())
            return
        pixels = images if images.dtype == "uint8" else to_uint8(images)
        self.answer(200, "image/png", encode_png(grid(pixels, columns=8)))

    def answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Images) as server:
        print(f"{generator.choice} on http://127.0.0.1:{server.server_port}/images", flush=True)
        server.serve_forever()
