"""Netflix, in the layout released with MLLMRec-R1."""

from __future__ import annotations

from pathlib import Path

from mllmrec.data.base import Dataset, RawData
from mllmrec.data.released import load_released
from mllmrec.errors import UserError


class Netflix(Dataset):
    """Films and series with posters: ``train.tsv``, ``test.tsv``, ``<name>_titles.csv``, ``images/``.

    Args:
        root: the folder with these files. Their authors' licence does not let them be offered for download.
        images: the folder of ``<item>.jpg``; None: ``root/images`` if it exists.
    """

    asks_for = ("root",)

    name = "netflix"
    domain = "film or series"

    def __init__(self, root: str | None, images: str | None = None) -> None:
        self.root = root
        self.images = images

    def load(self) -> RawData:
        """Read the released layout; see `mllmrec.data.released.load_released`."""
        return load_released(self._folder(), self.name, self.images)

    def _folder(self) -> Path:
        if self.root is None:
            raise UserError(
                "dataset.root is not set: give the folder with train.tsv, test.tsv and netflix_titles.csv"
            )
        return Path(self.root).expanduser()
