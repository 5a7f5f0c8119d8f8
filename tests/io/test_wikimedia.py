"""Fetching from Wikimedia Commons, against a loopback server that answers as its API does."""

import io
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from camhelpers.files import sha256
from camhelpers.io import wikimedia
from camhelpers.io.images import list_images, read_image
from camhelpers.io.wikimedia import fetch_wikimedia as fetch


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


class Commons:
    """A small Wikimedia Commons: categories, their members, and what happens when a file is asked for."""

    def __init__(self):
        self.members: dict[str, list[dict]] = {}
        self.files: dict[str, bytes] = {}
        self.trouble: dict[str, list] = {}  # path -> what to do instead, one item per request
        self.seen: list[tuple[str, dict, dict]] = []
        self.page_size, self.dead, self.serial = 2, False, 100

    def add(self, category, title, *, licence="cc0", short="CC0", mime="image/jpeg", **words):
        self.serial += 1
        path = f"/thumb/{self.serial}.jpg"
        self.files[path] = jpeg(self.serial)
        words |= {"License": licence, "LicenseShortName": short, "Artist": '<a href="//x">Ada &amp; <b>Bo</b></a>'}
        imageinfo = {
            "url": "", "thumburl": self.base + path, "descriptionurl": f"{self.base}/wiki/{title}", "mime": mime,
            "extmetadata": {key: {"value": value} for key, value in words.items() if value},
        }  # fmt: skip
        page = {"pageid": self.serial, "ns": 6, "title": title, "imageinfo": [imageinfo]}
        self.members.setdefault(f"Category:{category}", []).append(page)
        return path

    def add_subcategory(self, category, name):
        self.serial += 1
        page = {"pageid": self.serial, "ns": 14, "title": f"Category:{name}"}
        self.members.setdefault(f"Category:{category}", []).append(page)

    def listing(self, query: dict) -> dict:
        members = self.members.get(query["gcmtitle"], [])
        start = int(query.get("gcmcontinue", 0))
        pages = members[start : start + self.page_size]
        answer = {"query": {"pages": pages}} if pages else {}
        if start + self.page_size < len(members):
            answer["continue"] = {"gcmcontinue": str(start + self.page_size), "continue": "gcmcontinue||"}
        return answer

    @property
    def counts(self) -> Counter:
        return Counter(path.split("/")[1] for path, _, _ in self.seen)


@pytest.fixture
def commons(monkeypatch):
    here = Commons()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            here.seen.append((parts.path, query, dict(self.headers)))
            trouble = here.trouble.get(parts.path, [])
            act = trouble.pop(0) if trouble else None
            here.dead = here.dead or act == "die"
            if here.dead:
                return  # hangs up without a word
            if isinstance(act, dict):  # status and headers of an unusual answer
                return self.answer(act.get("status", 200), b"{}", act["headers"])
            if parts.path == "/api":
                return self.answer(200, json.dumps(here.listing(query)).encode(), {"Content-Type": "application/json"})
            data = here.files[parts.path]
            headers = {"Content-Type": "image/jpeg", "Content-Length": str(len(data))}
            if act == "rot":  # all bytes arrive, but not the right ones
                data = data[: len(data) // 2] + bytes(len(data) - len(data) // 2)
            self.answer(200, data, headers)

        def answer(self, status, data, headers):
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here.base = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(wikimedia, "API", f"{here.base}/api")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield here
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """No test waits; what would have been waited for is listed."""
    asked = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", asked.append)
    return asked


def titles(chosen):
    return [entry["title"] for entry in chosen]


def test_pages_continuation_balance_and_credits(commons, tmp_path, capsys):
    for i in range(5):
        commons.add("Dogs", f"File:Dog {i}.jpg")
        commons.add("Cats", f"File:Cat {i}.jpg", licence="pd", short="Public domain")
    chosen = fetch(["dogs", "cats"], 7, tmp_path)
    assert re.search(r"fetching: 7 of 7 pictures.*dogs/", capsys.readouterr().err)
    assert Counter(entry["category"] for entry in chosen) == {"dogs": 4, "cats": 3}
    assert len(list_images(tmp_path / "dogs")) == 4 and len(list_images(tmp_path / "cats")) == 3
    assert commons.counts == {"api": 4, "thumb": 7}  # two listings of two for each category
    entry = next(e for e in chosen if e["title"] == "Cat 0.jpg")
    assert (entry["author"], entry["licence"]) == ("Ada & Bo", "Public domain")
    assert entry["page_url"].endswith("/wiki/File:Cat 0.jpg") and re.fullmatch(r"\d{4}-\d\d-\d\d", entry["fetched"])
    for entry in chosen:
        path = tmp_path / entry["file"]
        assert sha256(path) == entry["sha256"]
        assert read_image(path).shape == (entry["height"], entry["width"], 3) == (24, 32, 3)
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert sorted(manifest, key=str) == sorted(chosen, key=str)
    query = commons.seen[0][1]
    assert query["gcmtitle"] in ("Category:Dogs", "Category:Cats") and query["iiurlwidth"] == "960"
    assert {seen[2]["User-Agent"] for seen in commons.seen} == {wikimedia.USER_AGENT}


@pytest.mark.parametrize(
    ("words", "free"),
    [
        ({"licence": "cc0", "short": "CC0"}, True), ({"licence": "pd", "short": "Public domain"}, True),
        ({"licence": None, "short": "PD-USGov"}, True), ({"licence": "cc-by-sa-4.0", "short": "CC BY-SA 4.0"}, False),
        ({"licence": "pd", "short": "CC BY 4.0"}, False), ({"licence": None, "short": None}, False),
        ({"licence": None, "short": "PDM-owner"}, False), ({"NonFree": "1"}, False),
        ({"mime": "image/svg+xml"}, False),
    ],
)  # fmt: skip
def test_only_free_pictures_pass(commons, tmp_path, words, free):
    commons.add("Dogs", "File:Doubtful.jpg", **words)
    commons.add("Dogs", "File:Free.jpg")
    assert titles(fetch("dogs", 1, tmp_path)) == (["Doubtful.jpg"] if free else ["Free.jpg"])
    assert commons.counts["thumb"] == 1


def test_subcategories_follow_but_not_their_own(commons, tmp_path):
    commons.add_subcategory("Dogs", "Dogs by colour")
    commons.add("Dogs", "File:Top.jpg")
    commons.add_subcategory("Dogs by colour", "Grey dogs")
    commons.add("Dogs by colour", "File:Below.jpg")
    commons.members["Category:Dogs"] *= 2  # as when the API continues within one batch
    commons.add("Grey dogs", "File:Far below.jpg")
    with pytest.warns(UserWarning, match="2 of 3"):
        assert titles(fetch("dogs", 3, tmp_path)) == ["Top.jpg", "Below.jpg"]
    assert [seen[1].get("gcmtitle") for seen in commons.seen].count("Category:Dogs by colour") == 1


def test_a_short_category_leaves_its_share_and_no_picture_comes_twice(commons, tmp_path):
    commons.add("Cats", "File:Cat and dog.jpg")
    commons.members["Category:Dogs"] = list(commons.members["Category:Cats"])
    for i in range(5):
        commons.add("Dogs", f"File:Dog {i}.jpg")
    chosen = fetch(["cats", "dogs"], 4, tmp_path)
    assert Counter(entry["category"] for entry in chosen) == {"cats": 1, "dogs": 3}
    assert len({entry["page_id"] for entry in chosen}) == 4


def test_503_and_429_are_waited_for_as_asked(commons, tmp_path, pauses):
    path = commons.add("Dogs", "File:Dog.jpg")
    commons.trouble["/api"] = [{"status": 503, "headers": {"Retry-After": "7"}}]
    commons.trouble[path] = [{"status": 429, "headers": {"Retry-After": "3600"}}, {"status": 502, "headers": {}}]
    assert len(fetch("dogs", 1, tmp_path)) == 1
    assert pauses == [7, 120, 1]  # no longer than two minutes at once; the last answer named no pause


@pytest.mark.parametrize("where", ["/api", "/thumb/101.jpg"])
def test_an_overloaded_server_is_left_alone_after_bounded_tries(commons, tmp_path, where):
    commons.add("Dogs", "File:Dog.jpg")
    commons.trouble[where] = [{"status": 503, "headers": {}}] * 50
    with pytest.raises(ConnectionError, match=r"HTTP 503.*folder of your own pictures"):
        fetch("dogs", 1, tmp_path)
    assert commons.counts[where.split("/")[1]] == 4 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [("rot", "cannot be read"), ({"status": 404, "headers": {}}, "HTTP 404"),
     ({"headers": {"Content-Type": "text/html"}}, "text/html")],
)  # fmt: skip
def test_a_file_that_cannot_be_had_is_left_out_and_reported(commons, tmp_path, trouble, reason):
    path = commons.add("Dogs", "File:Broken.jpg")
    commons.add("Dogs", "File:Whole.jpg")
    commons.trouble[path] = [trouble]
    with pytest.warns(UserWarning, match=rf"Left out File:Broken\.jpg: .*{reason}"):
        chosen = fetch("dogs", 1, tmp_path)
    assert titles(chosen) == ["Whole.jpg"]
    assert [path.name for path in (tmp_path / "dogs").iterdir()] == [Path(chosen[0]["file"]).name]


def test_a_second_call_asks_nothing_and_replaces_what_was_deleted(commons, tmp_path):
    for i in range(4):
        commons.add("Dogs", f"File:Dog {i}.jpg")
    first = fetch("dogs", 4, tmp_path)
    commons.seen.clear()
    assert fetch("dogs", 4, tmp_path) == first
    assert titles(fetch("dogs", 2, tmp_path)) == titles(first[:2]) and not commons.seen
    (tmp_path / first[1]["file"]).unlink()
    again = fetch("dogs", 4, tmp_path)
    assert sorted(e["sha256"] for e in again) == sorted(e["sha256"] for e in first) and commons.counts["thumb"] == 1
    assert json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8")) == again


def test_an_interrupted_call_resumes(commons, tmp_path):
    paths = [commons.add("Dogs", f"File:Dog {i}.jpg") for i in range(4)]
    commons.trouble[paths[2]] = ["die"]
    with pytest.raises(ConnectionError, match=r"what is there is kept.*folder of your own pictures"):
        fetch("dogs", 4, tmp_path)
    assert len(list_images(tmp_path / "dogs")) == 2 == len(list((tmp_path / "dogs").iterdir()))
    commons.dead = False
    commons.seen.clear()
    assert len(fetch("dogs", 4, tmp_path)) == 4
    assert [path for path, _, _ in commons.seen if path != "/api"] == paths[2:]


@pytest.mark.parametrize("title", ["File:../../../evil.jpg", "File:/etc/evil.jpg", "File:C:\\evil.jpg", "File:...jpg"])
def test_no_title_leads_out_of_the_folder(commons, tmp_path, title):
    commons.add("Dogs", title)
    (entry,) = fetch("dogs", 1, tmp_path / "in")
    assert re.fullmatch(r"dogs/[\w-]+\.jpg", entry["file"]) and [path.name for path in tmp_path.iterdir()] == ["in"]


def test_refusals_are_one_sentence_and_write_nothing(commons, tmp_path):
    with pytest.raises(ValueError, match="No public-domain or CC0 picture came from Nonsense"):
        fetch("Nonsense", 1, tmp_path)
    for categories, n in (([], 1), ("", 1), (["dogs", "//"], 1), ("dogs", 0)):
        with pytest.raises(ValueError, match="Cannot fetch"):
            fetch(categories, n, tmp_path)
    commons.dead = True
    with pytest.raises(ConnectionError, match=r"gave no answer \(ConnectionError\).*folder of your own pictures\.$"):
        fetch("dogs", 1, tmp_path)
    assert not list(tmp_path.iterdir())
