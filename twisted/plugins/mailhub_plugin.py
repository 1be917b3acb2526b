"""`twistd mailhub`: ServiceMaker objects only.  There is no __init__.py beside this file, or above it, ever."""

from twisted.application.service import ServiceMaker

mailhub = ServiceMaker(  # type: ignore[no-untyped-call]
    "mailhub",
    "mailhub.app.service",
    "The mail system of a small organization: submission, relay, delivery, queue.",
    "mailhub",
)
