"""Downloads over HTTP. A file is whole or absent, and an interrupted download is resumed."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import requests
from filelock import FileLock
from PIL import Image
from requests.adapters import HTTPAdapter
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn, track
from urllib3.util import Retry

from mllmrec.cache import atomic_path, sha256, to_disk
from mllmrec.data.images import MOST_PIXELS, broken_images, image_files
from mllmrec.errors import UserError

log = logging.getLogger(__name__)

TIMEOUT = (10, 60)  # seconds: to connect, and between two blocks
FORMATS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
UNREACHABLE_LIMIT = 50
LARGEST_IMAGE = 100 * 2**20  # bytes


class _Session(requests.Session):
    """A session that is not led from an encrypted connection to a plain one."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Where a response leads; None if it is an answer."""
        target = super().get_redirect_target(resp)
        if target and (resp.url or "").startswith("https:") and target.lower().startswith("http:"):
            raise requests.exceptions.InvalidSchema(f"{resp.url} leads to {target}, which is not encrypted")
        return target


def http_session(connections: int = 1) -> requests.Session:
    """A session that repeats a request after a lost connection or a busy server, with growing pauses."""
    retry = Retry(
        total=3, backoff_factor=0.3, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False
    )
    adapter = HTTPAdapter(max_retries=retry, pool_maxsize=connections)
    session = _Session()
    session.headers["User-Agent"] = "mllmrec"
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def download(url: str, target: Path, digest: str | None = None) -> Path:
    """Fetch ``url`` into ``target`` unless it is there. A broken transfer left in ``.part`` is continued.

    Args:
        url: the file's address.
        target: where it is put.
        digest: SHA-256 of the file in hexadecimal digits, if it is known. A file that is there already is not compared.

    Raises:
        UserError: the server cannot be reached, does not send the whole file, or sends another file. The message says what to do by hand.
    """
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(target.name + ".lock")):
        if target.is_file():
            return target
        part = target.with_name(target.name + ".part")
        try:
            with http_session() as session:
                _fetch(session, url, part)
        except (requests.RequestException, OSError) as error:
            raise UserError(
                f"cannot download {url} ({type(error).__name__}: {str(error)[:200]}): run again to continue, "
                f"or fetch the file by hand and put it at {target}"
            ) from error
        found = sha256(part) if digest is not None else None
        if found != digest:
            part.unlink()
            raise UserError(
                f"{url} sent another file than was published (SHA-256 {found}, not {digest}): run again, or if you trust this "
                f"one, fetch it by hand and put it at {target}"
            )
        to_disk(part)
        os.replace(part, target)
    return target


def _fetch(session: requests.Session, url: str, part: Path) -> None:
    begin = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        span = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+)", response.headers.get("Content-Range", ""))
        if response.status_code == 416 and span and int(span[2]) == begin:
            return
        if response.status_code == 416:
            part.unlink()
            raise requests.RequestException("the part on disk did not fit the server's file and was removed")
        response.raise_for_status()
        resumed = (
            response.status_code == 206 and span is not None and span[1] is not None and int(span[1]) == begin
        )
        if response.status_code == 206 and not resumed:
            raise requests.RequestException("the server sent a different part of the file than requested")
        begin = begin if resumed else 0
        length = response.headers.get("Content-Length")
        total = begin + int(length) if length else None
        columns = (
            "{task.description}",
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with (
            part.open("ab" if resumed else "wb") as stream,
            Progress(*columns, console=Console(stderr=True), transient=True) as progress,
        ):
            task = progress.add_task(part.stem, total=total, completed=begin)
            for block in response.iter_content(1 << 18):
                stream.write(block)
                progress.advance(task, len(block))
    size = part.stat().st_size
    if total is not None and size != total:
        raise requests.RequestException(f"{size} of {total} bytes arrived")


def download_images(urls: Mapping[str, str], folder: Path, workers: int = 8) -> dict[str, int]:
    """Fetch one image per item id into ``folder/<id>.<suffix>``. Images already there are not requested again.

    If the server refuses a URL for good (such as 404), or the URL holds no image, it is recorded in
    ``folder/failed.jsonl`` and not tried at the next start. Remove that file to try again. Lost connections are not
    recorded, so the next start tries them again.

    Returns:
        Counts of images left out, by reason.

    Raises:
        UserError: no server answers at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    failures = folder / "failed.jsonl"
    refused = _read_failures(failures)
    present = image_files(folder)
    broken = broken_images(present[item] for item in urls if item in present)
    for path in broken:
        path.unlink()
    if broken:
        names = ", ".join(path.name for path in broken[:5])
        log.warning("%d broken images in %s are fetched again, such as %s", len(broken), folder, names)
        present = image_files(folder)
    wanted = {item: url for item, url in urls.items() if item not in present and url not in refused}
    unsafe = [item for item in wanted if not re.fullmatch(r"\w[\w.-]*", item)]
    for item in unsafe:
        del wanted[item]
    lost = answered = 0
    if wanted:
        log.info("downloading %d item images into %s", len(wanted), folder)
        console = Console(stderr=True)
        with (
            http_session(workers) as session,
            ThreadPoolExecutor(workers) as pool,
            failures.open("a", encoding="utf-8") as record,
        ):
            try:
                jobs = {
                    pool.submit(_fetch_image, session, url, folder, item): url for item, url in wanted.items()
                }
                for job in track(
                    as_completed(jobs), "item images", len(jobs), console=console, transient=True
                ):
                    outcome = job.result()
                    answered += outcome != ""
                    if outcome == "":
                        lost += 1
                    elif outcome is not None:
                        refused.add(jobs[job])
                        record.write(json.dumps({"url": jobs[job], "reason": outcome}) + "\n")
                        record.flush()
                    if lost >= UNREACHABLE_LIMIT and not answered:
                        raise UserError(
                            f"none of the first {lost} item images could be fetched (such as {jobs[job]}): check the network, "
                            "or go on without images by dataset.download_images=false"
                        )
            except BaseException:
                # Leaving the pool waits for its jobs: cancel those that have not begun.
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    counts = {
        "images refused by the server or not an image": sum(
            url in refused and item not in present for item, url in urls.items()
        ),
        "images lost in transfer (tried again at the next start)": lost,
        "images of items whose id is no file name": len(unsafe),
    }
    return {reason: count for reason, count in counts.items() if count}


def _fetch_image(session: requests.Session, url: str, folder: Path, item: str) -> str | None:
    """None if the image is on disk, "" if it may come another time, else the reason why it never will."""
    try:
        with session.get(url, stream=True, timeout=TIMEOUT) as response:
            if response.status_code in (408, 429) or response.status_code >= 500:
                return ""
            if response.status_code != 200:
                return f"HTTP {response.status_code}"
            content = _content(response)
    except (
        requests.exceptions.InvalidURL,
        requests.exceptions.InvalidSchema,
        requests.exceptions.MissingSchema,
    ):
        return "not a URL"
    except requests.RequestException:
        return ""
    if content is None:
        return f"larger than {LARGEST_IMAGE} bytes"
    try:
        with Image.open(io.BytesIO(content)) as image:
            suffix = FORMATS.get(image.format or "")
            if image.width * image.height > MOST_PIXELS:
                return f"more than {MOST_PIXELS} pixels"
            image.load()
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        return f"no whole image ({type(error).__name__})"
    if suffix is None:
        return "neither JPEG, PNG nor WebP"
    with atomic_path(folder / (item + suffix), durable=False) as temporary:
        temporary.write_bytes(content)
    return None


def _content(response: requests.Response) -> bytes | None:
    """The unpacked body; None if it is larger than `LARGEST_IMAGE`."""
    content = bytearray()
    for block in response.iter_content(1 << 18):
        content += block
        if len(content) > LARGEST_IMAGE:
            return None
    return bytes(content)


def _read_failures(path: Path) -> set[str]:
    """URLs recorded as failed. A line cut short by an interruption only costs one more try."""
    refused = set()
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            refused.add(json.loads(line)["url"])
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    return refused
