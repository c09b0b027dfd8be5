"""The installation on this machine as a source of the commands: calls services, no gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.api.schemas.forget import ForgetAnswer, ForgetPage
from app.api.schemas.jobs import JobAnswer, JobDetailAnswer, JobPage
from app.api.schemas.releases import ReleasePage, ReplicaAnswer
from app.services.certificates import certificate_of
from app.services.forget import cancel_forget, hold_forget, release_forget, request_forget
from app.services.jobs import cancel
from app.services.pagination import list_jobs, list_releases
from app.services.signing_keys import keys_document
from app.services.suppression import record_consent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.cli.installation import Installation
    from app.domain.renewal import ExactMode
    from app.services.forget import ForgetCommand
    from app.services.request_filters import RequestQuery

_CHANGES: Final = {"cancel": cancel_forget, "hold": hold_forget, "release": release_forget}

Document = dict[str, Any]


class LocalSource:
    """See `Source`."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.exact: ExactMode | None = installation.settings.exact

    def forget(self, command: ForgetCommand) -> tuple[Document, bool]:
        settings = self.installation.settings
        with self.installation.uow() as uow:
            request, created = request_forget(uow, self.installation.pseudonyms, settings, command)
        return self.request(request.id), created

    def consent(self, user_id: str, item_ids: Sequence[str]) -> int:
        with self.installation.uow() as uow:
            return record_consent(uow, self.installation.pseudonyms, user_id, item_ids)

    def requests(self, query: RequestQuery, limit: int, cursor: str | None) -> Document:
        matching = query.filter(self.installation.pseudonyms, self.installation.settings)
        with self.installation.uow(write=False) as uow:
            answer = ForgetPage.read(uow, self.exact, matching, limit, cursor)
        return answer.model_dump(mode="json")

    def request(self, request_id: str) -> Document:
        with self.installation.uow(write=False) as uow:
            (answer,) = ForgetAnswer.read(uow, [uow.requests.get(request_id)], self.exact)
        return answer.model_dump(mode="json")

    def change_request(self, change: str, request_id: str) -> Document:
        with self.installation.uow() as uow:
            _CHANGES[change](uow, request_id)
        return self.request(request_id)

    def certificate(self, request_id: str, number: int | None) -> Document:
        with self.installation.uow(write=False) as uow:
            return certificate_of(uow, request_id, number)

    def jobs(self) -> Document:
        with self.installation.uow(write=False) as uow:
            page = list_jobs(uow)
        items = [JobAnswer.of(job) for job in page.items]
        return JobPage(items=items, next_cursor=page.next_cursor).model_dump(mode="json")

    def job(self, job_id: str) -> Document:
        with self.installation.uow(write=False) as uow:
            answer = JobDetailAnswer.read(uow, job_id, self.exact)
        return answer.model_dump(mode="json")

    def progress_of(self, job_id: str) -> Document:
        with self.installation.uow(write=False) as uow:
            return JobAnswer.of(uow.jobs.get(job_id)).model_dump(mode="json")

    def cancel_job(self, job_id: str) -> Document:
        with self.installation.uow() as uow:
            return JobAnswer.of(cancel(uow, job_id)).model_dump(mode="json")

    def waiting(self) -> int:
        with self.installation.uow(write=False) as uow:
            return uow.requests.count_waiting()

    def releases(self) -> Document:
        with self.installation.uow(write=False) as uow:
            page = list_releases(uow)
            now = uow.state.now()
            replicas = [ReplicaAnswer.of(replica, now) for replica in uow.replicas.all()]
            answer = ReleasePage.of(page.items, page.next_cursor, uow.releases.alias(), replicas)
        return answer.model_dump(mode="json")

    def keys(self) -> Document:
        with self.installation.uow(write=False) as uow:
            return keys_document(uow.signing_keys.all())
