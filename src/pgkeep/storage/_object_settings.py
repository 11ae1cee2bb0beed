"""Settings of an object store: what clashes, and what follows from what."""

from __future__ import annotations

from pgkeep.errors import ConfigError
from pgkeep.storage.object_url import ObjectPlace
from pgkeep.storage.options import StoreOptions


def check_options(place: ObjectPlace, options: StoreOptions) -> None:
    """Raise ``ConfigError`` where settings clash, or one is missing that nothing stands in for."""
    if place.scheme == "az" and not options.account:
        raise ConfigError(
            f"{place.url} is in a storage account, and none is named.",
            remedy="Set PGKEEP_ACCOUNT to its name.",
        )
    if place.scheme != "s3":
        return
    if bool(options.access_key_id) != bool(options.secret_access_key):
        given, missing = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")
        if options.secret_access_key:
            given, missing = missing, given
        raise ConfigError(
            f"Half of the credentials for {place.url} is missing.",
            why=f"The setting {given.lower()} is there, and {missing.lower()} is not.",
            remedy=f"Set PGKEEP_{missing} (or PGKEEP_{missing}_FILE), or neither.",
        )
    if options.kms_key and not (options.server_side_encryption or "").startswith("aws:kms"):
        raise ConfigError(
            "A KMS key is named, and server_side_encryption does not use it.",
            remedy="Set PGKEEP_SERVER_SIDE_ENCRYPTION=aws:kms.",
        )


def is_virtual(place: ObjectPlace, options: StoreOptions) -> bool:
    """Whether the bucket stands in the host's name.

    AWS asks for it. An endpoint of one's own seldom has a name and a certificate for each bucket,
    nor does any certificate's wildcard cover a bucket with a dot.
    """
    if options.addressing is not None:
        return options.addressing == "virtual"
    return not options.endpoint and "." not in place.bucket


def s3_endpoint(place: ObjectPlace, options: StoreOptions) -> str:
    """The endpoint as the library wants it: with the bucket in its host's name if it is there."""
    endpoint = options.endpoint or ""
    if not is_virtual(place, options):
        return endpoint
    scheme, _, rest = endpoint.partition("://")
    return f"{scheme}://{place.bucket}.{rest}"


def read_certificates(path: str) -> bytes:
    """The PEM text of a file. Raises ``ConfigError``."""
    try:
        with open(path, "rb") as file:
            found = file.read()
    except OSError as error:
        raise ConfigError(
            f"The certificate file {path} cannot be read.",
            why=f"{error.strerror}.",
            remedy="Check PGKEEP_CA_FILE, and who may read the file.",
        ) from error
    if b"-----BEGIN CERTIFICATE-----" not in found:
        raise ConfigError(
            f"{path} holds no certificate in PEM form.",
            remedy="Name a file with -----BEGIN CERTIFICATE----- in PGKEEP_CA_FILE.",
        )
    return found
