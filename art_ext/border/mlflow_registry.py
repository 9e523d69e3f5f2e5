"""MLflow's model registry: versions with a card and an alias, looked up, made and promoted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from art_ext.border.mlflow_manners import impatient, one_line, quiet
from art_ext.border.mlflow_outbox import Registration
from art_ext.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["LONGEST_DESCRIPTION", "Version", "describe", "describe_version", "find_version", "promote", "register"]

LONGEST_DESCRIPTION = 5000
"""Characters that the registry's column holds; some of its databases refuse more."""

_TOKEN = "art_ext.token"
_PREVIOUS = "art_ext.previous"
_SECONDS = 30


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    Attributes:
        run_id, model_id: of the run that made it and of the logged network, where known.
        previous: the version that had the alias before, where `promote` moved one.
    """

    name: str
    version: str
    run_id: str | None = None
    model_id: str | None = None
    tags: Mapping[str, str] | None = None
    previous: str | None = None

    @property
    def address(self) -> str:
        return f"models:/{self.name}/{self.version}"


def register(
    client: MlflowClient,
    wanted: Registration,
    model_id: str,
    run_id: str,
    *,
    token: str,
    look: bool,
    server: bool,
) -> str:
    """Makes a version of a registered model, points the alias to it, and returns its number.

    Args:
        token: a tag of the version, by which it is found again.
        look: look for that version first: it was asked for before.
        server: a server looks a `models:/m-...` source up itself; a store's own client would do
            so in the process's own store, whichever was asked for, so it is given the place.
    """
    from mlflow.exceptions import MlflowException

    found: list[Any] = []
    if look:
        found = [v for v in client.search_model_versions(f"name = '{wanted.name}'") if v.tags.get(_TOKEN) == token]
    if not found:
        try:
            client.create_registered_model(wanted.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"models:/{model_id}" if server else client.get_logged_model(model_id).artifact_location
        found = [
            client.create_model_version(
                wanted.name,
                source,
                run_id,
                tags={_TOKEN: token},
                model_id=model_id,
                await_creation_for=_SECONDS,
            )
        ]
    version = str(found[0].version)
    if wanted.alias is not None:
        client.set_registered_model_alias(wanted.name, wanted.alias, version)
    return version


def describe(client: MlflowClient, name: str, version: str, description: str, tags: Mapping[str, str]) -> None:
    """Says of a version what is known now; for a second time, what has changed."""
    known = client.get_model_version(name, version)
    if description and known.description != description[:LONGEST_DESCRIPTION]:
        client.update_model_version(name, version, description[:LONGEST_DESCRIPTION])
    for key, value in tags.items():
        if known.tags.get(key) != value:
            client.set_model_version_tag(name, version, key, value)


def describe_version(uri: str, version: Version, description: str, tags: Mapping[str, str]) -> None:
    """`describe`, for a version that was looked up.

    Raises:
        ModelError: when the registry does not answer or refuses.
    """
    with impatient(_SECONDS, retries=2), quiet():
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            describe(MlflowClient(tracking_uri=uri), version.name, version.version, description, tags)
        except MlflowException as error:
            raise ModelError(f"cannot describe {version.address} ({one_line(error)})") from None


def find_version(uri: str, address: str) -> Version | None:
    """The version that `models:/name/3` or `models:/name@alias` means; None where that alias or version is not there.

    Raises:
        ConfigError: for another address.
        ModelError: when the registry cannot be asked.
    """
    name, _, rest = address.removeprefix("models:/").partition("/")
    name, _, alias = name.partition("@")
    if not address.startswith("models:/") or not name or bool(rest) == bool(alias):
        raise ConfigError(f"{address!r} names no registered model; write models:/NAME@ALIAS or models:/NAME/VERSION")
    with impatient(_SECONDS, retries=2), quiet():
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        client = MlflowClient(tracking_uri=uri)
        try:
            found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, rest)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise ModelError(f"cannot ask the registry for {address} ({one_line(error)})") from None
    return Version(found.name, str(found.version), found.run_id, found.model_id, dict(found.tags))


def promote(uri: str, version: Version, alias: str = "champion", tags: Mapping[str, str] | None = None) -> Version:
    """Moves an alias to a version; the version that had it is kept in the tag `art_ext.previous.<alias>` of the model.

    Raises:
        ModelError: when the registry does not answer or refuses.
    """
    before = find_version(uri, f"models:/{version.name}@{alias}")
    previous = None if before is None else before.version
    with impatient(_SECONDS, retries=2), quiet():
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        client = MlflowClient(tracking_uri=uri)
        try:
            for key, value in (tags or {}).items():
                client.set_model_version_tag(version.name, version.version, key, value)
            if previous is not None and previous != version.version:
                client.set_registered_model_tag(version.name, f"{_PREVIOUS}.{alias}", previous)
            client.set_registered_model_alias(version.name, alias, version.version)
        except MlflowException as error:
            raise ModelError(f"cannot move the alias {alias} to {version.address} ({one_line(error)})") from None
    return Version(version.name, version.version, version.run_id, version.model_id, version.tags, previous)
