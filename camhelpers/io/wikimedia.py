"""Free photographs from Wikimedia Commons, in one folder per subject, with a manifest that credits every author."""

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from time import sleep
from urllib.parse import urlsplit

import requests

from ..files import atomic, sha256, write_text
from .images import read_image

SUBJECTS = {
    "airplanes": "Aircraft in flight",
    "birds": "Birds",
    "cars": "Automobiles",
    "cats": "Cats",
    "deer": "Cervidae",
    "dogs": "Dogs",
    "frogs": "Frogs",
    "horses": "Horses",
    "landmarks": "Landmarks",
    "ships": "Ships",
    "trucks": "Trucks",
}
"""Subjects and the category of Wikimedia Commons in which each is looked for."""

USER_AGENT = f"camhelpers/0.1.0 (notebooks that explain neural networks) python-requests/{requests.__version__}"

_SUFFIX = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp", "image/tiff": ".tiff"}
_FREE = re.compile(r"(cc0|cc-pd|pd|public domain)\b", re.IGNORECASE)
_ENTRY = {"category", "file", "sha256", "page_id", "asked_width"}  # what a manifest must hold to resume from it
_TRIES = 4
_PATIENCE = 120  # the longest pause, in seconds, that a server may ask for
_LISTINGS = 40  # requests spent on one category before it counts as exhausted


class _Damaged(Exception):
    """A download that arrived incomplete or cannot be decoded; worth another try."""


class _Unfit(Exception):
    """A file that no further try will make usable."""


def fetch_wikimedia(
    categories: str | Iterable[str],
    n: int,
    folder: str | Path,
    *,
    max_bytes: int = 20_000_000,
    width: int = 960,
    api: str = "https://commons.wikimedia.org/w/api.php",
    user_agent: str = USER_AGENT,
    progress: bool = True,
) -> list[dict]:
    """Fetch `n` public-domain or CC0 pictures, balanced over `categories`, and return one dict for each.

    A category is a key of `SUBJECTS` or any category of Wikimedia Commons; its direct sub-categories are searched after
    its own files. Pictures go to `folder/<category>/`, scaled to about `width` pixels by Wikimedia (960 is one of its
    standard sizes, which are served fastest), and `folder/manifest.json` records title, author, licence, addresses and
    checksum of each. What is there already and intact is not fetched again, so an interrupted call is simply repeated.
    Wikimedia asks that `user_agent` contain an address at which you can be reached, and is more generous if it does.
    """
    names = {_slug(str(name)): str(name) for name in ([categories] if isinstance(categories, str) else categories)}
    if not names or "" in names:
        raise ValueError(f"No category to fetch in {categories!r}; name some, such as 'dogs' or 'Eiffel Tower'.")
    if n < 1 or max_bytes < 1 or width < 1:
        raise ValueError(f"n, max_bytes and width must be at least 1, but are {n}, {max_bytes} and {width}.")
    folder = Path(folder)
    everything = _load_manifest(folder)
    session = requests.Session()
    session.headers["User-Agent"] = user_agent
    skipped: list[str] = []
    held = [e for e in everything if e["category"] in names and e["asked_width"] == width and _intact(folder, e)]
    taken = {entry["page_id"] for entry in held}  # a picture of two categories is fetched for the first only

    def pictures(category: str, name: str) -> Iterator[dict]:
        """First what the folder holds of this category, then what Wikimedia has."""
        yield from [entry for entry in held if entry["category"] == category]
        for page in _free_pages(session, api, SUBJECTS.get(category, name), width):
            if page["pageid"] in taken:
                continue
            taken.add(page["pageid"])
            try:
                entry = _download(session, page, folder, category, width, max_bytes)
            except (_Damaged, _Unfit) as reason:
                skipped.append(f"{page['title']} ({reason})")
                continue
            everything[:] = [old for old in everything if old["file"] != entry["file"]] + [entry]
            write_text(folder / "manifest.json", json.dumps(everything, indent=1, ensure_ascii=False) + "\n")
            yield entry

    try:
        chosen = _round_robin({category: pictures(category, name) for category, name in names.items()}, n, progress)
    except requests.RequestException as error:
        reason = str(error) if isinstance(error, requests.HTTPError) else type(error).__name__
        kept = f" (the {len(everything)} pictures in {folder} are kept)" if everything else ""
        raise ConnectionError(
            f"{urlsplit(api).hostname} could not be reached or gave no answer ({reason}): run this again later{kept}, "
            "or use a folder of your own pictures."
        ) from error
    finally:
        session.close()
    tail = f"; skipped: {'; '.join(skipped)}" if skipped else ""
    if not chosen:
        advice = "check the names on commons.wikimedia.org"
        raise ValueError(f"No public-domain or CC0 picture came from {', '.join(names.values())}; {advice}{tail}.")
    if len(chosen) < n or skipped:
        warnings.warn(f"Fetched {len(chosen)} of {n} free pictures of {', '.join(names)}{tail}.", stacklevel=2)
    return chosen


def _round_robin(streams: dict[str, Iterator[dict]], n: int, progress: bool) -> list[dict]:
    """Take `n` pictures from the streams in turn; one that ends leaves its share to the others."""
    from tqdm import tqdm

    chosen: list[dict] = []
    with tqdm(total=n, desc="pictures", disable=None if progress else True) as bar:
        while streams and len(chosen) < n:
            for name in list(streams)[: n - len(chosen)]:
                entry = next(streams[name], None)
                if entry is None:
                    del streams[name]
                    continue
                chosen.append(entry)
                bar.update()
                if progress and bar.disable:  # no terminal, hence plain lines
                    print(f"{len(chosen)}/{n} {entry['file']}")
    return chosen


def _load_manifest(folder: Path) -> list[dict]:
    path = folder / "manifest.json"
    if not path.exists():
        return []
    with suppress(ValueError, TypeError, AttributeError):
        entries = json.loads(path.read_text(encoding="utf-8"))
        if all(entry.keys() >= _ENTRY for entry in entries):
            return entries
    raise ValueError(f"{path} is not a manifest of fetch_wikimedia; move it away, or choose another folder.")


def _intact(folder: Path, entry: dict) -> bool:
    """Whether the manifest's file is there, inside the folder, with the checksum it had."""
    path = (folder / entry["file"]).resolve()
    return path.is_relative_to(folder.resolve()) and path.is_file() and sha256(path) == entry["sha256"]


def _free_pages(session: requests.Session, api: str, category: str, width: int) -> Iterator[dict]:
    """Pages of free pictures in a category, then in its direct sub-categories, each with its `imageinfo`."""
    root = f"Category:{category.removeprefix('Category:')}"
    queue, listings = [root], 0
    for title in queue:  # grows while the root is read, since Commons files each picture as deep down as it can
        more: dict | None = {}
        while more is not None and listings < _LISTINGS:
            listings += 1
            answer = _ask(session, api, title, width, more)
            for page in answer.get("query", {}).get("pages", []):
                if page.get("ns") == 14 and title == root and page["title"] not in queue:
                    queue.append(page["title"])
                elif page.get("imageinfo") and _is_free(page["imageinfo"][0]):
                    yield page
            more = answer.get("continue")


def _ask(session: requests.Session, api: str, title: str, width: int, more: dict) -> dict:
    """One page of the API's answer; a server that lags behind (maxlag) is waited for."""
    params = {
        "action": "query",
        "format": "json",
        "formatversion": "2",
        "maxlag": "5",
        "generator": "categorymembers",
        "gcmtitle": title,
        "gcmtype": "file|subcat",
        "gcmlimit": "50",  # as many as get a scaled address in one answer
        "prop": "imageinfo",
        "iiprop": "url|extmetadata|size|mime|sha1",
        "iiurlwidth": str(width),
        "iiextmetadatafilter": "Artist|License|LicenseShortName|LicenseUrl|NonFree",
        **more,
    }
    for attempt in range(_TRIES):
        with _get(session, api, params=params) as response:
            if not response.ok:
                raise requests.HTTPError(f"HTTP {response.status_code}")
            answer = response.json()
            error = answer.get("error")
            if not error:
                return answer
            if error.get("code") not in ("maxlag", "ratelimited") or attempt == _TRIES - 1:
                raise ValueError(f"Wikimedia refused to list {title}: {error.get('info', error.get('code'))}.")
            sleep(_pause(response, attempt))
    raise AssertionError("the last attempt returns or raises")


def _get(session: requests.Session, address: str, **options) -> requests.Response:
    """GET with back-off: on 429 and server errors, for as long as Retry-After asks, and while nobody answers."""
    for attempt in range(_TRIES):
        last = attempt == _TRIES - 1
        try:
            response = session.get(address, timeout=30, **options)
        except (requests.ConnectionError, requests.Timeout):
            if last:
                raise
            sleep(0.5 * 2**attempt)
            continue
        status = response.status_code
        if status not in (429, 500, 502, 503, 504) or (last and status not in (429, 503)):
            return response
        response.close()
        if last:  # the server is overloaded, so that the next file would fare no better
            raise requests.HTTPError(f"HTTP {status}")
        sleep(_pause(response, attempt))
    raise AssertionError("the last attempt returns or raises")


def _pause(response: requests.Response, attempt: int) -> float:
    """Seconds to wait: what Retry-After says, otherwise 1, 2, 4..."""
    asked = response.headers.get("Retry-After", "")
    seconds = int(asked) if asked.isdecimal() else 2.0**attempt
    if seconds > _PATIENCE:
        raise requests.HTTPError(f"it asks for a pause of {seconds} seconds")
    return seconds


def _is_free(info: dict) -> bool:
    """Public domain or CC0 by every licence field that is filled in, and of a format that is read here."""
    named = [_text(info, key) for key in ("License", "LicenseShortName")]
    licences = [name for name in named if name]
    free = bool(licences) and all(_FREE.match(name) for name in licences) and not _text(info, "NonFree")
    return free and info.get("mime") in _SUFFIX


def _download(session: requests.Session, page: dict, folder: Path, category: str, width: int, max_bytes: int) -> dict:
    """Fetch one picture into `folder/category/` and return its line of the manifest."""
    info = page["imageinfo"][0]
    address = info.get("thumburl") or info["url"]
    original = urlsplit(address)[:3] == urlsplit(info["url"])[:3]  # a small original is not scaled
    for attempt in range(_TRIES):
        try:
            with _get(session, address, stream=True, headers={"Accept-Encoding": "identity"}) as response:
                suffix = _SUFFIX.get(response.headers.get("Content-Type", "").split(";")[0].strip().lower())
                if not response.ok:
                    raise _Unfit(f"HTTP {response.status_code}")
                if suffix is None:
                    raise _Unfit(f"served as {response.headers.get('Content-Type')}, not as a picture")
                path = (
                    folder
                    / category
                    / f"{_slug(Path(page['title'].removeprefix('File:')).stem)}-{int(page['pageid'])}{suffix}"
                )
                data = _body(response, max_bytes)
            if original and info.get("sha1") and hashlib.sha1(data).hexdigest() != info["sha1"]:
                raise _Damaged("its checksum is not the one that Wikimedia states")
            try:
                height, shown_width = read_image(data).shape[:2]
            except ValueError:
                raise _Damaged("it cannot be decoded") from None
            break
        except _Damaged:
            if attempt == _TRIES - 1:
                raise
            sleep(0.5 * 2**attempt)
    with atomic(path) as temporary:
        temporary.write_bytes(data)
    return {
        "title": page["title"].removeprefix("File:"),
        "author": _text(info, "Artist") or "unknown",
        "licence": _text(info, "LicenseShortName") or _text(info, "License"),
        "licence_url": _text(info, "LicenseUrl"),
        "page_url": info.get("descriptionurl", ""),
        "url": address,
        "category": category,
        "file": path.relative_to(folder).as_posix(),
        "sha256": hashlib.sha256(data).hexdigest(),
        "width": shown_width,
        "height": height,
        "asked_width": width,
        "page_id": page["pageid"],
        "fetched": datetime.now(UTC).date().isoformat(),
    }


def _body(response: requests.Response, max_bytes: int) -> bytes:
    """All bytes of a response, but never more than `max_bytes`; that too few arrived is noticed by urllib3."""
    announced = response.headers.get("Content-Length", "")
    too_large = f"larger than max_bytes = {max_bytes:,}"
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _Unfit(too_large)
    data = bytearray()
    try:
        for chunk in response.iter_content(65536):
            data += chunk
            if len(data) > max_bytes:
                raise _Unfit(too_large)
    except requests.RequestException as error:
        raise _Damaged(f"the download broke off after {len(data):,} bytes") from error
    return bytes(data)


def _text(info: dict, key: str) -> str:
    """One field of the extended metadata, without its HTML."""
    value = str(info.get("extmetadata", {}).get(key, {}).get("value") or "")
    value = re.sub(r"<(style|script)\b.*?</\1>|<[^>]+>", " ", value, flags=re.DOTALL | re.IGNORECASE)
    return " ".join(unescape(value).split())


def _slug(name: str) -> str:
    """A file name's safe core: letters, digits and hyphens, so that nothing can lead out of its folder."""
    return re.sub(r"[\W_]+", "-", name.removeprefix("Category:")).strip("-")[:60].strip("-").lower()
