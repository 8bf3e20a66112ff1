"""Corpora by name: the built-in tales, and three downloads that are cached, resumed and checked.

    tales        written by this project, no network needed
    tinystories  the first N MB of TinyStoriesV2-GPT4-train.txt, up to the last whole story (CDLA-Sharing-1.0)
    sherlock     The Adventures of Sherlock Holmes, Project Gutenberg 1661, licence text stripped
    shakespeare  tiny shakespeare

What is checked: `shakespeare` against the sha256 written here. For `tinystories` and `sherlock` no hash is
known before the first download, so that one is trusted; its sha256, size and ETag are recorded beside the
file. From then on a changed cache file is fetched again, a second `tinystories` download of the same N must
have the same hash, and a `sherlock` that was re-issued is accepted with a notice that names both hashes.
"""

from __future__ import annotations

import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from tinygpt.errors import IO_ERROR, USAGE, UserError, did_you_mean
from tinygpt.folders import cache_folder
from tinygpt.storage import canonical, read_json, sha256, write_atomic

MEGABYTE = 1_000_000
TINYSTORIES_MB = 10.0
TALES_MB = 4.0
ATTEMPTS = 5  # in a row without a new byte
BACKOFF_S = 0.5  # doubled after each failed attempt
MAX_WAIT_S = 30.0  # that a server may ask for with Retry-After
TIMEOUT_S = 20.0  # without a byte
BLOCK_BYTES = 65_536
TOKEN_ORIGINS = ("https://huggingface.co",)
TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
MARK = b"<|endoftext|>"

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class _Download:
    urls: tuple[str, ...]
    clean: Callable[[bytes], bytes]  # raises ValueError when the bytes are not what they should be
    sha256: str = ""  # of the file as downloaded; '' when it is not known
    may_change: bool = False  # re-issued now and then


class _Failed(Exception):
    """This address does not give the file; the text says why."""


class _Restart(Exception):
    """The file on the server is another one than the part that lies here."""


def _cut_stories(data: bytes) -> bytes:
    end = data.rfind(MARK)
    if end < 0:
        raise ValueError(f"there is no {MARK.decode()} line in it")
    return data[: end + len(MARK)] + b"\n"


def _strip_licence(data: bytes) -> bytes:
    text = data.decode("utf-8-sig").replace("\r\n", "\n")
    inside = re.search(
        r"^\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG EBOOK[^*]*\*\*\*[^\n]*\n(.*?)^\*\*\* ?END OF ",
        text,
        re.DOTALL | re.MULTILINE,
    )
    if inside is None:
        raise ValueError("the START and END lines of Project Gutenberg are not in it")
    book = re.sub(r"\A\s*Produced by .*?\n\n", "", inside.group(1), flags=re.DOTALL)
    return (book.strip("\n") + "\n").encode()


_DOWNLOADS = {
    "tinystories": _Download(
        (
            "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/"
            "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64/TinyStoriesV2-GPT4-train.txt",
        ),
        _cut_stories,
    ),
    "sherlock": _Download(
        ("https://www.gutenberg.org/cache/epub/1661/pg1661.txt", "https://www.gutenberg.org/files/1661/1661-0.txt"),
        _strip_licence,
        may_change=True,
    ),
    "shakespeare": _Download(
        ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",),
        bytes,
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
}
NAMES = ("tales", *_DOWNLOADS)


def fetch(
    name: str,
    *,
    megabytes: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    base_urls: Mapping[str, tuple[str, ...]] | None = None,
    notify: Callable[[str], None] | None = None,
) -> Path:
    """The cached file with the corpus `name`, downloaded or written first where needed.

    megabytes (10**6 bytes): how much of tinystories (10) or tales (4); seed: of tales. progress(done, total)
    counts bytes. base_urls: other addresses per name. notify receives sentences for the user. Raises
    UserError: 2 for an unknown name, 74 when it cannot be fetched or stored.
    """
    _check(name, megabytes)
    if name == "tales":
        path = cache_folder() / "corpora" / f"tales-{megabytes or TALES_MB:g}MB-seed{seed}.txt"
        return _stored(path, _tales(megabytes, seed))
    size = int((megabytes or TINYSTORIES_MB) * MEGABYTE) if name == "tinystories" else None
    file_name = f"{name}-{size}.txt" if size else f"{name}.txt"
    path = cache_folder() / "corpora" / file_name
    download = _DOWNLOADS[name]
    urls = (base_urls or {}).get(name, download.urls)
    try:
        if _is_good(path, download):  # before the lock, so that a cache that can only be read will do
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(file_name + ".lock")):
            if not _is_good(path, download):  # another process may have fetched it meanwhile
                _fill(path, name, download, urls, size, progress, notify)
    except OSError as error:
        raise _no_cache(path, error) from None
    return path


def write_named(name: str, out: Path, **options: Any) -> Path:
    """Write the corpus `name` to `out` as one atomic step; `options` are those of `fetch`."""
    if name == "tales":  # needs no cache, so that it works where nothing else can be written
        _check(name, options.get("megabytes"))
        return _stored(out, _tales(options.get("megabytes"), options.get("seed", 0)))
    return _stored(out, fetch(name, **options).read_bytes())


def _check(name: str, megabytes: float | None) -> None:
    if name not in NAMES:
        known = did_you_mean(name, NAMES)
        raise UserError(f"there is no corpus named '{name}'{known}; the names are {', '.join(NAMES)}.", USAGE)
    if megabytes is None:
        return
    if name not in ("tales", "tinystories"):
        raise UserError(f"{name} has one fixed size; leave megabytes out.", USAGE)
    if not 0.001 <= megabytes <= 10_000:
        usual = TALES_MB if name == "tales" else TINYSTORIES_MB
        raise UserError(f"megabytes is {megabytes}, it must lie between 0.001 and 10000; {usual:g} is usual.", USAGE)


def _tales(megabytes: float | None, seed: int) -> bytes:
    from tinygpt.corpus import tales

    return tales.text(int((megabytes or TALES_MB) * MEGABYTE), seed)


def _stored(path: Path, data: bytes) -> Path:
    try:
        write_atomic(path, data)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; choose another place.", IO_ERROR) from None
    return path


def _no_cache(path: Path, error: OSError) -> UserError:
    message = f"{path} cannot be used: {error.strerror or error}; set TINYGPT_CACHE to a folder that can be written."
    return UserError(message, IO_ERROR)


def _note_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _read_note(path: Path) -> dict[str, Any]:
    """What was recorded about a file; nothing when there is no record or a damaged one."""
    try:
        note = read_json(_note_path(path))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _is_good(path: Path, download: _Download) -> bool:
    """Whether the cached file is the one recorded; a file that the user put there has no record and counts."""
    if not path.is_file():
        return False
    digest = sha256(path.read_bytes())
    if download.sha256:
        return digest == download.sha256
    return bool(digest == _read_note(path).get("sha256", digest))


def _fill(
    path: Path,
    name: str,
    download: _Download,
    urls: tuple[str, ...],
    size: int | None,
    progress: Progress | None,
    notify: Callable[[str], None] | None,
) -> None:
    """Download, check, clean and store; the first address that works wins."""
    failures = []
    part = path.with_name(path.name + ".part")
    for url in urls:
        try:
            if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
                raise _Failed("HF_HUB_OFFLINE is set")
            raw = _get(url, part, size, progress)
            etag = _read_note(part).get("etag")
            _discard(part)  # complete; wrong bytes must not be built upon
            data = _checked(raw, url, path, download, notify)
        except _Failed as failure:
            failures.append(f"{urlsplit(url).hostname}: {failure}")
            continue
        write_atomic(path, data)
        note = {"url": url, "etag": etag, "bytes": len(data), "sha256": sha256(data)}
        write_atomic(_note_path(path), canonical(note))
        return
    raise UserError(
        f"{name} could not be downloaded ({'; '.join(failures)}): use the built-in text with 'tinygpt corpus tales', "
        f"pass a text file of your own, or put the file at {path} by hand.",
        IO_ERROR,
    )


def _checked(raw: bytes, url: str, path: Path, download: _Download, notify: Callable[[str], None] | None) -> bytes:
    """The corpus in `raw`, held against the known hash and against that of an earlier download from `url`."""
    if download.sha256 and sha256(raw) != download.sha256:
        raise _Failed(f"its sha256 is {sha256(raw)}, but must be {download.sha256}")
    try:
        data = download.clean(raw)
    except ValueError as error:
        raise _Failed(f"it is not the text: {error}") from None
    note = _read_note(path)
    before, digest = note.get("sha256"), sha256(data)
    if before is not None and note.get("url") == url and before != digest:
        if not download.may_change:
            record = _note_path(path)
            raise _Failed(
                f"its sha256 is {digest}, but an earlier download had {before}; if that is right, remove {record}"
            )
        if notify is not None:
            notify(f"the text at {url} was re-issued: its sha256 is {digest}, and it was {before}.")
    return data


def _get(url: str, part: Path, size: int | None, progress: Progress | None) -> bytes:
    """The bytes at `url` (at most the first `size`), through the file `part`, which outlives a lost connection."""
    failed, restarts = 0, 0
    while True:
        have = _length(part)
        wait = BACKOFF_S * 2**failed
        try:
            _continue(url, part, size, progress)
            return part.read_bytes()
        except _Restart:
            _discard(part)
            restarts += 1
            if restarts == ATTEMPTS:
                raise _Failed("the file changes on the server all the time") from None
            continue
        except urllib.error.HTTPError as error:
            with error:
                reason = f"HTTP {error.code}"
                if error.code not in TRY_AGAIN:
                    raise _Failed(reason) from None
                asked = error.headers.get("Retry-After", "")
                wait = min(MAX_WAIT_S, float(asked)) if asked.isdigit() else wait
        except urllib.error.URLError as error:
            reason = str(error.reason)
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
        failed = 0 if _length(part) > have else failed + 1
        if failed == ATTEMPTS:
            raise _Failed(reason)
        time.sleep(wait)


def _continue(url: str, part: Path, size: int | None, progress: Progress | None) -> None:
    """One request for the bytes that `part` lacks; raises _Restart when those would not fit to it."""
    note = _read_note(part)
    if note.get("url") != url:
        _discard(part)
        note = {}
    have = _length(part)
    if size is not None and have >= size:
        return
    try:
        response = _opener().open(_request(url, have, size, note.get("etag")), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416 or have == 0:
            raise
        with error:
            if error.headers.get("Content-Range") == f"bytes */{have}" and note.get("total") == have:
                return  # the part is the whole file
        raise _Restart from None
    with response:
        etag = response.headers.get("ETag")
        if response.status == 206:
            start, total = _content_range(response.headers.get("Content-Range", ""))
            if start != have or (have and (total, etag) != (note.get("total"), note.get("etag"))):
                raise _Restart
        else:  # the server sends the file from its start
            have, total = 0, _number(response.headers.get("Content-Length"))
        write_atomic(_note_path(part), canonical({"url": url, "etag": etag, "total": total}))
        goal = min((n for n in (size, total) if n is not None), default=None)
        with part.open("ab" if have else "wb") as file:
            _copy(response, file, have, goal, progress)


def _copy(response: Any, file: Any, have: int, goal: int | None, progress: Progress | None) -> None:
    """Read up to `goal` bytes (None: to the end) in all; ConnectionError when they end early."""
    while goal is None or have < goal:
        try:
            block = response.read(BLOCK_BYTES if goal is None else min(BLOCK_BYTES, goal - have))
        except OSError as error:  # told apart from a full disk
            raise ConnectionError(str(error)) from None
        if not block:
            break
        file.write(block)
        have += len(block)
        if progress is not None:
            progress(have, goal)
    if goal is not None and have < goal:
        raise ConnectionError(f"the connection was cut after {have:,} of {goal:,} bytes")


def _request(url: str, have: int, size: int | None, etag: str | None) -> urllib.request.Request:
    request = urllib.request.Request(url, headers={"User-Agent": "tinygpt", "Accept-Encoding": "identity"})
    if have or size is not None:
        request.add_header("Range", f"bytes={have}-{'' if size is None else size - 1}")
    if have and etag and not etag.startswith("W/"):  # a weak tag does not promise equal bytes
        request.add_header("If-Range", etag)
    token = os.environ.get("HF_TOKEN", "").strip()
    address = urlsplit(url)
    if token and f"{address.scheme}://{address.netloc}" in TOKEN_ORIGINS:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return request


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to something less."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl).scheme not in ("https", req.type):
            raise _Failed(f"it redirects to {urlsplit(newurl).scheme}, which is not safe")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Redirects)


def _content_range(header: str) -> tuple[int, int | None]:
    """(first byte, size of the whole file) of a Content-Range header; (-1, None) when it is none."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", header)
    return (int(match[1]), _number(match[2])) if match else (-1, None)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note_path(part).unlink(missing_ok=True)
