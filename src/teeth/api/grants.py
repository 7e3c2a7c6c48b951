"""``/v1/grants`` and ``/v1/images``: who may boot, and what may be written."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from teeth.api.guard import StrictRoute
from teeth.api.problems import ApiError, quoted
from teeth.api.shapes import GrantFacts, GrantMade, GrantOrder, GrantPage, ImageFacts, ImageList, StoredFacts
from teeth.api.views import find_image
from teeth.boot.grants import GrantRecord
from teeth.service import Endpoint

Id = Annotated[str, Path(pattern=r"^[0-9a-f]{8,64}$")]


class Grants:
    """The handlers, over one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/v1", tags=["boot"], route_class=StrictRoute)
        add = router.add_api_route
        add(
            "/grants",
            self.create,
            methods=["POST"],
            status_code=201,
            summary="Let a machine boot once",
        )
        add("/grants", self.listing, methods=["GET"], summary="Grants of the last month, newest first")
        add("/grants/{grant_id}", self.withdraw, methods=["DELETE"], summary="Close an open grant")
        add("/images", self.images, methods=["GET"], summary="Images that may be prepared")
        add("/images/{name}", self.image, methods=["GET"], summary="One of them")
        return router

    async def create(
        self,
        order: GrantOrder,
        reveal: Annotated[
            bool, Query(description="answer the token too: for a boot without the boot door")
        ] = False,
    ) -> GrantMade:
        """The token is for the machine, which gets it at the boot door. It is not shown again."""
        if order.mac is None and order.uuid is None and not order.any_machine:
            raise ApiError(422, "bad_request", "body: a grant needs mac, uuid or any_machine")
        grant = await self._endpoint.grant(order.mac, uuid=order.uuid, ttl=order.ttl)
        facts = next(_facts(one) for one in await self._endpoint.grants() if one.id == grant.id)
        return GrantMade(
            **facts.model_dump(),
            token=grant.token if reveal else None,
            kernel_command_line=self._endpoint.kernel_command_line(grant) if reveal else None,
        )

    async def listing(
        self,
        after: Annotated[str | None, Query(pattern=r"^[0-9a-f]{8,64}$")] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
    ) -> GrantPage:
        known = await self._endpoint.grants()
        places = [index for index, one in enumerate(known) if one.id == after]
        rest = known[places[0] + 1 :] if places else known
        shown = [_facts(one) for one in rest[:limit]]
        return GrantPage(grants=shown, next=shown[-1].id if len(rest) > limit else None)

    async def withdraw(self, grant_id: Id) -> GrantFacts:
        """What was used stays used: 409."""
        found = [one for one in await self._endpoint.grants() if one.id == grant_id]
        if not found:
            raise ApiError(
                404, "grant_unknown", f"there is no grant {quoted(grant_id)}", hint="teeth grant list"
            )
        if found[0].state == "burnt":
            raise ApiError(
                409, "grant_burnt", f"grant {grant_id} was used already", hint="it cannot be taken back"
            )
        return _facts(await self._endpoint.withdraw_grant(grant_id))

    async def images(self) -> ImageList:
        return ImageList(images=[self._image(identity) for identity in self._endpoint.images()])

    async def image(self, name: Annotated[str, Path(max_length=128)]) -> ImageFacts:
        """By its id, its name, or the beginning of its digest."""
        return self._image(name)

    def _image(self, name: str) -> ImageFacts:
        params = find_image(self._endpoint, name)
        stored = self._endpoint.stored_image(params["id"])
        about = None if stored is None else StoredFacts.model_validate(stored)
        return ImageFacts(id=params["id"], params=params, about=about)


def _facts(grant: GrantRecord) -> GrantFacts:
    return GrantFacts.model_validate(grant)
