"""The errors that only an export can raise. The whole tree is drawn in `wherry.errors`."""

from wherry.errors import WherryError


class ExportError(WherryError):
    """A model that cannot be converted as asked."""


class ParityError(ExportError):
    """A converted graph that differs more from the original than its limit allows."""


class UsageError(ExportError):
    """Arguments that cannot be meant."""

    exit_code = 2
