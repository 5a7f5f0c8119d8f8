"""Free photographs from Wikimedia Commons, in one folder per subject, with a manifest that credits every author."""

import json
import re
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from html import unescape
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from ..files import VERSION, atomic, sha256, write_text
from ..progress import Progress
from .images import read_image

SUBJECTS = {  # and the category of Wikimedia Commons in which each is looked for
    "airplanes": "Aircraft in flight", "birds": "Birds", "cars": "Automobiles", "cats": "Cats", "deer": "Cervidae",
    "dogs": "Dogs", "frogs": "Frogs", "horses": "Horses", "landmarks": "Landmarks", "ships": "Ships", "trucks": "Trucks"
}  # fmt: skip

API = "https://commons.wikimedia.org/w/api.php"
USER_AGENT = f"camhelpers/{VERSION} (notebooks that explain neural networks) python-requests/{requests.__version__}"
"""Wikimedia asks for an address at which you can be reached, and is more generous to those who put theirs here."""
WIDTH = 960  # pixels to which Wikimedia scales a picture: one of its standard sizes, which are served fastest
_SUFFIX = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp", "image/tiff": ".tiff"}
_FREE = re.compile(r"(cc0|cc-pd|pd|public domain)\b", re.IGNORECASE)
_LISTINGS = 40  # requests spent on one category before it counts as exhausted
_QUERY = {
    "action": "query", "format": "json", "formatversion": "2", "generator": "categorymembers", "gcmtype": "file|subcat",
    "gcmlimit": "50",  # as many as get a scaled address in one answer
    "prop": "imageinfo", "iiprop": "url|extmetadata|size|mime", "iiurlwidth": WIDTH,
    "iiextmetadatafilter": "Artist|License|LicenseShortName|LicenseUrl|NonFree",
}  # fmt: skip
_RETRY = Retry(  # half a second, doubled with every try, where the server does not say how long to wait
    total=3, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), retry_after_max=120, raise_on_status=False
)


def fetch_wikimedia(categories: str | Iterable[str], n: int, folder: str | Path) -> list[dict]:
    """Fetch `n` public-domain or CC0 pictures, balanced over `categories`, and return one dict for each.

    A category is a key of `SUBJECTS` or any category of Wikimedia Commons; its direct sub-categories are searched after
    its own files. Pictures go to `folder/<category>/`, and `folder/manifest.json` records title, author, licence,
    addresses and checksum of each. What is there is not fetched again, so an interrupted call is simply repeated.
    """
    names = {_slug(str(name)): str(name) for name in ([categories] if isinstance(categories, str) else categories)}
    if not names or "" in names or n < 1:
        raise ValueError(f"Cannot fetch {n} pictures of {categories!r}; use 1 or more, of 'dogs', 'Eiffel Tower', ...")
    folder, manifest = Path(folder), Path(folder, "manifest.json")
    entries = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else []
    entries = [entry for entry in entries if (folder / entry["file"]).is_file()]
    taken = {entry["page_id"] for entry in entries}  # a picture of two categories is fetched for the first only

    def pictures(session: requests.Session, category: str, name: str) -> Iterator[dict]:
        """First what the folder holds of this category, then what Wikimedia has."""
        yield from [entry for entry in entries if entry["category"] == category]
        for page in _free_pages(session, SUBJECTS.get(category, name)):
            if page["pageid"] in taken:
                continue
            taken.add(page["pageid"])
            try:
                entry = _download(session, page, folder, category)
            except ValueError as reason:
                warnings.warn(f"Left out {page['title']}: {reason}", stacklevel=3)
                continue
            entries.append(entry)
            write_text(manifest, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
            yield entry

    chosen = []
    with requests.Session() as session, Progress(n, "fetching", "picture") as counter:
        session.headers["User-Agent"] = USER_AGENT
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(max_retries=_RETRY))
        turns = deque(pictures(session, category, name) for category, name in names.items())
        try:
            while turns and len(chosen) < n:
                stream = turns.popleft()
                if entry := next(stream, None):
                    chosen.append(entry)
                    turns.append(stream)  # one that has ended leaves its share to the others
                    counter.step(note=entry["file"])
        except requests.RequestException as error:
            reason = type(error).__name__ if error.response is None else f"HTTP {error.response.status_code}"
            remedy = "run this again later (what is there is kept), or use a folder of your own pictures"
            raise ConnectionError(f"Wikimedia Commons gave no answer ({reason}): {remedy}.") from error
    if not chosen:
        raise ValueError(f"No public-domain or CC0 picture came from {', '.join(names.values())}; check the names.")
    if len(chosen) < n:
        warnings.warn(f"Fetched {len(chosen)} of {n} free pictures of {', '.join(names)}.", stacklevel=2)
    return chosen


def _free_pages(session: requests.Session, category: str) -> Iterator[dict]:
    """Pages of free pictures in a category, then in its direct sub-categories, each with its `imageinfo`."""
    root = f"Category:{category.removeprefix('Category:')}"
    queue, listings = [root], 0
    for title in queue:  # grows while the root is read, since Commons files each picture as deep down as it can
        more: dict | None = {}
        while more is not None and listings < _LISTINGS:
            listings += 1
            response = session.get(API, params={**_QUERY, "gcmtitle": title, **more}, timeout=30)
            response.raise_for_status()
            answer = response.json()
            for page in answer.get("query", {}).get("pages", []):
                if page.get("ns") == 14 and title == root and page["title"] not in queue:
                    queue.append(page["title"])
                elif page.get("imageinfo") and _is_free(page["imageinfo"][0]):
                    yield page
            more = answer.get("continue")


def _is_free(info: dict) -> bool:
    """Public domain or CC0 by every licence field that is filled in, and of a format that is read here."""
    licences = [name for key in ("License", "LicenseShortName") if (name := _text(info, key))]
    free = bool(licences) and all(_FREE.match(name) for name in licences) and not _text(info, "NonFree")
    return free and info.get("mime") in _SUFFIX


def _download(session: requests.Session, page: dict, folder: Path, category: str) -> dict:
    """Fetch one picture into `folder/category/` and return its line of the manifest, or say why it is left out."""
    info = page["imageinfo"][0]
    address, title = info.get("thumburl") or info["url"], page["title"].removeprefix("File:")
    response = session.get(address, timeout=30)
    if response.status_code in (429, 503):  # the server is overloaded, so that the next file would fare no better
        response.raise_for_status()
    suffix = _SUFFIX.get(response.headers.get("Content-Type", "").split(";")[0].strip().lower())
    if not response.ok or suffix is None:
        raise ValueError(f"HTTP {response.status_code}, {response.headers.get('Content-Type')}")
    height, width = read_image(response.content).shape[:2]
    path = folder / category / f"{_slug(Path(title).stem)}-{int(page['pageid'])}{suffix}"
    with atomic(path) as temporary:
        temporary.write_bytes(response.content)
    return {
        "title": title, "author": _text(info, "Artist") or "unknown",
        "licence": _text(info, "LicenseShortName") or _text(info, "License"), "licence_url": _text(info, "LicenseUrl"),
        "page_url": info.get("descriptionurl", ""), "url": address, "category": category,
        "file": path.relative_to(folder).as_posix(), "sha256": sha256(path), "width": width, "height": height,
        "page_id": page["pageid"], "fetched": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip


def _text(info: dict, key: str) -> str:
    """One field of the extended metadata, without its HTML."""
    value = str(info.get("extmetadata", {}).get(key, {}).get("value") or "")
    value = re.sub(r"<(style|script)\b.*?</\1>|<[^>]+>", " ", value, flags=re.DOTALL | re.IGNORECASE)
    return " ".join(unescape(value).split())


def _slug(name: str) -> str:
    """A file name's safe core: letters, digits and hyphens, so that nothing can lead out of its folder."""
    return re.sub(r"[\W_]+", "-", name.removeprefix("Category:")).strip("-")[:60].strip("-").lower()
