"""The page to try students on, as a WSGI application. Nothing is kept on disk.

    GET  /                               the page
    GET  /static/page.css, /static/page.js, /scales/<colour map>.png
    POST /predict                        a photograph's bytes -> JSON, see `_described`
    GET  /trials/<token>/photograph.jpg, /trials/<token>/<student>/<task>.png (to look
         at), /trials/<token>/<student>/<task>/raw.png (to take away)

What is wrong with a request is JSON {"error": a sentence} and a status of 4xx.
"""

import collections
import dataclasses
import functools
import secrets
import threading
import time
from typing import Annotated, Any, Dict, Mapping, Optional, Tuple

import numpy as np

from soka_tf.data.image_files import SUFFIXES, TooManyPixels, rgb_of_bytes
from soka_tf.errors import one_line
from soka_tf.evaluation import image_grid, map_pictures
from soka_tf.kinds import check_fields, whole
from soka_tf.serving.page_guard import Refused, answer_errors, guard
from soka_tf.serving.server import require_packages
from soka_tf.serving.trial import Trial, tasks_of, try_students
from soka_tf.tasks import Task

MOST_UPLOAD_MB = (1, 1000)
MOST_MEGAPIXELS = (1, 89)  # above, Pillow itself refuses
_MEBIBYTE = 2**20
_SCALE_PX = 256
_KEPT_TRIALS = 8  # the last ones, for their downloads
_PHOTOGRAPH = "application/octet-stream"


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a photograph may be.

    Attributes:
      upload_mb: of its file, in MiB.
      megapixels: millions of its pixels.
    """

    upload_mb: Annotated[int, whole(*MOST_UPLOAD_MB)] = 30
    megapixels: Annotated[int, whole(*MOST_MEGAPIXELS)] = 50

    def __post_init__(self):
        check_fields(self)

    @property
    def upload_bytes(self) -> int:
        """The same in bytes."""
        return self.upload_mb * _MEBIBYTE


class _Trials:
    """The last trials by token.

    Attributes:
      lock: held by whoever computes, one at a time, so that memory is bounded.
    """

    def __init__(self):
        self.lock = threading.Lock()
        self._kept: collections.OrderedDict[str, Trial] = collections.OrderedDict()

    def keep(self, trial: Trial) -> str:
        """Keeps a trial until enough others have come; returns its token."""
        token = secrets.token_urlsafe(16)
        self._kept[token] = trial
        while len(self._kept) > _KEPT_TRIALS:
            self._kept.popitem(last=False)
        return token

    def __getitem__(self, token: str) -> Trial:
        try:
            return self._kept[token]
        except KeyError as error:
            raise Refused(
                404, "This result is not kept any more: give the photograph again."
            ) from error


def make_app(
    students: Mapping[str, Any],
    limits: Optional[Limits] = None,
    host: str = "127.0.0.1",
) -> Any:
    """Makes the application.

    Args:
      students: name -> callable as `serving.exported.Exported`, with `tasks` and
        `image_size`.
      limits: on photographs; None for the defaults.
      host: that the server listens on.

    Returns:
      A Flask application, which any WSGI server runs, in several threads if it likes.

    Raises:
      UserError: if Flask is missing.
    """
    require_packages()
    limits = limits or Limits()
    trials = _Trials()
    app = _guarded_app(limits, host)
    _add_page(app, students, limits)
    _add_predict(app, students, limits, trials)
    _add_results(app, students, trials)
    return app


def _guarded_app(limits: Limits, host: str) -> Any:
    """An application that answers nothing yet, and that in words."""
    import flask

    # `static` and `templates` beside this module.
    app = flask.Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = limits.upload_bytes
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    guard(app, host)
    answer_errors(app, _too_large(limits))
    return app


def _add_page(app: Any, students: Mapping[str, Any], limits: Limits) -> None:
    """The page, and the colour bars that it shows."""
    import flask

    colormaps = {task.colormap for task in tasks_of(students).values()}

    @app.get("/")
    def page():
        return flask.render_template(
            "page.html",
            students=students,
            limits=limits,
            kinds=_kinds(),
            accept=",".join(SUFFIXES),
        )

    @app.get("/scales/<name>.png")
    def scale(name: str):
        if name not in colormaps:
            raise Refused(404, "There is no such colour map here.")
        return _png(_ramp(name))


def _add_predict(
    app: Any, students: Mapping[str, Any], limits: Limits, trials: _Trials
) -> None:
    """What takes a photograph, and describes what the students make of it."""
    import flask

    @app.post("/predict")
    def predict():
        content = _photograph_of(flask.request)
        with trials.lock:
            start = time.perf_counter()
            image = _decoded(content, limits)
            trial = try_students(students, image)
            token = trials.keep(trial)
        return _described(token, trial, students, time.perf_counter() - start)


def _add_results(app: Any, students: Mapping[str, Any], trials: _Trials) -> None:
    """The pictures and maps of trials."""
    import flask

    @app.get("/trials/<token>/photograph.jpg")
    def photograph(token: str):
        return flask.Response(trials[token].photograph, mimetype="image/jpeg")

    @app.get("/trials/<token>/<int:student>/<task>.png")
    def picture(token: str, student: int, task: str):
        name, row = _which(students, student, task)
        return _png(trials[token].answers[name].pictures[row.name])

    @app.get("/trials/<token>/<int:student>/<task>/raw.png")
    def raw_map(token: str, student: int, task: str):
        name, row = _which(students, student, task)
        trial = trials[token]
        with trials.lock:
            content = trial.raw_map(name, row)
        response = _png(content)
        # The name is the page's to choose: it alone knows the photograph's.
        response.headers["Content-Disposition"] = "attachment"
        return response


def _which(students: Mapping[str, Any], student: int, task: str) -> Tuple[str, Task]:
    """The name of a student, and its task."""
    names = list(students)
    if student < len(names):
        for row in students[names[student]].tasks:
            if row.name == task:
                return names[student], row
    raise Refused(404, "There is no such map.")


def _png(content: bytes) -> Any:
    import flask

    return flask.Response(content, mimetype="image/png")


def _photograph_of(request: Any) -> bytes:
    # Forms of other pages cannot send this type without being asked for permission.
    if request.mimetype != _PHOTOGRAPH:
        raise Refused(415, f"A photograph must come as {_PHOTOGRAPH}.")
    # Of what is longer than allowed nothing is read.
    return request.get_data()


def _too_large(limits: Limits) -> str:
    return (
        f"This file is too large: at most {limits.upload_mb} MiB are allowed "
        "(--most_upload_mb)."
    )


def _decoded(content: bytes, limits: Limits) -> np.ndarray:
    try:
        return rgb_of_bytes(content, limits.megapixels * 10**6)
    except TooManyPixels as error:
        sentence = f"This image has too many pixels: {error} (--most_megapixels)."
        raise Refused(413, sentence) from error
    except ValueError as error:
        sentence = f"This cannot be used: {one_line(error, 150)}."
        raise Refused(422, f"{sentence} Give a {_kinds()} file.") from error


def _kinds() -> str:
    """The kinds of images that are read, in words."""
    return "PNG, JPEG, BMP, WebP, TIFF, GIF or PPM"


@functools.cache
def _ramp(colormap: str) -> bytes:
    return image_grid.encoded(image_grid.colour_ramp(colormap, _SCALE_PX))


def _described(
    token: str, trial: Trial, students: Mapping[str, Any], seconds: float
) -> Dict[str, Any]:
    """What the page draws of a trial.

    Returns:
      "width" and "height" of the photograph, its address, "seconds" that all took, and
      of each of "students" its "name", "seconds", "pixels" (of its maps' sides) and
      "maps": "task", "title", "picture" and "raw" (addresses) and "scale", see
      `_scale`.
    """
    at = f"trials/{token}"
    return {
        "width": trial.width,
        "height": trial.height,
        "photograph": f"{at}/photograph.jpg",
        "seconds": seconds,
        "students": [
            {
                "name": name,
                "seconds": trial.answers[name].seconds,
                "pixels": student.image_size,
                "maps": [
                    {
                        "task": task.name,
                        "title": task.title,
                        "unit": task.unit,
                        "picture": f"{at}/{number}/{task.name}.png",
                        "raw": f"{at}/{number}/{task.name}/raw.png",
                        "bits": task.encoding.bits,
                        "scale": _scale(task, trial.ranges[task.name]),
                    }
                    for task in student.tasks
                ],
            }
            for number, (name, student) in enumerate(students.items())
        ],
    }


def _scale(task: Task, ends: Tuple[float, float]) -> Dict[str, Any]:
    """How colours are read: a bar with its ends, names of colours, or a sentence."""
    scale = map_pictures.map_scale(task, *ends)
    if scale.names:
        return {"names": [[name, list(colour)] for name, colour in scale.names]}
    if scale.colormap is None:
        return {"label": scale.label}
    low, high = scale.ends
    return {
        "bar": f"scales/{scale.colormap}.png",
        "low": low,
        "high": high,
        "label": scale.label,
    }
