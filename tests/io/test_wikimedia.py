"""Fetching from Wikimedia Commons, against a loopback server that answers as its API does."""

import hashlib
import io
import json
import re
import threading
import warnings
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
from camhelpers.io.wikimedia import SUBJECTS, fetch_wikimedia


def jpeg(seed: int, side: int = 24) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 8, 3), dtype=np.uint8)
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
        self.page_size = 2
        self.dead = False
        self.serial = 100

    def add(self, category, title, *, licence="cc0", short="CC0", data=None, mime="image/jpeg", scaled=True, **info):
        self.serial += 1
        data = jpeg(self.serial) if data is None else data
        path = f"/{'thumb' if scaled else 'original'}/{self.serial}.jpg"
        self.files[path] = data
        words = {"License": licence, "LicenseShortName": short, "Artist": '<a href="//x">Ada &amp; <b>Bo</b></a>'}
        imageinfo = {
            "url": f"{self.base}/original/{self.serial}.jpg",
            "thumburl": self.base + path,
            "descriptionurl": f"{self.base}/wiki/{title}",
            "mime": mime,
            "sha1": hashlib.sha1(data).hexdigest(),
            "extmetadata": {key: {"value": value} for key, value in words.items() if value},
            **info,
        }
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
        answer = {"batchcomplete": True}
        if pages:
            answer["query"] = {"pages": pages}
        if start + self.page_size < len(members):
            answer["continue"] = {"gcmcontinue": str(start + self.page_size), "continue": "gcmcontinue||"}
        return answer

    @property
    def counts(self) -> Counter:
        return Counter(path.split("/")[1] for path, _, _ in self.seen)


@pytest.fixture
def commons():
    here = Commons()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            here.seen.append((parts.path, query, dict(self.headers)))
            trouble = here.trouble.get(parts.path, [])
            act = trouble.pop(0) if trouble else None
            here.dead = here.dead or act == "die"
            if here.dead and act != "die":
                return  # hangs up without a word
            if isinstance(act, dict):  # status, headers and JSON of an unusual answer
                return self.answer(act.get("status", 200), json.dumps(act.get("json", {})).encode(), act["headers"])
            if parts.path == "/api":
                return self.answer(200, json.dumps(here.listing(query)).encode(), {"Content-Type": "application/json"})
            data = here.files[parts.path]
            headers = {"Content-Type": "image/jpeg", "Content-Length": str(len(data))}
            if act in ("cut", "die"):
                data = data[: len(data) // 2]
            if act == "rot":  # all bytes arrive, but not the right ones
                data = data[: len(data) // 2] + bytes(len(data) - len(data) // 2)
            if act == "endless":
                del headers["Content-Length"]
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
    here.api = f"{here.base}/api"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield here
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """No test waits; what would have been waited for is listed."""
    asked = []
    monkeypatch.setattr(wikimedia, "sleep", asked.append)
    return asked


def fetch(commons, categories, n, folder, **options):
    return fetch_wikimedia(categories, n, folder, api=commons.api, progress=False, **options)


def test_pages_continuation_and_balance(commons, tmp_path):
    for i in range(5):
        commons.add("Dogs", f"File:Dog {i}.jpg")
        commons.add("Cats", f"File:Cat {i}.jpg", licence="pd", short="Public domain")
    chosen = fetch(commons, ["dogs", "cats"], 7, tmp_path)
    assert Counter(entry["category"] for entry in chosen) == {"dogs": 4, "cats": 3}
    assert len(list_images(tmp_path / "dogs")) == 4 and len(list_images(tmp_path / "cats")) == 3
    assert commons.counts == {"api": 4, "thumb": 7}  # two listings of two for each category
    entry = next(e for e in chosen if e["title"] == "Cat 0.jpg")
    assert (entry["author"], entry["licence"]) == ("Ada & Bo", "Public domain")
    assert entry["page_url"].endswith("/wiki/File:Cat 0.jpg")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", entry["fetched"])
    for entry in chosen:
        path = tmp_path / entry["file"]
        assert sha256(path) == entry["sha256"]
        assert read_image(path).shape == (entry["height"], entry["width"], 3) == (24, 32, 3)
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert sorted(manifest, key=str) == sorted(chosen, key=str)


def test_what_the_api_is_asked(commons, tmp_path):
    commons.add("Dogs", "File:Dog.jpg")
    fetch(commons, "dogs", 1, tmp_path, user_agent="me (me@example.org)", width=500)
    query = commons.seen[0][1]
    assert query["gcmtitle"] == "Category:Dogs" and query["iiurlwidth"] == "500" and query["maxlag"] == "5"
    assert (query["generator"], query["formatversion"], query["format"]) == ("categorymembers", "2", "json")
    assert {seen[2]["User-Agent"] for seen in commons.seen} == {"me (me@example.org)"}


@pytest.mark.parametrize(
    ("licence", "short", "free"),
    [
        ("cc0", "CC0", True),
        ("pd", "Public domain", True),
        (None, "CC0 1.0", True),
        (None, "PD-USGov", True),
        ("cc-by-sa-4.0", "CC BY-SA 4.0", False),
        ("cc-by-4.0", "CC BY 4.0", False),
        (None, None, False),
        ("pd", "CC BY 4.0", False),
        (None, "PDM-owner", False),
        (None, "No restrictions", False),
    ],
)
def test_only_free_licences_pass(commons, tmp_path, licence, short, free):
    commons.add("Dogs", "File:Doubtful.jpg", licence=licence, short=short)
    commons.add("Dogs", "File:Free.jpg")
    titles = [entry["title"] for entry in fetch(commons, "dogs", 1, tmp_path)]
    assert titles == (["Doubtful.jpg"] if free else ["Free.jpg"])


def test_a_file_marked_as_not_free_is_passed_over(commons, tmp_path):
    commons.add("Dogs", "File:Logo.jpg")
    commons.members["Category:Dogs"][0]["imageinfo"][0]["extmetadata"]["NonFree"] = {"value": "1"}
    commons.add("Dogs", "File:Dog.jpg")
    assert [entry["title"] for entry in fetch(commons, "dogs", 1, tmp_path)] == ["Dog.jpg"]


def test_other_kinds_of_file_are_not_asked_for(commons, tmp_path):
    commons.add("Dogs", "File:Drawing.svg", mime="image/svg+xml")
    commons.add("Dogs", "File:Sound.ogg", mime="audio/ogg")
    commons.add("Dogs", "File:Dog.jpg")
    assert [entry["title"] for entry in fetch(commons, "dogs", 1, tmp_path)] == ["Dog.jpg"]
    assert commons.counts["thumb"] == 1


def test_subcategories_follow_but_not_their_own(commons, tmp_path):
    commons.add_subcategory("Dogs", "Dogs by colour")
    commons.add("Dogs", "File:Top.jpg")
    commons.add_subcategory("Dogs by colour", "Grey dogs")
    commons.add("Dogs by colour", "File:Below.jpg")
    commons.members["Category:Dogs"] *= 2  # as when the API continues within one batch
    commons.add("Grey dogs", "File:Far below.jpg")
    with pytest.warns(UserWarning, match="2 of 3"):
        titles = [entry["title"] for entry in fetch(commons, "dogs", 3, tmp_path)]
    assert titles == ["Top.jpg", "Below.jpg"]
    assert [seen[1]["gcmtitle"] for seen in commons.seen if "gcmtitle" in seen[1]].count("Category:Dogs by colour") == 1


def test_a_short_category_leaves_its_share_to_the_others(commons, tmp_path):
    commons.add("Cats", "File:Cat.jpg")
    for i in range(5):
        commons.add("Dogs", f"File:Dog {i}.jpg")
    chosen = fetch(commons, ["cats", "dogs"], 4, tmp_path)
    assert Counter(entry["category"] for entry in chosen) == {"cats": 1, "dogs": 3}


def test_a_picture_of_two_categories_is_taken_once(commons, tmp_path):
    commons.add("Cats", "File:Cat and dog.jpg")
    commons.members["Category:Dogs"] = list(commons.members["Category:Cats"])
    commons.add("Dogs", "File:Dog.jpg")
    assert len({entry["page_id"] for entry in fetch(commons, ["cats", "dogs"], 2, tmp_path)}) == 2


def test_503_and_429_are_waited_for_as_asked(commons, tmp_path, pauses):
    path = commons.add("Dogs", "File:Dog.jpg")
    commons.trouble["/api"] = [{"status": 503, "headers": {"Retry-After": "7"}}]
    commons.trouble[path] = [{"status": 429, "headers": {"Retry-After": "3"}}, {"status": 429, "headers": {}}]
    assert len(fetch(commons, "dogs", 1, tmp_path)) == 1
    assert pauses == [7, 3, 2]  # the last answer named no pause: exponential back-off, second try


def test_maxlag_is_waited_for(commons, tmp_path, pauses):
    commons.add("Dogs", "File:Dog.jpg")
    lag = {"error": {"code": "maxlag", "info": "Waiting for a server: 6 seconds lagged."}}
    commons.trouble["/api"] = [{"headers": {"Retry-After": "5"}, "json": lag}]
    assert len(fetch(commons, "dogs", 1, tmp_path)) == 1
    assert pauses == [5]


def test_an_overloaded_server_is_left_alone_after_bounded_tries(commons, tmp_path, pauses):
    commons.trouble["/api"] = [{"status": 503, "headers": {}}] * 50
    with pytest.raises(ConnectionError, match=r"HTTP 503.*folder of your own pictures"):
        fetch(commons, "dogs", 1, tmp_path)
    assert commons.counts["api"] == 4 and pauses == [1, 2, 4]
    assert not list(tmp_path.iterdir())


def test_a_very_long_pause_is_reported_rather_than_cut_short(commons, tmp_path, pauses):
    commons.trouble["/api"] = [{"status": 429, "headers": {"Retry-After": "3600"}}]
    with pytest.raises(ConnectionError, match="pause of 3600 seconds"):
        fetch(commons, "dogs", 1, tmp_path)
    assert pauses == [] and commons.counts["api"] == 1


def test_an_error_of_the_api_is_one_sentence(commons, tmp_path):
    commons.trouble["/api"] = [{"headers": {}, "json": {"error": {"code": "x", "info": "Bad title"}}}]
    with pytest.raises(ValueError, match="refused to list Category:Dogs: Bad title"):
        fetch(commons, "dogs", 1, tmp_path)


def test_a_redirect_is_followed(commons, tmp_path):
    path = commons.add("Dogs", "File:Dog.jpg")
    commons.files["/moved/1.jpg"] = commons.files[path]
    commons.trouble[path] = [{"status": 301, "headers": {"Location": "/moved/1.jpg"}}]
    (entry,) = fetch(commons, "dogs", 1, tmp_path)
    assert (tmp_path / entry["file"]).read_bytes() == commons.files[path]


@pytest.mark.parametrize("damage", ["cut", "rot"])
def test_a_damaged_download_is_tried_again(commons, tmp_path, damage):
    path = commons.add("Dogs", "File:Dog.jpg")
    commons.trouble[path] = [damage]
    (entry,) = fetch(commons, "dogs", 1, tmp_path)
    assert (tmp_path / entry["file"]).read_bytes() == commons.files[path]
    assert commons.counts["thumb"] == 2


@pytest.mark.parametrize(("damage", "reason"), [("cut", "broke off"), ("rot", "cannot be decoded")])
def test_a_file_that_stays_damaged_is_skipped_and_reported(commons, tmp_path, damage, reason):
    path = commons.add("Dogs", "File:Broken.jpg")
    commons.add("Dogs", "File:Whole.jpg")
    commons.trouble[path] = [damage] * 50
    with pytest.warns(UserWarning, match=rf"Broken\.jpg.*({reason})"):
        chosen = fetch(commons, "dogs", 1, tmp_path)
    assert [entry["title"] for entry in chosen] == ["Whole.jpg"]
    assert commons.counts["thumb"] == 5  # four tries, then the next file
    assert [path.name for path in (tmp_path / "dogs").iterdir()] == [Path(chosen[0]["file"]).name]


def test_the_stated_checksum_holds_for_an_original_only(commons, tmp_path):
    commons.add("Dogs", "File:Swapped.jpg", scaled=False, sha1="0" * 40)
    commons.add("Dogs", "File:Scaled.jpg", sha1="0" * 40)
    commons.add("Dogs", "File:Original.jpg", scaled=False)
    with pytest.warns(UserWarning, match=r"Swapped\.jpg \(its checksum"):
        chosen = fetch(commons, "dogs", 2, tmp_path)
    assert [entry["title"] for entry in chosen] == ["Scaled.jpg", "Original.jpg"]


@pytest.mark.parametrize("announced", [True, False])
def test_an_oversized_file_is_skipped_at_once(commons, tmp_path, announced):
    path = commons.add("Dogs", "File:Large.jpg", data=jpeg(1, side=300))
    commons.add("Dogs", "File:Small.jpg")
    commons.trouble[path] = [] if announced else ["endless"]
    with pytest.warns(UserWarning, match=r"Large\.jpg \(larger than max_bytes = 10,000"):
        chosen = fetch(commons, "dogs", 1, tmp_path, max_bytes=10_000)
    assert [entry["title"] for entry in chosen] == ["Small.jpg"]
    assert commons.counts["thumb"] == 2


def test_a_file_that_the_server_fails_on_does_not_stop_the_rest(commons, tmp_path):
    path = commons.add("Dogs", "File:Unscalable.jpg")
    commons.add("Dogs", "File:Dog.jpg")
    commons.trouble[path] = [{"status": 500, "headers": {}}] * 4
    with pytest.warns(UserWarning, match=r"Unscalable\.jpg \(HTTP 500\)"):
        assert len(fetch(commons, "dogs", 1, tmp_path)) == 1


def test_a_page_in_place_of_a_picture_is_skipped(commons, tmp_path):
    gone, odd = commons.add("Dogs", "File:Gone.jpg"), commons.add("Dogs", "File:Odd.jpg")
    commons.add("Dogs", "File:Dog.jpg")
    commons.trouble[gone] = [{"status": 404, "headers": {}}]
    commons.trouble[odd] = [{"headers": {"Content-Type": "text/html"}}]
    with pytest.warns(UserWarning, match=r"Gone\.jpg \(HTTP 404\); File:Odd\.jpg \(served as text/html"):
        assert len(fetch(commons, "dogs", 1, tmp_path)) == 1


def test_a_second_call_asks_nothing_and_repairs_what_changed(commons, tmp_path):
    for i in range(4):
        commons.add("Dogs", f"File:Dog {i}.jpg")
    first = fetch(commons, "dogs", 4, tmp_path)
    commons.seen.clear()
    assert fetch(commons, "dogs", 4, tmp_path) == first
    assert [e["title"] for e in fetch(commons, "dogs", 2, tmp_path)] == [e["title"] for e in first[:2]]
    assert not commons.seen

    (tmp_path / first[1]["file"]).write_bytes(b"spoilt")
    again = fetch(commons, "dogs", 4, tmp_path)
    assert sorted(e["sha256"] for e in again) == sorted(e["sha256"] for e in first)
    assert commons.counts["thumb"] == 1
    assert len(json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))) == 4


def test_another_width_is_fetched_anew(commons, tmp_path):
    commons.add("Dogs", "File:Dog.jpg")
    fetch(commons, "dogs", 1, tmp_path, width=500)
    assert fetch(commons, "dogs", 1, tmp_path, width=960)[0]["asked_width"] == 960
    assert commons.counts["thumb"] == 2 and len(list_images(tmp_path / "dogs")) == 1


def test_an_interrupted_call_resumes(commons, tmp_path):
    paths = [commons.add("Dogs", f"File:Dog {i}.jpg") for i in range(4)]
    commons.trouble[paths[2]] = ["die"]
    with pytest.raises(ConnectionError, match=r"the 2 pictures in .* are kept.*folder of your own pictures"):
        fetch(commons, "dogs", 4, tmp_path)
    assert len(list_images(tmp_path / "dogs")) == 2 == len(list((tmp_path / "dogs").iterdir()))
    commons.dead = False
    commons.seen.clear()
    assert len(fetch(commons, "dogs", 4, tmp_path)) == 4
    assert [path for path, _, _ in commons.seen if path != "/api"] == paths[2:]


@pytest.mark.parametrize("title", ["File:../../../evil.jpg", "File:/etc/evil.jpg", "File:C:\\evil.jpg", "File:...jpg"])
def test_no_title_leads_out_of_the_folder(commons, tmp_path, title):
    commons.add("Dogs", title)
    (entry,) = fetch(commons, "dogs", 1, tmp_path / "in")
    assert re.fullmatch(r"dogs/[\w-]+\.jpg", entry["file"])
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_manifest_cannot_point_out_of_the_folder(commons, tmp_path):
    commons.add("Dogs", "File:Dog.jpg")
    outside = tmp_path / "outside.jpg"
    outside.write_bytes(jpeg(0))
    (tmp_path / "in").mkdir()
    entry = {"category": "dogs", "file": "../outside.jpg", "sha256": sha256(outside), "page_id": 1, "asked_width": 960}
    (tmp_path / "in" / "manifest.json").write_text(json.dumps([entry]), encoding="utf-8")
    assert fetch(commons, "dogs", 1, tmp_path / "in")[0]["title"] == "Dog.jpg"


@pytest.mark.parametrize("text", ["{", "3", '["a"]', '[{"file": "x"}]'])
def test_a_foreign_manifest_is_left_alone(commons, tmp_path, text):
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"manifest\.json is not a manifest of fetch_wikimedia"):
        fetch(commons, "dogs", 1, tmp_path)
    assert (tmp_path / "manifest.json").read_text(encoding="utf-8") == text


def test_no_network_is_one_sentence_and_nothing_written(tmp_path):
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1 could not be reached.*folder of your own pictures\.$"):
        fetch_wikimedia("dogs", 1, tmp_path, api="http://127.0.0.1:9/api", progress=False)
    assert not list(tmp_path.iterdir())


def test_nothing_found_and_bad_arguments(commons, tmp_path):
    with pytest.raises(ValueError, match="No public-domain or CC0 picture came from Nonsense"):
        fetch(commons, "Nonsense", 1, tmp_path)
    for categories in ([], "", ["dogs", "//"]):
        with pytest.raises(ValueError, match="No category to fetch"):
            fetch(commons, categories, 1, tmp_path)
    with pytest.raises(ValueError, match="must be at least 1"):
        fetch(commons, "dogs", 0, tmp_path)
    assert not list(tmp_path.iterdir())


def test_progress_is_plain_lines_without_a_terminal(commons, tmp_path, capsys):
    commons.add("Dogs", "File:Dog.jpg")
    fetch_wikimedia("dogs", 1, tmp_path, api=commons.api)
    assert re.fullmatch(r"1/1 dogs/Dog-\d+\.jpg\n", capsys.readouterr().out, flags=re.IGNORECASE)


def test_a_full_harvest_warns_of_nothing(commons, tmp_path):
    for name in SUBJECTS.values():
        commons.add(name, f"File:{name}.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = fetch(commons, SUBJECTS, len(SUBJECTS), tmp_path)
    assert {entry["category"] for entry in chosen} == set(SUBJECTS)
