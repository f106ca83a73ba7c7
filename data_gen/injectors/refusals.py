"""Items that the server refused for good: whose fault is it?"""

from data_gen.items import Item
from data_gen.job import Job
from povid_jax.errors import UserError
from povid_jax.llm import Failure

# So many refused and none answered: the fault is in what all have in common.
_SYSTEMATIC = 20


class Refusals:
  """Holds refused items back until the server has answered any other.

  Before that the fault may lie in what all requests have in common (a
  parameter, the size of the pictures), and to give the items up would be wrong.
  """

  def __init__(self, job: Job):
    self._job = job
    self._answered = bool(job.journal.accepted)
    self._held: list[tuple[Item, Failure]] = []

  def add(self, item: Item, failure: Failure) -> None:
    """Gives the item up, now or later."""
    self._held.append((item, failure))
    if self._answered:
      self._give_up()

  @property
  def systematic(self) -> bool:
    """Whether enough were refused, and none answered, to stop."""
    return len(self._held) >= _SYSTEMATIC

  def answered(self) -> None:
    """The server takes others, and will never take these."""
    self._answered = True
    self._give_up()

  def _give_up(self) -> None:
    for item, failure in self._held:
      self._job.lose(item, failure.kind, failure.detail)
    self._held.clear()

  def end(self) -> None:
    """UserError if the server has refused everything."""
    if self._held:
      failure = self._held[-1][1]
      raise UserError(
        f"the server refused every request ({failure.kind} "
        f"{failure.detail[:200]}); mend that, and the same command asks again"
      )
