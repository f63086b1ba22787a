"""The pages: read-only, for this machine's own browser.

A request names runs, iterations and questions by number and pictures by known names; no text of it reaches the file
system. What models wrote is escaped by the templates, and the policy in `HEADERS` forbids the browser whatever did not
come from here as a file.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from experiments.browsing import comparison, selection
from experiments.browsing.shelf import Shelf, Shelved
from experiments.reporting import figures, html, outline, plots
from experiments.reporting.content import SectionId, duration
from experiments.reporting.data import Iteration, band, wall_seconds
from experiments.reporting.iterations import cut
from rzero.curriculum import DROP_REASONS

FOLDER = Path(__file__).parent / "templates"
HOSTS = ("127.0.0.1", "localhost")
"""Names under which a page may be asked for: a foreign name that points at this machine gets nothing."""

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
SEARCH_CHARS = 200
"""Longest text that may be searched for."""

SHOWN_CHARS = 280
"""Longest question in a list; its own page shows all of it."""

router = APIRouter()
templates = Jinja2Templates(env=html.environment(FOLDER))


def create_app(paths: Sequence[Path]) -> FastAPI:
    """The application for the run directories `paths`. Raises what `Shelf` raises."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.shelf = Shelf(paths)
    app.include_router(router)
    app.middleware("http")(_with_headers)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)
    app.add_exception_handler(StarletteHTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _refused)
    app.add_exception_handler(ValueError, _damaged)
    app.add_exception_handler(FileNotFoundError, _damaged)
    return app


# --------------------------------------------------------------------------------------------------------------- pages


@router.get("/")
def overview(request: Request) -> HTMLResponse:
    """All runs."""
    shelved = list(_shelf(request))
    if len(shelved) == 1:
        return run(request, 0)
    scored = any(one.run.scores for one in shelved)
    return _page(request, "overview.html.j2", runs=shelved, labels=_labels(shelved), scored=scored)


@router.get("/runs/{number}")
def run(request: Request, number: int) -> HTMLResponse:
    """A run: result, iterations, curves."""
    one = _run(request, number)
    seconds, complete = wall_seconds(one.run)
    took = duration(seconds) + ("" if complete else " in complete stages")
    return _page(request, "run.html.j2", one=one, took=took, drawings=_drawings(one))


@router.get("/runs/{number}/questions")
def questions(
    request: Request,
    number: int,
    iteration: int | None = None,
    outcome: str = selection.ALL,
    text: Annotated[str, Query(max_length=SEARCH_CHARS)] = "",
    order: selection.Order = "posed",
    page: int = 1,
) -> HTMLResponse:
    """The questions of an iteration, filtered; without `iteration` those of the last one that has some."""
    one = _run(request, number)
    posed = [one_of.number for one_of in one.run.trained if one_of.questions]
    last = posed[-1] if posed else len(one.run.iterations) - 1
    shown = _iteration(one, last if iteration is None else iteration)
    wanted = selection.Wanted(outcome=outcome, text=text, order=order, page=page)
    found = selection.select(shown.questions, wanted)

    def link(**changes: str | int) -> str:
        """This page with other filters, back on its first page unless `changes` say which."""
        filters: dict[str, str | int] = {"outcome": outcome, "text": text, "order": order, "page": 1}
        return f"/runs/{number}/questions?{urlencode({'iteration': shown.number} | filters | changes)}"

    return _page(
        request,
        "questions.html.j2",
        one=one,
        iteration=shown,
        posed=posed,
        found=found,
        wanted=wanted,
        outcomes=selection.outcomes(shown.questions),
        voted=plots.voted(shown),
        link=link,
        reasons=DROP_REASONS,
    )


@router.get("/runs/{number}/iterations/{iteration}/questions/{index}")
def question(request: Request, number: int, iteration: int, index: int) -> HTMLResponse:
    """One question with all answers and votes."""
    one = _run(request, number)
    posed_in = _iteration(one, iteration)
    posed = posed_in.questions
    there = {question.index: place for place, question in enumerate(posed)}
    if index not in there:
        raise HTTPException(404, f"{posed_in.name} has no question {index}")
    place = there[index]
    around = [posed[i].index if 0 <= i < len(posed) else None for i in (place - 1, place + 1)]
    shown = posed[place]
    return _page(
        request,
        "question.html.j2",
        one=one,
        iteration=posed_in,
        question=shown,
        clusters=sorted(shown.vote.counts, key=lambda cluster: -cluster[1]) if shown.vote else [],
        around=around,
        reasons=DROP_REASONS,
    )


@router.get("/compare")
def compare(request: Request, left: str = "", right: str = "") -> HTMLResponse:
    """Two iterations, of one run or of two, side by side; each is written `run.iteration`, by number."""
    shelved = list(_shelf(request))
    there = {f"{one.number}.{found.number}": (one, found) for one in shelved for found in one.run.iterations}
    chosen = left or _first_choice(shelved), right or list(there)[-1]
    if not there.keys() >= set(chosen):
        raise HTTPException(404, "there is no such iteration")
    labels = _labels(shelved)
    sides = [there[key] for key in chosen]
    (first, ours), (second, theirs) = sides
    return _page(
        request,
        "compare.html.j2",
        names={key: f"{labels[one.number]}, {found.name}" for key, (one, found) in there.items()},
        chosen=chosen,
        sides=sides,
        curves=first is not second and bool(first.run.scores or second.run.scores),
        protocols=comparison.PROTOCOLS,
        overall=comparison.overall(ours, theirs),
        scores=comparison.scores(ours, theirs),
        stages=comparison.measures(ours, theirs),
        voted=plots.voted,
    )


def _first_choice(shelved: Sequence[Shelved]) -> str:
    """Return a single run's first iteration after the base model; of several runs, the last of the first."""
    last = len(shelved[0].run.iterations) - 1
    return f"0.{last if len(shelved) > 1 else min(1, last)}"


@router.get("/browse.css")
def style() -> Response:
    return Response(_STYLE, media_type="text/css")


@router.get("/icon.svg")
def icon() -> Response:
    return Response(_ICON, media_type="image/svg+xml")


_STYLE, _ICON = ((FOLDER / name).read_text(encoding="utf-8") for name in ("browse.css", "icon.svg"))


# ------------------------------------------------------------------------------------------------------------ pictures


def _drawings(one: Shelved) -> dict[SectionId, list[plots.Drawing]]:
    """Return what can be drawn of a run, section by section."""
    return {section: [d for d in drawings if d.there(one.run)] for section, drawings in plots.OF_RUN.items()}


@router.get("/runs/{number}/pictures/{name}.png")
def picture(request: Request, number: int, name: str) -> Response:
    """A picture of a run, as its report has it."""
    one = _run(request, number)
    known = {drawing.name: drawing for drawings in _drawings(one).values() for drawing in drawings}
    if name not in known:
        raise HTTPException(404, "there is no such picture of this run (yet)")
    return _png(one.drawn(name, lambda: known[name].draw(one.run)))


@router.get("/runs/{number}/iterations/{iteration}/agreement.png")
def agreement(request: Request, number: int, iteration: int) -> Response:
    """How the votes on an iteration's questions were split."""
    one = _run(request, number)
    found = _iteration(one, iteration)
    if not plots.voted(found):
        raise HTTPException(404, f"there was no vote in {found.name}")
    shaded = band(one.run.config)
    return _png(one.drawn(f"agreement {iteration}", lambda: plots.histograms([found], shaded=shaded)))


@router.get("/comparison.png")
def overall_by_iteration(request: Request, runs: Annotated[list[int] | None, Query()] = None) -> Response:
    """`overall` of some runs by iteration, of all when none is named."""
    shown = [_run(request, number).run for number in runs] if runs else [one.run for one in _shelf(request)]
    if not any(run.scores for run in shown):
        raise HTTPException(404, "none of these runs has been evaluated")
    return _png(figures.png(lambda: plots.comparison(shown)))


def _png(content: bytes) -> Response:
    return Response(content, media_type="image/png")


# ----------------------------------------------------------------------------------------------------------- machinery


def _shelf(request: Request) -> Shelf:
    shelf: Shelf = request.app.state.shelf
    return shelf


def _run(request: Request, number: int) -> Shelved:
    shelf = _shelf(request)
    if not 0 <= number < len(shelf):
        raise HTTPException(404, f"there is no run {number}; there are {len(shelf)}")
    return shelf[number]


def _iteration(one: Shelved, number: int) -> Iteration:
    found = one.iteration(number)
    if found is None:
        raise HTTPException(404, f"there is no iteration {number} in this run (yet)")
    return found


def _labels(shelved: Sequence[Shelved]) -> list[str]:
    runs = [one.run for one in shelved]
    return [f"{label}, seed {run.seed}" for label, run in zip(outline.labels(runs), runs, strict=True)]


def _page(request: Request, name: str, *, status: int = 200, **context: object) -> HTMLResponse:
    shared = {"shelf": _shelf(request), "cut": cut, "shown_chars": SHOWN_CHARS, "search_chars": SEARCH_CHARS}
    return templates.TemplateResponse(request, name, {**shared, **context}, status_code=status)


async def _with_headers(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await answer(request)
    response.headers.update(HEADERS)
    return response


def _refused(request: Request, error: Exception) -> Response:
    """A page that says what was wrong with the address."""
    if isinstance(error, StarletteHTTPException):
        return _page(request, "error.html.j2", status=error.status_code, message=str(error.detail))
    return _page(request, "error.html.j2", status=400, message="the address holds a value that cannot be meant")


def _damaged(request: Request, error: Exception) -> Response:
    """A run that was moved or damaged while it was looked at."""
    return _page(request, "error.html.j2", status=500, message=str(error))
