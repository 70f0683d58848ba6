"""The growth methods by name: ours and those of the literature.

A method is one class and one entry of its module's `METHODS`.
"""

from __future__ import annotations

from collections.abc import Mapping

from grow.errors import GrowError, Refused
from grow.planning.methods import bert2bert, copies, layers_only, padding, upcycling
from grow.planning.methods.method import Design, Method, Request
from grow.spelling import check_choice, option

__all__ = ["DEFAULT", "METHODS", "Design", "Method", "Request", "design", "exact_instead", "method_named"]

DEFAULT = "default"
METHODS: Mapping[str, Method] = {
    **padding.METHODS,
    **copies.METHODS,
    **layers_only.METHODS,
    **bert2bert.METHODS,
    **upcycling.METHODS,
}


def method_named(name: str) -> Method:
    check_choice("method", name, METHODS, "method")
    return METHODS[name]


def design(name: str, request: Request, *, allow_lossy: bool = False) -> Design:
    """What the method makes of the request; Refused where that is lossy and nobody allowed it."""
    method = method_named(name)
    try:
        made = method.design(request)
    except Refused as error:
        exact = "" if name == DEFAULT else exact_instead(request)
        if not exact:
            raise
        fix = " or ".join(filter(None, (error.fix, option(method=exact))))
        raise Refused(error.where, what=error.what, why=error.why, fix=fix, details=error.details) from None
    if made.lossy and not allow_lossy:
        exact = exact_instead(request)
        instead = f"{option(method=exact)}, which is exact here; or " if exact else ""
        paper = f"arXiv {method.arxiv}"
        raise method.refuse(
            f"is not exact here ({paper})",
            made.lossy,
            f"{instead}{option(allow_lossy=True)}: the loss is then measured",
        )
    return made


def exact_instead(request: Request) -> str:
    """The first method that grows this exactly; "" when none does."""
    for name, method in METHODS.items():
        try:
            if not method.design(request).lossy:
                return name
        except GrowError:
            continue
    return ""
