"""Fetching from Wikimedia Commons, against a loopback server that answers as its API does."""

import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from camhelpers.files import sha256
from camhelpers.io import wikimedia
from camhelpers.io.images import encode, list_images, read_image
from camhelpers.io.wikimedia import fetch_wikimedia as fetch


class Commons:
    """A small Wikimedia Commons: categories, their members, and what happens when a file is asked for."""

    def __init__(self):
        self.members: dict[str, list[dict]] = {}
        self.files: dict[str, bytes] = {}
        self.trouble: dict[str, list] = {}  # path -> for each request (status, headers) or "die"
        self.seen: list[tuple[str, dict, dict]] = []
        self.pauses: list[float] = []
        self.dead, self.serial = False, 100

    def add(self, category, title, *, licence="cc0", short="CC0", mime="image/jpeg", **words):
        self.serial += 1
        path = f"/thumb/{self.serial}.jpg"
        self.files[path] = encode(np.random.default_rng(self.serial).random((24, 32, 3)), "jpeg")
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
        answer = {"query": {"pages": members[start : start + 2]}} if members else {}
        more = {"continue": {"gcmcontinue": str(start + 2), "continue": "gcmcontinue||"}}
        return answer | (more if start + 2 < len(members) else {})

    @property
    def counts(self) -> Counter:
        return Counter(path.split("/")[1] for path, _, _ in self.seen)


@pytest.fixture
def commons(monkeypatch):
    here = Commons()
    monkeypatch.setattr("urllib3.util.retry.time.sleep", here.pauses.append)  # no test waits

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
            listed = parts.path == "/api"
            data = json.dumps(here.listing(query)).encode() if listed else here.files[parts.path]
            status, headers = act or (200, {"Content-Type": "application/json" if listed else "image/jpeg"})
            data = b"{}" if act else data
            self.send_response(status)
            for key, value in {"Content-Length": len(data), **headers}.items():
                self.send_header(key, str(value))
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


def test_pages_continuation_balance_and_credits(commons, tmp_path, capsys):
    for i in range(5):
        commons.add("Dogs", f"File:Dog {i}.jpg")
        commons.add("Cats", f"File:Cat {i}.jpg", licence="pd", short="Public domain")
    chosen = fetch(["dogs", "cats"], 7, tmp_path)
    assert re.search(r"fetching: 7 of 7 pictures.*dogs/", capsys.readouterr().err)
    assert Counter(entry["category"] for entry in chosen) == {"dogs": 4, "cats": 3}
    assert commons.counts == {"api": 4, "thumb": 7}  # two listings of two for each category
    entry = next(e for e in chosen if e["title"] == "Cat 0.jpg")
    assert (entry["author"], entry["licence"]) == ("Ada & Bo", "Public domain")
    assert entry["page_url"].endswith("/wiki/File:Cat 0.jpg") and re.fullmatch(r"\d{4}-\d\d-\d\d", entry["fetched"])
    assert sha256(tmp_path / entry["file"]) == entry["sha256"]
    assert read_image(tmp_path / entry["file"]).shape == (entry["height"], entry["width"], 3) == (24, 32, 3)
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert sorted(manifest, key=str) == sorted(chosen, key=str)
    query = commons.seen[0][1]
    assert query["gcmtitle"] == "Category:Dogs" and query["iiurlwidth"] == "960"
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
    assert [entry["title"] for entry in fetch("dogs", 1, tmp_path)] == (["Doubtful.jpg"] if free else ["Free.jpg"])
    assert commons.counts["thumb"] == 1


def test_subcategories_follow_but_not_their_own(commons, tmp_path):
    commons.add_subcategory("Dogs", "Dogs by colour")
    commons.add("Dogs", "File:Top.jpg")
    commons.add_subcategory("Dogs by colour", "Grey dogs")
    commons.add("Dogs by colour", "File:Below.jpg")
    commons.members["Category:Dogs"] *= 2  # as when the API continues within one batch
    commons.add("Grey dogs", "File:Far below.jpg")
    with pytest.warns(UserWarning, match="2 of 3"):
        assert [entry["title"] for entry in fetch("dogs", 3, tmp_path)] == ["Top.jpg", "Below.jpg"]
    assert [seen[1].get("gcmtitle") for seen in commons.seen].count("Category:Dogs by colour") == 1


def test_a_short_category_leaves_its_share_and_no_picture_comes_twice(commons, tmp_path):
    commons.add("Cats", "File:Cat and dog.jpg")
    commons.members["Category:Dogs"] = list(commons.members["Category:Cats"])
    for i in range(5):
        commons.add("Dogs", f"File:Dog {i}.jpg")
    chosen = fetch(["cats", "dogs"], 4, tmp_path)
    assert Counter(entry["category"] for entry in chosen) == {"cats": 1, "dogs": 3}
    assert len({entry["page_id"] for entry in chosen}) == 4


def test_an_overloaded_server_is_waited_for_as_it_asks_and_left_alone_after_bounded_tries(commons, tmp_path):
    path = commons.add("Dogs", "File:Dog.jpg")
    commons.trouble["/api"] = [(503, {"Retry-After": "7"})]
    commons.trouble[path] = [(429, {"Retry-After": "3600"}), (502, {})]
    assert len(fetch("dogs", 1, tmp_path)) == 1
    assert commons.pauses == [7, 120, 1]  # no longer than two minutes at once; the last answer named no pause
    for where in ("/api", path):
        commons.seen.clear()
        commons.trouble[where] = [(503, {})] * 4
        with pytest.raises(ConnectionError, match=r"HTTP 503.*folder of your own pictures"):
            fetch("dogs", 1, tmp_path / "new")
        assert commons.counts[where.split("/")[1]] == 4 and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [((200, {"Content-Type": "image/jpeg"}), "is not a picture"), ((404, {}), "HTTP 404"),
     ((200, {"Content-Type": "text/html"}), "text/html")],
)  # fmt: skip
def test_a_file_that_cannot_be_had_is_left_out_and_reported(commons, tmp_path, trouble, reason):
    path = commons.add("Dogs", "File:Broken.jpg")
    commons.add("Dogs", "File:Whole.jpg")
    commons.trouble[path] = [trouble]
    with pytest.warns(UserWarning, match=rf"Left out File:Broken\.jpg: .*{reason}"):
        chosen = fetch("dogs", 1, tmp_path)
    assert [entry["title"] for entry in chosen] == ["Whole.jpg"]
    assert [path.name for path in (tmp_path / "dogs").iterdir()] == [Path(chosen[0]["file"]).name]


def test_an_interrupted_call_resumes_and_a_whole_one_asks_nothing(commons, tmp_path):
    paths = [commons.add("Dogs", f"File:Dog {i}.jpg") for i in range(4)]
    commons.trouble[paths[2]] = ["die"]
    with pytest.raises(ConnectionError, match=r"what is there is kept.*folder of your own pictures"):
        fetch("dogs", 4, tmp_path)
    assert len(list_images(tmp_path / "dogs")) == 2 == len(list((tmp_path / "dogs").iterdir()))
    commons.dead = False
    commons.seen.clear()
    first = fetch("dogs", 4, tmp_path)
    assert [path for path, _, _ in commons.seen if path != "/api"] == paths[2:] and len(first) == 4
    commons.seen.clear()
    assert fetch("dogs", 4, tmp_path) == first
    assert fetch("dogs", 2, tmp_path) == first[:2] and not commons.seen
    (tmp_path / first[1]["file"]).unlink()
    again = fetch("dogs", 4, tmp_path)
    assert again == [first[0], *first[2:], first[1]] and commons.counts["thumb"] == 1
    assert json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8")) == again


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
