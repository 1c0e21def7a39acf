"""Photographs that visitors have dropped: a bounded number, each found by a random id that only its visitor knows."""

import secrets
from collections import OrderedDict
from threading import Lock

import torch

from explorer.look import Look
from inspection.chain import Chain
from inspection.examples import eval_input
from runtime.device import release_freed_memory
from runtime.errors import InputError, first_line
from runtime.images import check_size
from training.trained_run import TrainedRun

MAX_BYTES = 25_000_000  # of an uploaded file
MAX_PIXELS = 64_000_000
KEPT = 12  # photographs, of about 20 MB each at 320 pixels, twice that where something is changed


class Forgotten(InputError):
    """The id of a photograph that is no longer kept."""


class Visitors:
    """The photographs that are being explored; the one not used for longest makes room for a new one."""

    def __init__(self, run: TrainedRun, kept: int = KEPT) -> None:
        self.run, self.chain, self.kept = run, Chain(run.model), kept
        blank = torch.zeros(1, 3, run.image_size, run.image_size, device=run.device)
        self.shapes = {column: tuple(output.shape[1:]) for column, output in self.chain.outputs(blank)[0].items()}
        self.looks: OrderedDict[str, Look] = OrderedDict()
        self.lock = Lock()

    def add(self, name: str, content: bytes, like: str | None = None) -> tuple[str, Look]:
        """Looks at an image file's content. Returns its id, too.

        Args:
            like: id of a photograph whose channels are to be shown, on its colour scales.

        Raises: InputError where it is too large, or no image.
        """
        try:
            check_size(content, MAX_PIXELS)
            input = eval_input(content, self.run.image_size)
        except OSError as error:
            raise InputError(f"{name}: cannot be read ({first_line(error)}); give another file") from error
        other = self.get(like) if like else None
        same = {"shown": dict(other.shown), "highs": dict(other.highs)} if other else {}
        look = Look(self.run, self.chain, name, input, **same)
        id = secrets.token_urlsafe(16)
        with self.lock:
            self.looks[id] = look
            while len(self.looks) > self.kept:
                self.looks.popitem(last=False)
                release_freed_memory()  # else what lies between the photographs kept would never be given back
        return id, look

    def get(self, id: str) -> Look:
        """Raises: Forgotten where no photograph with that id is kept."""
        with self.lock:
            if id not in self.looks:
                raise Forgotten("this photograph is no longer kept; drop it again")
            self.looks.move_to_end(id)
            return self.looks[id]
