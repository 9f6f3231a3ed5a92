"""Every error that wherry raises on purpose; each message is one line: what was wrong, where, what to do.

WherryError
├── TokenizerError            (wherry_tokenization) no or damaged tokenizer, text that cannot be encoded
│   └── ChatTemplateError     (wherry_tokenization) no chat template, or one that fails or never ends
├── HubError                  a model that cannot be found or fetched
├── BundleError               a folder that is not a model, or lacks what was asked for
│   └── DamagedBundleError    a file that is not what its manifest says
├── DeviceError               a device that is not there, or no (or two) onnxruntime wheels
├── SessionError              onnxruntime refused to load or run a graph
├── TaskError                 an unknown task, or one that does not fit the model
├── InputError                input that a pipeline cannot take
└── ExportError               (wherry_exporter) a model that cannot be converted as asked
    └── ParityError           (wherry_exporter) a variant that differs too much from the original
"""

from wherry_tokenization.errors import ChatTemplateError, TokenizerError, WherryError

__all__ = [
    "BundleError",
    "ChatTemplateError",
    "DamagedBundleError",
    "DeviceError",
    "HubError",
    "InputError",
    "SessionError",
    "TaskError",
    "TokenizerError",
    "WherryError",
]


class HubError(WherryError):
    """A model that cannot be found or fetched."""


class BundleError(WherryError):
    """A folder that is not a model, or lacks what was asked for."""


class DamagedBundleError(BundleError):
    """A file of a bundle that is missing, cut short or altered."""


class DeviceError(WherryError):
    """A device that is not there, or no usable onnxruntime."""


class SessionError(WherryError):
    """onnxruntime refused to load or to run a graph."""


class TaskError(WherryError):
    """An unknown task, or one that does not fit the model."""

    exit_code = 2


class InputError(WherryError):
    """Input that a pipeline cannot take."""

    exit_code = 2
