"""Makes requests from items and reads the replies, for injectors with a vision
model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from data_gen.gates import Refused
from data_gen.injectors.prompts import ROOM, Proposal
from data_gen.items import Item
from data_gen.job import Job
from povid_jax.data.picture import Picture
from povid_jax.errors import UserError
from povid_jax.llm import Failure, Price, Reply, Request, image_part


@dataclass(frozen=True)
class Task:
  """The task of the model.

  Attributes:
    label: name and version of the prompts.
    request: (item, parts of pictures, attempt, room) -> request.
    read: (item, reply) -> the proposal in the reply.
    schema: of a reply.
  """

  label: str
  request: Callable[[Item, Sequence[tuple], int, int], Request]
  read: Callable[[Item, Reply], Proposal]
  schema: dict


@dataclass(frozen=True)
class Asker:
  """Makes requests and settles what comes back.

  Attributes:
    task: what is asked for.
    size: longest side in pixels at which they are sent.
    price: gives their number of tokens.
    room: tokens of a reply beyond those of the answers.
  """

  task: Task
  size: int
  price: Price
  room: int = ROOM

  def request(self, item: Item, attempt: int) -> Request:
    """The request for an item.

    Raises:
      UserError: a picture is missing, broken or outside the folder.
    """
    parts = [self._part(picture) for picture in item.sample.images]
    request = self.task.request(item, parts, attempt, self.room)
    tokens = sum(self.price.image_tokens(w, h) for _, w, h in parts)
    return replace(request, image_tokens=tokens)

  def again(self, request: Request, attempt: int) -> Request:
    """The next try of an item; its pictures are not read a second time."""
    content = request.messages[-1]["content"]
    parts = [(part, 0, 0) for part in content if "image_url" in part]
    new = self.task.request(request.context, parts, attempt, self.room)
    return replace(new, image_tokens=request.image_tokens)

  def _part(self, picture: Picture) -> tuple:
    data = picture.read()
    try:
      return image_part(data, self.size)
    except UserError as error:
      raise UserError(f"image {picture.name!r}: {error}") from error

  def make(self, job: Job, item: Item) -> Request | None:
    """The request for an item of a job; None for one whose picture cannot be
    read, which is given up with the reason."""
    try:
      return self.request(item, job.journal.tries[item.key])
    except UserError as error:
      job.lose(item, "bad_image", str(error))
      return None

  def settle(self, job: Job, item: Item, outcome: Reply | Failure) -> bool:
    """Judges an outcome and records it with what it cost; a request that the
    server refuses is a try like any other: some refuse one reply in ten.

    Returns:
      Whether the item is finished.
    """
    if isinstance(outcome, Failure):
      refused = Refused(outcome.kind, outcome.detail)
      return job.settle(item, [], [], refused)
    found = self.task.read(item, outcome)
    return job.settle(
      item,
      found.rejected,
      found.edits,
      found.refused,
      chosen=found.chosen,
      usage=outcome.usage,
      cost=outcome.cost,
    )
