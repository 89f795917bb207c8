"""The automation that notices runs whose host is gone: `pagemill prefect automations`.

A run that is killed with its worker, or whose host is lost, says nothing; in Prefect it would be
`Running` for ever, and hold its deployment's concurrency limit. Its heartbeats stop, though.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, cast

from loaders.errors import one_line
from pagemill.errors import OrchestratorError

if TYPE_CHECKING:
    from prefect.automations import Automation

NAME = "pagemill: runs whose heartbeat has stopped"
WITHIN_SECONDS = 300
"""Ten heartbeats (prefect.yaml asks for one in 30 s): a busy host is not taken for a dead one."""

_BEAT = "prefect.flow-run.heartbeat"
_ENDS = ("Completed", "Failed", "Cancelled", "Crashed")


def set_up(within: int = WITHIN_SECONDS) -> str:
    """Create the automation, or update the one that is there; says which.

    Raises
    ------
    OrchestratorError
        No API is configured, or it does not answer.
    """
    from prefect.automations import Automation
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        raise OrchestratorError("set PREFECT_API_URL: automations belong to a lasting server")
    wanted = _automation(within)
    try:
        there = _find()
        if there is None:
            wanted.create()
            return "created"
        there.trigger, there.actions = wanted.trigger, wanted.actions
        there.description, there.enabled = wanted.description, True
        Automation.update(there)
        return "updated"
    except Exception as error:
        raise OrchestratorError(
            f"the Prefect API did not take the automation ({one_line(error)}): is it reachable?"
        ) from error


def _find() -> Automation | None:
    from prefect.automations import Automation

    try:
        return cast("Automation", Automation.read(name=NAME))
    except ValueError:  # there is none
        return None


def _automation(within: int) -> Automation:
    from prefect.automations import Automation
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    return Automation(
        name=NAME,
        description=f"No heartbeat for {within} s: Crashed. The next run does what is missing.",
        enabled=True,
        trigger=EventTrigger(
            after={_BEAT},
            expect={_BEAT, *(f"prefect.flow-run.{end}" for end in _ENDS)},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.pagemill"}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=within),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                name="Crashed",
                message=f"No heartbeat for {within} s: its process or host is gone. What is "
                "committed stays; the next run does the rest.",
            )
        ],
    )
