"""One message carries an intent through all the stages that its worker may do, instead of one message for each.

A message costs more than a stage computes: it goes through Redis, the worker, a pipe and back. So the message that would
be sent for the next stage is not sent when this very process serves that stage's queue; the stage is done right after.
Nothing rests on it: if the process dies in between, the record has its due time, and a sweep sends the message after all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from worker.execution.runtime import Dispatch

PATIENCE_S = 2.0
"""How long after its message came an intent may begin its next stage here. Each stage has the time limit of a task, and
a slow one must not leave too little of it to the next."""


class Relay:
    """The stages of one process.

    Args:
        stages: what does each stage of an intent.
        serves: whether this worker takes the messages of a stage.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        stages: Mapping[str, Callable[[str], None]],
        *,
        serves: Callable[[str, bool], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stages = stages
        self._serves = serves
        self._clock = clock
        # a process may work on several messages in threads
        self._local = threading.local()

    def dispatch(self, send: Dispatch, *, urgent: bool) -> Dispatch:
        """``send``, but for what can be done here at once.

        Args:
            send: sends a stage's message.
            urgent: whether it is to the queues of urgent intents.
        """

        def relay(stage: str, intent_id: str) -> None:
            if (
                getattr(self._local, "intent_id", "") == intent_id
                and not self._local.then
                and self._clock() < self._local.until
                and self._serves(stage, urgent)
            ):
                self._local.then, self._local.send = stage, send
            else:
                send(stage, intent_id)

        return relay

    def run(self, stage: str, intent_id: str) -> None:
        """Do a stage of an intent, and those that follow from it and can be done here.

        Raises:
            Whatever a stage raises; the message of the stage that would have followed is sent before.
        """
        local = self._local
        local.intent_id, local.until = intent_id, self._clock() + PATIENCE_S
        try:
            while stage:
                local.then = ""
                self._stages[stage](intent_id)
                stage = local.then
        except BaseException:
            if local.then:
                with suppress(Exception):  # what the stage raised says more
                    local.send(local.then, intent_id)
            raise
        finally:
            local.intent_id = ""
