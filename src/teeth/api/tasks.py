"""``/v1/tasks``: what machines were asked to do, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Response
from starlette.responses import StreamingResponse

from teeth.api.bells import TASK, Bells
from teeth.api.guard import StrictRoute
from teeth.api.problems import ApiError
from teeth.api.shapes import ID, Settlement, TaskFull, TaskHistory, TaskOrder, TaskPage
from teeth.api.stream import BATCH, DOC, EventStream, Message, going_on
from teeth.api.views import exact_node, find_image, find_node, find_task, task_brief, task_event, task_full
from teeth.endpoint.taskstate import Task, TaskState
from teeth.errors import TeethError
from teeth.service import Endpoint
from teeth_protocol import methods

Id = Annotated[str, Path(pattern=ID)]
Limit = Annotated[int, Query(ge=1, le=500)]
Place = Annotated[int, Query(ge=0, lt=1 << 53)]
_WATCH_DOC = """`task` (TaskFull) at first and at the end, `change` (TaskEvent) for each entry of its history
in between; the stream ends when the task is over. A reader that is too slow misses entries of plain progress,
never a change of state."""
_MADE: dict[int | str, dict[str, Any]] = {200: {"model": TaskFull, "description": "it was asked before"}}


class Tasks:
    """The handlers, over one endpoint."""

    def __init__(self, endpoint: Endpoint, bells: Bells) -> None:
        self._endpoint = endpoint
        self._bells = bells

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/v1/tasks", tags=["tasks"], route_class=StrictRoute)
        add = router.add_api_route
        add(
            "",
            self.create,
            methods=["POST"],
            status_code=201,
            summary="Ask a node for a task",
            responses=_MADE,
        )
        add("", self.listing, methods=["GET"], summary="Tasks, newest first")
        add("/{task_id}", self.one, methods=["GET"], summary="One task and its history")
        add("/{task_id}/cancel", self.cancel, methods=["POST"], summary="End it at its next safe point")
        add("/{task_id}/settle", self.settle, methods=["POST"], summary="Say how an unknown task ended")
        add("/{task_id}/release", self.release, methods=["POST"], summary="Let a held task go on")
        add(
            "/{task_id}/watch",
            self.watch,
            methods=["GET"],
            summary="A task as it moves, as events",
            description=_WATCH_DOC,
            responses=DOC,
            response_class=StreamingResponse,
            response_model=None,
        )
        return router

    async def create(self, order: TaskOrder, response: Response) -> TaskFull:
        node = await exact_node(self._endpoint, order.node)
        self._require_served(node.node_id, order.method)
        before = await self._known(order.task_id)
        try:
            task_id = await self._ask(order)
        except TeethError as error:
            if before is not None:
                msg = f"task {before.task_id} exists already and asks for something else"
                raise ApiError(409, "task_exists", msg, hint="choose another task_id, or none") from error
            raise
        if before is not None:
            response.status_code = 200
        return task_full(await find_task(self._endpoint, task_id))

    async def listing(
        self,
        node: Annotated[str | None, Query(max_length=128)] = None,
        method: Annotated[str | None, Query(max_length=64)] = None,
        state: Annotated[list[TaskState] | None, Query()] = None,
        after: Annotated[str | None, Query(pattern=ID)] = None,
        limit: Limit = 100,
    ) -> TaskPage:
        node_id = None if node is None else (await find_node(self._endpoint, node)).node_id
        ids = await self._endpoint.look(
            lambda pages: pages.task_ids(
                node_id=node_id, method=method, states=state or [], after=after, limit=limit + 1
            )
        )
        tasks = [task_brief(await self._endpoint.task(task_id)) for task_id in ids[:limit]]
        return TaskPage(tasks=tasks, next=ids[limit - 1] if len(ids) > limit else None)

    async def one(self, task_id: Id, after: Place = 0, limit: Limit = 500) -> TaskHistory:
        task = await find_task(self._endpoint, task_id)
        rows = await self._endpoint.look(lambda pages: pages.events(task_id, after=after, limit=limit + 1))
        return TaskHistory(
            task=task_full(task),
            events=[task_event(task_id, row) for row in rows[:limit]],
            next=rows[limit - 1].id if len(rows) > limit else None,
        )

    async def cancel(self, task_id: Id) -> TaskFull:
        """What the agent answers is no promise: watch the task to see how it ends."""
        task = await find_task(self._endpoint, task_id)
        if task.state.over:
            raise ApiError(409, "task_finished", f"task {task_id} is over ({task.state})")
        await self._endpoint.cancel_task(task_id)
        return task_full(await find_task(self._endpoint, task_id))

    async def settle(self, task_id: Id, settlement: Settlement) -> TaskFull:
        task = await find_task(self._endpoint, task_id)
        if task.state is not TaskState.UNKNOWN:
            raise ApiError(
                409, "task_not_unknown", f"task {task_id} is {task.state}, only an unknown one is settled"
            )
        await self._endpoint.settle_task(task_id, state=TaskState(settlement.state), msg=settlement.msg)
        return task_full(await find_task(self._endpoint, task_id))

    async def release(self, task_id: Id) -> TaskFull:
        task = await find_task(self._endpoint, task_id)
        if task.state.over:
            raise ApiError(409, "task_finished", f"task {task_id} is over ({task.state})")
        await self._endpoint.release(task_id)
        return task_full(await find_task(self._endpoint, task_id))

    async def watch(
        self,
        task_id: Id,
        after: Annotated[int | None, Query(ge=0, lt=1 << 53)] = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> EventStream:
        await find_task(self._endpoint, task_id)
        begun = False
        place = going_on(last_event_id, after)
        if place is None:
            # The newest entry is said again: it has the figures that the task itself does not keep.
            place = await self._endpoint.look(lambda pages: pages.last_event(task_id)) - 1

        async def look() -> tuple[Sequence[Message], bool]:
            nonlocal begun, place
            assert place is not None
            task = await find_task(self._endpoint, task_id)
            rows = await self._endpoint.look(
                lambda pages: pages.events(task_id, after=place or 0, limit=BATCH)
            )
            place = rows[-1].id if rows else place
            messages = [Message(event="change", data=task_event(task_id, row), id=row.id) for row in rows]
            last = task.state.over and len(rows) < BATCH
            whole = Message(event="task", data=task_full(task))
            if not begun:
                messages.insert(0, whole)
            elif last:
                messages.append(whole)
            begun = True
            return messages, last

        return EventStream(self._bells, (TASK, task_id), look)

    async def _known(self, task_id: str | None) -> Task | None:
        try:
            return None if task_id is None else await self._endpoint.task(task_id)
        except TeethError:
            return None

    async def _ask(self, order: TaskOrder) -> str:
        params = self._params(order)
        if order.method == methods.RUN_IMAGE:
            return await self._endpoint.run_image(
                order.node, params, report_files=order.report_files, task_id=order.task_id, hold=order.hold
            )
        if order.report_files:
            raise ApiError(400, "bad_request", f"report_files is for {methods.RUN_IMAGE} only")
        return await self._endpoint.run_task(
            order.node, order.method, params, task_id=order.task_id, hold=order.hold
        )

    def _params(self, order: TaskOrder) -> dict[str, Any]:
        if order.image is None:
            return order.params
        if order.method != methods.PREPARE_IMAGE:
            raise ApiError(400, "bad_request", f"image is for {methods.PREPARE_IMAGE} only")
        if "image" in order.params:
            raise ApiError(400, "bad_request", "the image is given twice: as image and as params.image")
        return {**order.params, "image": find_image(self._endpoint, order.image)}

    def _require_served(self, node_id: str, method: str) -> None:
        session = self._endpoint.session(node_id)
        served = None if session is None or session.hello is None else session.hello.methods
        if served is not None and method not in served:
            hint = f"it serves {', '.join(served)}"
            raise ApiError(400, "unknown_method", f"node {node_id} serves no {method}", hint=hint)
