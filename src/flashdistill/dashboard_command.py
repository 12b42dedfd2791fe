"""``flashdistill dashboard RUN``: the study in optuna-dashboard, on this machine only and for reading only.

A run owns its study: the dashboard may be open while it goes on, and must not delete or alter a
trial. Everything that would write is therefore refused; the page itself works as always.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from flashdistill.config import load_config
from flashdistill.core.errors import InputError
from flashdistill.core.run_directory import RunDirectory
from flashdistill.core.trust import without_password
from flashdistill.exploration.storage import as_user_errors, check_before_opening, open_storage, sqlite_url

HOST = "127.0.0.1"

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""A WSGI application."""


def serve(run: RunDirectory, port: int, announce: Callable[[str], None]) -> None:
    """Serve the run's study until interrupted.

    Args:
        port: on 127.0.0.1; 0 takes any free one.
        announce: is told the address as soon as it answers.

    Raises:
        InputError: optuna-dashboard is not installed, there is no study yet, or the port cannot be used.
    """
    try:
        from optuna_dashboard import wsgi
    except ModuleNotFoundError:
        raise InputError("optuna-dashboard is not installed; pip install 'flashdistill[dashboard]'") from None
    config = load_config(run.config)
    url = config.search.storage or _own_storage(run)
    check_before_opening(url, expected_trials=0)
    with as_user_errors(url):
        storage = open_storage(url)
        try:
            study = storage.get_study_id_from_name(config.name)
        except KeyError:
            message = f"{without_password(url)} has no study {config.name!r} yet; start the search of {run.path} first"
            raise InputError(message) from None
    with _listen(read_only(wsgi(storage)), port) as server:
        announce(f"http://{HOST}:{server.server_port}/dashboard/studies/{study} (read-only; Ctrl-C stops it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
        finally:
            storage.remove_session()


def read_only(application: Application) -> Application:
    """The application without the requests that change something; they are answered 403 and a reason."""

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return application(environ, start_response)
        body = json.dumps({"reason": "this dashboard is read-only: the study belongs to its run"}).encode()
        start_response("403 Forbidden", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    return guarded


def _own_storage(run: RunDirectory) -> str:
    if not run.study.is_file():
        raise InputError(f"{run.path} has no {run.study.name} yet; start its search first")
    return sqlite_url(run.study)


class _Server(ThreadingMixIn, WSGIServer):
    """Answers several requests at once; those under way do not delay the end."""

    daemon_threads = True


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not worth a line each."""


def _listen(application: Application, port: int) -> WSGIServer:
    try:
        return make_server(HOST, port, application, server_class=_Server, handler_class=_SilentHandler)
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise InputError(f"port {port} {why}; choose another with --port") from None
