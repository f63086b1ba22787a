"""The pages: read-only, for this machine's own browser.

A request names runs, rounds and questions by number; no text of it reaches the file system. What models wrote is
escaped by the templates, and the policy in `HEADERS` forbids the browser whatever did not come from here as a file.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from experiments.browsing import charts, comparison, selection
from experiments.browsing.shelf import Shelf, Shelved
from experiments.reporting import html, outline
from experiments.reporting.content import duration
from experiments.reporting.data import Round, wall_seconds
from experiments.reporting.rounds import cut
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
    runs = [one.run for one in shelved]
    labels = _labels(shelved)
    chart = charts.overall(list(zip(labels, runs, strict=True)))
    return _page(request, "overview.html.j2", runs=shelved, labels=labels, chart=chart)


@router.get("/runs/{number}")
def run(request: Request, number: int) -> HTMLResponse:
    """A run: result, rounds, curves."""
    one = _run(request, number)
    seconds, complete = wall_seconds(one.run)
    return _page(
        request,
        "run.html.j2",
        one=one,
        took=duration(seconds) + ("" if complete else " in complete stages"),
        results=_result_charts(one),
        training=_training_charts(one),
    )


@router.get("/runs/{number}/questions")
def questions(
    request: Request,
    number: int,
    round: int | None = None,
    outcome: str = selection.ALL,
    text: Annotated[str, Query(max_length=SEARCH_CHARS)] = "",
    order: selection.Order = "posed",
    page: int = 1,
) -> HTMLResponse:
    """The questions of a round, filtered; without `round` those of the last round that has some."""
    one = _run(request, number)
    posed = [turn.iteration for turn in one.run.trained if turn.questions]
    turn = _round(one, round if round is not None else posed[-1] if posed else len(one.run.rounds) - 1)
    wanted = selection.Wanted(outcome=outcome, text=text, order=order, page=page)
    found = selection.select(turn.questions, wanted)

    def link(**changes: Any) -> str:
        """This page with other filters, back on its first page unless `changes` say which."""
        kept = {"round": turn.iteration, "outcome": outcome, "text": text, "order": order, "page": 1} | changes
        return f"/runs/{number}/questions?{urlencode(kept)}"

    return _page(
        request,
        "questions.html.j2",
        one=one,
        turn=turn,
        posed=posed,
        found=found,
        wanted=wanted,
        outcomes=selection.outcomes(turn.questions),
        chart=charts.agreement(turn.questions, title=f"Agreement in {turn.name}", run=one.run),
        link=link,
        reasons=DROP_REASONS,
    )


@router.get("/runs/{number}/rounds/{round}/questions/{index}")
def question(request: Request, number: int, round: int, index: int) -> HTMLResponse:
    """One question with all answers and votes."""
    one = _run(request, number)
    turn = _round(one, round)
    there = {question.index: place for place, question in enumerate(turn.questions)}
    if index not in there:
        raise HTTPException(404, f"{turn.name} has no question {index}")
    place = there[index]
    around = [turn.questions[i].index if 0 <= i < len(turn.questions) else None for i in (place - 1, place + 1)]
    shown = turn.questions[place]
    return _page(
        request,
        "question.html.j2",
        one=one,
        turn=turn,
        question=shown,
        clusters=sorted(shown.vote.counts, key=lambda cluster: -cluster[1]) if shown.vote else [],
        around=around,
        reasons=DROP_REASONS,
    )


@router.get("/compare")
def compare(request: Request, left: str = "", right: str = "") -> HTMLResponse:
    """Two rounds, of one run or of two, side by side; each is written `run.round`, both by number."""
    shelved = list(_shelf(request))
    there = {f"{one.number}.{turn.iteration}": (one, turn) for one in shelved for turn in one.run.rounds}
    chosen = left or _first_choice(shelved), right or list(there)[-1]
    if not there.keys() >= set(chosen):
        raise HTTPException(404, "there is no such round")
    labels = _labels(shelved)
    sides = [there[key] for key in chosen]
    (first, ours), (second, theirs) = sides
    curves = charts.overall([(labels[one.number], one.run) for one in dict.fromkeys((first, second))])
    return _page(
        request,
        "compare.html.j2",
        names={key: f"{labels[one.number]}, {turn.name}" for key, (one, turn) in there.items()},
        chosen=chosen,
        sides=sides,
        curves=curves,
        protocols=comparison.PROTOCOLS,
        overall=comparison.overall(ours, theirs),
        scores=comparison.scores(ours, theirs),
        stages=comparison.measures(ours, theirs),
        histograms=[charts.agreement(turn.questions, title="Agreement", run=one.run) for one, turn in sides],
    )


def _first_choice(shelved: Sequence[Shelved]) -> str:
    """Of a single run its first round after the base model, of several the last round of the first."""
    last = len(shelved[0].run.rounds) - 1
    return f"0.{last if len(shelved) > 1 else min(1, last)}"


@router.get("/browse.css")
def style() -> Response:
    return Response(_STYLE, media_type="text/css")


@router.get("/icon.svg")
def icon() -> Response:
    return Response(_ICON, media_type="image/svg+xml")


_STYLE, _ICON = ((FOLDER / name).read_text(encoding="utf-8") for name in ("browse.css", "icon.svg"))


# -------------------------------------------------------------------------------------------------------------- charts


def _result_charts(one: Shelved) -> list[charts.Chart]:
    averages = [(column, f"evaluation/Overall AVG/{column}") for column in ("greedy", "mean@k", "maj@k", "pass@k")]
    scores = [turn.scores for turn in one.run.evaluated if turn.scores]
    names = dict.fromkeys(benchmark.name for score in scores for benchmark in score.benchmarks)
    labels = [
        ("posed, right label", "audit/label_accuracy"),
        ("kept, right label", "audit/label_accuracy_kept"),
        ("well-posed", "audit/well_posed"),
    ]
    drawn = [
        charts.by_round(
            one.run, title="Overall AVG by round (%)", metrics=[("overall", "evaluation/overall"), *averages]
        ),
        charts.by_round(
            one.run,
            title="Benchmarks by round, mean@k (%)",
            metrics=[(name, f"evaluation/{name}/mean@k") for name in names],
        ),
        charts.by_round(one.run, title="Labels by round (%)", metrics=labels, factor=100.0),
        charts.by_round(
            one.run,
            title="Difficulty by round (solution steps)",
            metrics=[("posed", "audit/level"), ("kept", "audit/level_kept")],
        ),
    ]
    return [chart for chart in drawn if chart]


def _training_charts(one: Shelved) -> list[charts.Chart]:
    measures = {"reward": "reward", "KL (nats per token)": "kl", "response length (tokens)": "completions/mean_length"}
    drawn = [
        charts.by_step(one.run, role=role, metric=metric, title=f"{role.title()}: {title}")
        for title, metric in measures.items()
        for role in ("challenger", "solver")
    ]
    return [chart for chart in drawn if chart]


# ----------------------------------------------------------------------------------------------------------- machinery


def _shelf(request: Request) -> Shelf:
    shelf: Shelf = request.app.state.shelf
    return shelf


def _run(request: Request, number: int) -> Shelved:
    shelf = _shelf(request)
    if not 0 <= number < len(shelf):
        raise HTTPException(404, f"there is no run {number}; there are {len(shelf)}")
    return shelf[number]


def _round(one: Shelved, iteration: int) -> Round:
    turn = one.round(iteration)
    if turn is None:
        raise HTTPException(404, f"there is no round {iteration} in this run (yet)")
    return turn


def _labels(shelved: Sequence[Shelved]) -> list[str]:
    runs = [one.run for one in shelved]
    return [f"{label}, seed {run.seed}" for label, run in zip(outline.labels(runs), runs, strict=True)]


def _page(request: Request, name: str, *, status: int = 200, **context: Any) -> HTMLResponse:
    shared = {"shelf": _shelf(request), "cut": cut, "shown_chars": SHOWN_CHARS, "search_chars": SEARCH_CHARS}
    return templates.TemplateResponse(request, name, {**shared, "canvas": charts, **context}, status_code=status)


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
