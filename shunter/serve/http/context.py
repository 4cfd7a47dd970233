"""What every handler of an application can reach."""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp
from aiohttp import web

from shunter.serve.boundary import Scheduler
from shunter.serve.http.intake import Intake
from shunter.serve.http.settings import HttpSettings
from shunter.serve.http.texts import TextLog
from shunter.serve.http.views.hub import Hub
from shunter.serve.http.views.metrics import Metrics


@dataclass
class Context:
    """What every handler of an application can reach.

    Attributes:
        scheduler: What decides.
        settings: What the operator decided.
        metrics: What is counted.
        hub: Whom to ask for events.
        intake: What reads bodies.
        texts: What writes bodies and answers down; None: they are written nowhere.
        client: Asks the servers; there is one only while the application runs.
    """

    scheduler: Scheduler
    settings: HttpSettings
    metrics: Metrics
    hub: Hub
    intake: Intake
    texts: TextLog | None = None
    client: aiohttp.ClientSession | None = None


CONTEXT: web.AppKey[Context] = web.AppKey("context", Context)
