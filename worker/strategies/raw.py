"""The raw strategy: calls as the configuration spells them out, or as a Python function makes them at fire time."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from worker.policies.base import Execution
from worker.policies.fields import parse_address
from worker.strategies.encode import Template, call_of, read_call
from worker.strategies.errors import StrategyError
from worker.strategies.fields import Fields, as_text
from worker.strategies.port import Act, Decision, Moment, Wait

_FUNCTION = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_NAMES = frozenset({"account", "slot", "number", "deadline"})


@dataclass(frozen=True)
class Raw:
    """Calls from configuration; ``$account $slot $number $deadline`` are filled in, and the event's arguments."""

    calls: tuple[tuple[str, int, Template | bytes], ...]

    def decide(self, moment: Moment) -> Decision:
        """See ``Strategy``."""
        values = {
            **moment.event,
            "account": moment.account,
            "slot": moment.slot_s,
            "number": moment.number,
            "deadline": moment.until_s,
        }
        return Act(tuple(call_of(call, values) for call in self.calls), self.describe())

    def describe(self) -> str:
        """See ``Strategy``."""
        return "; ".join(
            f"{body.function if isinstance(body, Template) else 'data'} of {to}" for to, _, body in self.calls
        )


@dataclass(frozen=True)
class Python:
    """A function that is given the ``Moment`` and returns calls; none: do nothing at this slot.

    Attributes:
        path: ``package.module:function``, importable in every worker.
        function: the function.
    """

    path: str
    function: Callable[[Moment], Sequence[Execution]]

    def decide(self, moment: Moment) -> Decision:
        """See ``Strategy``. Raises StrategyError: it returned something else than calls."""
        calls = tuple(self.function(moment))
        for index, call in enumerate(calls):
            at = f"{self.path}[{index}]"
            if not (
                isinstance(cast("Any", call), Execution)
                and type(call.value) is int
                and 0 <= call.value < 2**256
                and isinstance(cast("Any", call.data), bytes)
            ):
                raise StrategyError("is no Execution(to, value, data)", field=at, fix="return a list of them")
            try:
                normal = parse_address(call.to)
            except ValueError:
                normal = ""
            if normal != call.to:
                raise StrategyError("has no lower-case address as to", field=at, fix="write 0x and 40 digits")
        return Act(calls, f"{self.path} at {moment.slot_s}") if calls else Wait(f"{self.path} wants nothing")

    def describe(self) -> str:
        """See ``Strategy``."""
        return f"calls of {self.path}"


def raw(fields: Fields) -> Raw | Python:
    """``kind = "raw"``: ``calls = [{ to, value, function, args }, …]``, or ``python = "package.module:function"``."""
    if fields.has("python"):
        path = fields.read("python", as_text)
        return Python(path, _import(path, fields.place("python")))
    return Raw(tuple(read_call(item, _NAMES | fields.event_names) for item in fields.tables("calls")))


def _import(path: str, at: str) -> Callable[[Moment], Sequence[Execution]]:
    if not _FUNCTION.fullmatch(path):
        raise StrategyError(f"{path[:80]!r} is no function", field=at, fix='write "package.module:function"')
    module, _, name = path.partition(":")
    try:
        found: Any = getattr(import_module(module), name, None)
    except Exception as error:  # noqa: BLE001 - whatever a module does when it is loaded
        raise StrategyError(
            f"{module} cannot be imported ({type(error).__name__})",
            field=at,
            fix="install it for every worker",
        ) from None
    if not callable(found):
        raise StrategyError(f"{module} has no function {name}", field=at, fix="check its name")
    return cast("Callable[[Moment], Sequence[Execution]]", found)
