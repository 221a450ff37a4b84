"""GET /v1/models, GET /v1/plans/{id}, POST /v1/feedback."""

from typing import Any

from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, SkipValidation

from registry.catalog import AUTO, Catalog
from registry.errors import UnknownModelError

from ..exchange import read_body
from ..plans import plan_view
from ..services import Services
from ..wire.chat import decode_feedback

Gateway = NamedDependency[SkipValidation[Services]]


@get("/v1/models", sync_to_thread=False)
def list_models(request: Request[Any, Any, Any], services: Gateway) -> dict[str, Any]:
    """Every name that a call may ask for."""
    services.auth.identify(request.scope["headers"])
    catalog = services.catalog
    return {"object": "list", "data": [_model(catalog, name) for name in catalog.names()]}


@get("/v1/models/{name:path}", sync_to_thread=False)
def show_model(request: Request[Any, Any, Any], services: Gateway, name: FromPath[str]) -> dict[str, Any]:
    """One of them."""
    services.auth.identify(request.scope["headers"])
    name = name.removeprefix("/")
    if name not in set(services.catalog.names()):
        raise UnknownModelError(f"The model `{name}` does not exist.", param="model")
    return _model(services.catalog, name)


@get("/v1/plans/{any_id:str}")
async def show_plan(request: Request[Any, Any, Any], services: Gateway, any_id: FromPath[str]) -> dict[str, Any]:
    """Why a call went where it went."""
    caller = services.auth.identify(request.scope["headers"])
    return plan_view(await services.book.find(any_id, caller))


@post("/v1/feedback", status_code=200)
async def take_feedback(request: Request[Any, Any, Any], services: Gateway) -> Response[dict[str, Any]]:
    """What somebody learned about a call later."""
    caller = services.auth.identify(request.scope["headers"])
    services.limits.rate_feedback(caller.tenant)
    feedback = decode_feedback(await read_body(request.scope, request.receive, services.intake))
    call = await services.book.find(feedback.id, caller)
    record = services.recorder.feedback(feedback, call, services.content_mode(call.tenant))
    services.telemetry.judged(call, feedback, teaches=caller.tenant.teaches)
    return Response({"id": record.id, "object": "journeyman.feedback", "call_id": record.call_id})


def _model(catalog: Catalog, name: str) -> dict[str, Any]:
    target = catalog.file.defaults.aliases.get(name, name)
    shown: dict[str, Any] = {"id": name, "object": "model", "created": 0, "owned_by": "journeyman"}
    if target in catalog.specialists:
        specialist = catalog.specialists[target]
        return shown | {"root": specialist.base, "parent": specialist.base, "stage": specialist.stage}
    if target != AUTO:
        model = catalog.models[target]
        shown |= {"owned_by": model.backend, "context_length": model.context_len, "license": model.license}
    return shown
