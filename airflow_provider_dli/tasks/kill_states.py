"""What becomes of each job that a kill cancels, and where the switch of a task stands and what moves it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Fate(Enum):
    """What becomes of one job that a kill cancels, in this order; a refused one starts again once."""

    FOLLOWED = "no cancel was sent"
    CANCELLING = "a cancel is under way"
    GONE = "it does not run on: DLI accepted the cancel, or it was over, or DLI does not know it"
    LEFT = "it could not be cancelled, and may still run"
    REFUSED = "the credentials were refused: only a connection that is read again helps"

    @property
    def is_settled(self) -> bool:
        """Whether no thread of the switch is at it any more."""
        return self not in (Fate.FOLLOWED, Fate.CANCELLING)


class State(Enum):
    """Where a switch stands: in the first four states the task is wanted, in the last two it is not."""

    IDLE = "a kill has nothing to cancel"
    SUBMITTING = "a submit is under way: a kill waits for its answer, and looks for its job meanwhile"
    LOOKING = "there may be jobs whose ids are not known: a kill looks for them first"
    FOLLOWING = "a kill cancels these jobs"
    CANCELLING = "the task was killed, or fails by itself: its jobs are looked for and cancelled"
    SETTLED = "nothing is left to be done, or nothing more can be done"


#: What moves a switch: for each state, what happens there (a method, unless the comment says otherwise), and the state
#: after that. What is not here changes nothing or, after a kill, ends the task.
TRANSITIONS: Mapping[State, Mapping[str, State]] = {
    State.IDLE: {
        "submit": State.SUBMITTING,
        "search": State.LOOKING,
        "follow": State.FOLLOWING,
        "pull": State.SETTLED,
        "abandon": State.SETTLED,
    },
    State.SUBMITTING: {
        "answer": State.FOLLOWING,  # of DLI to the submit
        "no answer": State.IDLE,
        "pull": State.CANCELLING,
        "abandon": State.CANCELLING,
    },
    State.LOOKING: {
        "follow": State.FOLLOWING,
        "submit": State.SUBMITTING,
        "release": State.IDLE,
        "pull": State.CANCELLING,
        "abandon": State.CANCELLING,
    },
    State.FOLLOWING: {
        "follow": State.FOLLOWING,
        "forget": State.IDLE,  # the last one
        "release": State.IDLE,
        "pull": State.CANCELLING,
        "abandon": State.CANCELLING,
    },
    State.CANCELLING: {
        "settle": State.SETTLED,  # of the last job: a fate that is settled
    },
    State.SETTLED: {
        # A job that turns up after the kill is cancelled all the same.
        "search": State.CANCELLING,
        "follow": State.CANCELLING,
    },
}
