"""Making the bucket, for ``init --create-bucket``: one request, once in a repository's life.

The library has no call for it, but it signs URLs: for S3 the URL of the empty key is that of the
bucket. Azure signs a container with the account's key in a way of its own, which is written out
here. Google wants a project and a location that nobody has told us, so there its own tool is named.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ssl
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import obstore

from pgkeep.errors import ConfigError, StoreDenied, StoreError, StoreUnavailable
from pgkeep.storage._answers import Answer, answer_in
from pgkeep.storage._object_client import Clients
from pgkeep.storage._object_problems import NOT_TRUSTED, TRUST_IT, answer_problem
from pgkeep.storage.object_url import ObjectPlace
from pgkeep.storage.options import StoreOptions

_SECONDS = 30
_AZURE_VERSION = "2021-12-02"
_THERE = {"BucketAlreadyOwnedByYou", "ContainerAlreadyExists"}


def create_bucket(place: ObjectPlace, options: StoreOptions) -> bool:
    """Make it; False if it was there and is ours. It is private, as is every provider's default.

    Raises ``ConfigError`` where pgkeep cannot do it, ``StoreDenied`` where these credentials may
    not or the name is another's, and what the store raises.
    """
    if place.scheme == "gs":
        raise ConfigError(
            f"pgkeep cannot make {place.url}: a bucket needs a project and a location.",
            remedy=f"Run: gcloud storage buckets create gs://{place.bucket} --location=… "
            "--uniform-bucket-level-access",
        )
    request = _for_s3(place, options) if place.scheme == "s3" else _for_azure(place, options)
    return _send(request, place, options)


def _for_s3(place: ObjectPlace, options: StoreOptions) -> urllib.request.Request:
    bare = place._replace(prefix="")
    clients = Clients(bare, options)
    url = obstore.sign(clients.reading(), "PUT", "", timedelta(seconds=_SECONDS * 2))
    region = clients.region or "us-east-1"
    body = b""
    if region != "us-east-1" and not options.endpoint:
        body = (
            "<CreateBucketConfiguration xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>"
            f"<LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
        ).encode()
    return urllib.request.Request(url, data=body, method="PUT")


def _for_azure(place: ObjectPlace, options: StoreOptions) -> urllib.request.Request:
    if not options.account_key:
        raise ConfigError(
            f"pgkeep makes {place.url} with the account's key only.",
            remedy=f"Set PGKEEP_ACCOUNT_KEY for this once, or run: az storage container create "
            f"--account-name {options.account} --name {place.bucket}",
        )
    base = options.endpoint or f"https://{options.account}.blob.core.windows.net"
    url = f"{base}/{place.bucket}"
    headers = {
        "x-ms-date": datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"),
        "x-ms-version": _AZURE_VERSION,
    }
    # Verb, eleven standard headers that we do not send, ours, and what is asked for.
    lines = ["PUT", *[""] * 11, *(f"{name}:{value}" for name, value in headers.items())]
    lines += [f"/{options.account}{urlsplit(url).path}", "restype:container"]
    try:
        key = base64.b64decode(options.account_key, validate=True)
    except ValueError:
        raise ConfigError(
            "The account key is not in base64.", remedy="Copy it again from the account."
        ) from None
    digest = hmac.new(key, "\n".join(lines).encode(), hashlib.sha256).digest()
    signature = base64.b64encode(digest).decode()
    headers["Authorization"] = f"SharedKey {options.account}:{signature}"
    return urllib.request.Request(f"{url}?restype=container", headers=headers, method="PUT")


def _send(request: urllib.request.Request, place: ObjectPlace, options: StoreOptions) -> bool:
    context = ssl.create_default_context()
    if options.ca_file:
        context.load_verify_locations(options.ca_file)
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS, context=context):
            return True
    except urllib.error.HTTPError as error:
        answer = answer_in(error.code, error.read(10_000).decode("utf-8", "replace"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise StoreError(
                f"Cannot make the {place.word} {place.bucket}.",
                why=f"{NOT_TRUSTED}.",
                remedy=TRUST_IT,
            ) from None
        raise StoreUnavailable(
            f"Cannot make the {place.word} {place.bucket}.",
            why=f"{getattr(reason, 'strerror', None) or type(reason).__name__!s}.",
            remedy="See that the endpoint is right and the network is up.",
        ) from None  # its text may hold the signed URL
    return _made_already(answer, place)


def _made_already(answer: Answer, place: ObjectPlace) -> bool:
    if answer.code in _THERE:
        return False
    if answer.code == "BucketAlreadyExists":
        raise StoreDenied(
            f"The bucket {place.bucket} is somebody else's.",
            why="The names of buckets are shared by all customers of a provider.",
            remedy="Choose another name.",
        )
    problem: StoreError = answer_problem(answer, place, "", doing=f"make the {place.word}")
    raise problem
