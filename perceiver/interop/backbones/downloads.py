"""Files of models on the Hugging Face Hub and of torch, from a cache or the network; clear errors if neither has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from perceiver.interop.backbones.request import BackboneError


def fetched(repository: str, names: Sequence[str], *, optional: Sequence[str] = (), setting: str) -> Path:
    """Return the folder that holds files of a repository, downloaded unless they are in the Hub's cache.

    Args:
        repository: `owner/name` on the Hub.
        names: files; of alternatives joined by "|", the first that exists.
        optional: files that may be missing.
        setting: the setting that could name a local copy instead, for messages.

    Raises:
        BackboneError: if the repository does not exist, is gated, or cannot be reached; the message names what to download
            and where to put it.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise ImportError(f"{repository}: this needs huggingface_hub: pip install 'perceiver-multimodal[hf]'") from error
    wanted = [name.split("|")[0] for name in names]
    copy = (
        f"`hf download {repository} {' '.join([*wanted, *optional])} --local-dir DIR` on a machine with network, then copy "
        f"DIR here and set {setting}=DIR{'/' + wanted[0] if setting.endswith('pretrained') else ''}"
    )
    folder: Path | None = None
    for name in [*names, *optional]:
        for alternative in name.split("|"):
            try:
                folder = Path(huggingface_hub.hf_hub_download(repository, alternative)).parent
                break
            except errors.GatedRepoError as error:
                raise BackboneError(
                    f"{repository}: access to this model is restricted. Accept its conditions at "
                    f"https://huggingface.co/{repository} and log in (`hf auth login`); or run {copy}."
                ) from error
            except errors.RepositoryNotFoundError as error:
                raise BackboneError(
                    f"{repository}: the Hub has no such model, or it is private and you are not logged in (`hf auth login`)."
                    " Expected owner/name, or a directory."
                ) from error
            except errors.EntryNotFoundError as error:
                if isinstance(error, errors.LocalEntryNotFoundError) and name in names:
                    raise BackboneError(_unreachable(repository, wanted, copy)) from error
                continue  # the repository lacks this file
            except (OSError, errors.HfHubHTTPError, errors.OfflineModeIsEnabled, ValueError) as error:
                raise BackboneError(_unreachable(repository, wanted, copy)) from error
            except Exception as error:  # errors of the HTTP client, which differ between versions
                if type(error).__module__.partition(".")[0] not in ("httpx", "requests", "urllib3", "huggingface_hub"):
                    raise
                raise BackboneError(_unreachable(repository, wanted, copy)) from error
        else:
            if name in names:
                raise BackboneError(f"{repository}: it has no file {name.replace('|', ' or ')}, which is needed.")
    assert folder is not None
    return folder


def _unreachable(repository: str, names: Sequence[str], copy: str) -> str:
    return (
        f"{repository}: {' and '.join(names)} must be downloaded, but the Hub cannot be reached, and its cache on this "
        f"machine lacks the model. Run {copy}."
    )


def downloaded(address: str, *, model: str) -> dict[str, Tensor]:
    """Return a state dict that is downloaded unless it is in torch's cache.

    Args:
        address: address of the file.
        model: library and name of the model, for messages.

    Raises:
        BackboneError: if the address cannot be reached; the message names where to put the file.
    """
    try:
        state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            address, map_location="cpu", progress=False, weights_only=True
        )
    except OSError as error:  # URLError, timeouts
        raise BackboneError(
            f"{model}: its weights must be downloaded, but {address} cannot be reached. Download it on a machine with "
            f"network, copy it here, and set pretrained=FILE (or put it at {cached_by_torch(address)})."
        ) from error
    return state


def cached_by_torch(address: str) -> Path:
    """Return where torch keeps the file of an address."""
    return Path(torch.hub.get_dir()) / "checkpoints" / address.rpartition("/")[2]
