"""``/v1/certificates`` and their key: what was certified of which drive."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from teeth.api.guard import StrictRoute
from teeth.api.problems import ApiError
from teeth.api.shapes import (
    ID,
    CertificateFacts,
    CertificateKey,
    CertificatePage,
    SealedCertificate,
)
from teeth.api.views import find_node
from teeth.endpoint.certify import Issued
from teeth.service import Endpoint

Number = Annotated[int, Path(ge=1, lt=1 << 53)]


class Certificates:
    """The handlers, over one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/v1", tags=["certificates"], route_class=StrictRoute)
        add = router.add_api_route
        add(
            "/certificates",
            self.listing,
            methods=["GET"],
            summary="Certificates, in the order of their chain",
        )
        add("/certificate-key", self.key, methods=["GET"], summary="The public key that verifies them")
        add("/certificates/{sequence}", self.one, methods=["GET"], summary="One certificate, as it is signed")
        return router

    async def listing(
        self,
        task: Annotated[str | None, Query(pattern=ID)] = None,
        node: Annotated[str | None, Query(max_length=128)] = None,
        serial: Annotated[str | None, Query(max_length=256)] = None,
        after: Annotated[int, Query(ge=0, lt=1 << 53)] = 0,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
    ) -> CertificatePage:
        node_id = None if node is None else (await find_node(self._endpoint, node)).node_id
        found = await self._endpoint.certificates(
            task_id=task, node_id=node_id, serial=serial, after=after, limit=limit + 1
        )
        shown = [_facts(one) for one in found[:limit]]
        return CertificatePage(certificates=shown, next=shown[-1].sequence if len(found) > limit else None)

    async def key(self) -> CertificateKey:
        return CertificateKey(pem=self._endpoint.certificate_key)

    async def one(self, sequence: Number) -> SealedCertificate:
        found = await self._endpoint.certificate(sequence)
        if found is None:
            raise ApiError(
                404,
                "certificate_unknown",
                f"there is no certificate {sequence}",
                hint="teeth certificate list",
            )
        return SealedCertificate(**_facts(found).model_dump(), sealed=found.sealed)


def _facts(issued: Issued) -> CertificateFacts:
    return CertificateFacts(
        sequence=issued.sequence, task_id=issued.task_id, node=issued.node_id, serial=issued.serial,
        outcome=issued.outcome, grade=issued.grade, issued=issued.issued, digest=issued.digest,
    )  # fmt: skip
