"""Where models are: a local folder, or a repository that huggingface_hub fetches. Knows nothing of graphs."""

import os
from pathlib import Path

from wherry.errors import HubError

DESCRIPTIONS = ["*.json", "*.txt", "*.jinja", "*.model", "*/config.json", "README.md"]
"""What tells of a model in a repository, its graphs and weights aside."""
GRAPHS = ["onnx/*", "*.onnx", "*.onnx_data*", "*.onnx.data"]
"""Its graphs, in every precision; never its framework weights."""


def cache_folder() -> Path:
    """Where wherry keeps what it fetched or converted: `$WHERRY_CACHE`, or `wherry` in the user's cache."""
    if chosen := os.environ.get("WHERRY_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wherry"


def resolve(model: str | Path, *, revision: str | None = None, patterns: list[str] | None = None) -> Path:
    """The local path of `model`: itself when it exists, else a snapshot of the hub repository of that id.

    Args:
        model: a folder or file, a repository id such as `sentence-transformers/all-MiniLM-L6-v2`, or a GGUF file of a
            repository, `owner/repository/file.gguf`.
        revision: branch, tag or commit of the repository.
        patterns: which files of the repository to fetch; by default what running it needs.

    Raises:
        HubError: no such folder, no such repository, or the hub cannot be reached.
    """
    name = str(model)
    try:
        path = Path(model).expanduser()
        if name and path.exists():
            return path
    except (OSError, RuntimeError) as error:  # a name that is too long, or the home of nobody
        raise HubError(f"no such file or folder: {name:.80}") from error
    owner, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    known = not file or name.endswith(".gguf")
    if isinstance(model, Path) or name.startswith((".", "/", "~")) or not known or not name:
        raise HubError(f"no such file or folder: {name or repr(name)}")
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = f"{owner}/{repository}" if repository else owner
    try:
        if file:
            return Path(hf_hub_download(name, file, revision=revision))
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns or [*DESCRIPTIONS, *GRAPHS]))
    except HFValidationError as error:
        raise HubError(f"'{name}' is neither a file or folder here nor a hub repository id") from error
    except GatedRepoError as error:
        raise HubError(f"'{name}' is gated: accept its terms on the hub, then run `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise HubError(f"'{name}' has no revision '{revision}' on the hub") from error
    except RepositoryNotFoundError as error:
        raise HubError(f"no folder '{name}' here and no repository of that id on the hub") from error
    except RemoteEntryNotFoundError as error:
        raise HubError(f"the repository '{name}' of the hub has no file '{file}'") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise HubError(
            f"no folder '{name}' here, and the hub cannot be reached to look for a repository of that id: "
            "check the spelling or the network, or give a local folder"
        ) from error


def files_of(repository: str, revision: str) -> list[str]:
    """The names of a hub repository's files; none where the hub cannot be asked."""
    from huggingface_hub import list_repo_files
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        return list_repo_files(repository, revision=revision)
    except (OfflineModeIsEnabled, OSError):
        return []
