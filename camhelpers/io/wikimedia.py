"""Free photographs from Wikimedia Commons, in one folder per subject, with a manifest that credits every author."""

import json
import re
import warnings
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from html import unescape
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from ..files import VERSION, atomic, sha256, write_text
from ..progress import Progress
from .images import read_image

SUBJECTS = {
    "airplanes": "Aircraft in flight", "birds": "Birds", "cars": "Automobiles", "cats": "Cats", "deer": "Cervidae",
    "dogs": "Dogs", "frogs": "Frogs", "horses": "Horses", "landmarks": "Landmarks", "ships": "Ships",
    "trucks": "Trucks",
}  # fmt: skip
"""Subjects and the category of Wikimedia Commons in which each is looked for."""

USER_AGENT = f"camhelpers/{VERSION} (notebooks that explain neural networks) python-requests/{requests.__version__}"

_SUFFIX = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp", "image/tiff": ".tiff"}
_FREE = re.compile(r"(cc0|cc-pd|pd|public domain)\b", re.IGNORECASE)
_LISTINGS = 40  # requests spent on one category before it counts as exhausted
_QUERY = {
    "action": "query", "format": "json", "formatversion": "2",
    "generator": "categorymembers", "gcmtype": "file|subcat",
    "gcmlimit": "50",  # as many as get a scaled address in one answer
    "prop": "imageinfo", "iiprop": "url|extmetadata|size|mime",
    "iiextmetadatafilter": "Artist|License|LicenseShortName|LicenseUrl|NonFree",
}  # fmt: skip
_RETRY = Retry(  # half a second, doubled with every try, where the server does not say how long to wait
    total=3, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), retry_after_max=120, raise_on_status=False
)


def fetch_wikimedia(
    categories: str | Iterable[str],
    n: int,
    folder: str | Path,
    *,
    max_bytes: int = 20_000_000,
    width: int = 960,
    api: str = "https://commons.wikimedia.org/w/api.php",
    user_agent: str = USER_AGENT,
    show: bool = True,
) -> list[dict]:
    """Fetch `n` public-domain or CC0 pictures, balanced over `categories`, and return one dict for each.

    A category is a key of `SUBJECTS` or any category of Wikimedia Commons; its direct sub-categories are searched after
    its own files. Pictures go to `folder/<category>/`, scaled to about `width` pixels by Wikimedia (960 is one of its
    standard sizes, which are served fastest), and `folder/manifest.json` records title, author, licence, addresses and
    checksum of each. What is there already and intact is not fetched again, so an interrupted call is simply repeated.
    Wikimedia asks that `user_agent` contain an address at which you can be reached, and is more generous if it does.
    """
    names = {_slug(str(name)): str(name) for name in ([categories] if isinstance(categories, str) else categories)}
    if not names or "" in names or n < 1:
        raise ValueError(f"Cannot fetch {n} pictures of {categories!r}; use 1 or more, of 'dogs', 'Eiffel Tower', ...")
    folder = Path(folder)
    everything = _load_manifest(folder)
    chosen, skipped = [], []
    held = [e for e in everything if e["category"] in names and e["asked_width"] == width and _intact(folder, e)]
    taken = {entry["page_id"] for entry in held}  # a picture of two categories is fetched for the first only

    def pictures(session: requests.Session, category: str, name: str) -> Iterator[dict]:
        """First what the folder holds of this category, then what Wikimedia has."""
        yield from [entry for entry in held if entry["category"] == category]
        for page in _free_pages(session, api, SUBJECTS.get(category, name), width):
            if page["pageid"] in taken:
                continue
            taken.add(page["pageid"])
            try:
                entry = _download(session, page, folder, category, width, max_bytes)
            except ValueError as reason:
                skipped.append(f"{page['title']} ({reason})")
                continue
            everything[:] = [old for old in everything if old["file"] != entry["file"]] + [entry]
            write_text(folder / "manifest.json", json.dumps(everything, indent=1, ensure_ascii=False) + "\n")
            yield entry

    with requests.Session() as session:
        session.headers["User-Agent"] = user_agent
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(max_retries=_RETRY))
        streams = [pictures(session, category, name) for category, name in names.items()]
        try:
            with Progress(n, "fetching", "picture", show) as counter:
                for entry in islice(_in_turn(streams), n):
                    chosen.append(entry)
                    counter.step(note=entry["file"])
        except requests.RequestException as error:
            reason = str(error) if isinstance(error, requests.HTTPError) else type(error).__name__
            remedy = "run this again later (what is there is kept), or use a folder of your own pictures"
            raise ConnectionError(f"{urlsplit(api).hostname} gave no answer ({reason}): {remedy}.") from error
    tail = f"; skipped: {'; '.join(skipped)}" if skipped else ""
    if not chosen:
        wanted = ", ".join(names.values())
        raise ValueError(f"No public-domain or CC0 picture came from {wanted}; check the names{tail}.")
    if len(chosen) < n or skipped:
        warnings.warn(f"Fetched {len(chosen)} of {n} free pictures of {', '.join(names)}{tail}.", stacklevel=2)
    return chosen


def _in_turn(streams: list[Iterator[dict]]) -> Iterator[dict]:
    """One of each stream after the other; one that ends leaves its share to the others."""
    while streams:
        for stream in list(streams):
            entry = next(stream, None)
            if entry is None:
                streams.remove(stream)
            else:
                yield entry


def _load_manifest(folder: Path) -> list[dict]:
    path = folder / "manifest.json"
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    needed = {"category", "file", "sha256", "page_id", "asked_width"}
    if not (isinstance(entries, list) and all(isinstance(e, dict) and needed <= e.keys() for e in entries)):
        raise ValueError(f"{path} is not a manifest of fetch_wikimedia; choose another folder.")
    return entries


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
            params = {**_QUERY, "gcmtitle": title, "iiurlwidth": width, **more}
            with session.get(api, params=params, timeout=30) as response:
                if not response.ok:
                    raise requests.HTTPError(f"HTTP {response.status_code}")
                answer = response.json()
            if "error" in answer:
                raise ValueError(f"Wikimedia refused to list {title}: {answer['error'].get('info')}.")
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


def _download(session: requests.Session, page: dict, folder: Path, category: str, width: int, max_bytes: int) -> dict:
    """Fetch one picture into `folder/category/` and return its line of the manifest, or say why it is left out."""
    info = page["imageinfo"][0]
    address, title = info.get("thumburl") or info["url"], page["title"].removeprefix("File:")
    with session.get(address, timeout=30, stream=True, headers={"Accept-Encoding": "identity"}) as response:
        if response.status_code in (429, 503):  # the server is overloaded, so that the next file would fare no better
            raise requests.HTTPError(f"HTTP {response.status_code}")
        suffix = _SUFFIX.get(response.headers.get("Content-Type", "").split(";")[0].strip().lower())
        if not response.ok or suffix is None:
            raise ValueError(f"HTTP {response.status_code}, {response.headers.get('Content-Type')}")
        data = b""
        try:  # that too few bytes arrive is noticed by urllib3
            for chunk in response.iter_content(2**20):
                data += chunk
                if len(data) > max_bytes:
                    raise ValueError(f"larger than max_bytes = {max_bytes:,}")
        except requests.RequestException:
            raise ValueError(f"the download broke off after {len(data):,} bytes") from None
    height, shown_width = read_image(data).shape[:2]
    path = folder / category / f"{_slug(Path(title).stem)}-{int(page['pageid'])}{suffix}"
    with atomic(path) as temporary:
        temporary.write_bytes(data)
    return {
        "title": title, "author": _text(info, "Artist") or "unknown",
        "licence": _text(info, "LicenseShortName") or _text(info, "License"),
        "licence_url": _text(info, "LicenseUrl"),
        "page_url": info.get("descriptionurl", ""), "url": address,
        "category": category, "file": path.relative_to(folder).as_posix(), "sha256": sha256(path),
        "width": shown_width, "height": height, "asked_width": width,
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
