"""What an object store says, in pgkeep's words.

The order matters: full and passing are told by their codes before the status is looked at, since
gateways send a full quota as 403 and a throttled request as 400.
"""

from __future__ import annotations

import re

from pgkeep.errors import StoreDenied, StoreError, StoreFull, StoreUnavailable
from pgkeep.storage._answers import Answer, answer_of
from pgkeep.storage.object_url import ObjectPlace

_FULL = {
    *("QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull"),
    *("InsufficientStorage", "StorageFull", "NoSpaceLeft", "EntityTooLarge.Quota"),
}
# Somebody else's request runs at the same time (AWS: "on a 409 failure you should retry"), the
# store is busy, or the bytes did not arrive as they were sent.
_PASSING = {
    *("ConditionalRequestConflict", "OperationAborted", "ContainerBeingDeleted"),
    *("SlowDown", "ServiceUnavailable", "InternalError", "ServerBusy", "OperationTimedOut"),
    *("RequestTimeout", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimit"),
    *("BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "Md5Mismatch"),
}
_CLOCK = {"RequestTimeTooSkewed", "RequestExpired"}
_CREDENTIALS = {
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"),
    *("TokenRefreshRequired", "AuthenticationFailed", "InvalidAuthenticationInfo"),
    *("MissingSecurityHeader", "XMinioInvalidAccessKeyID"),
}
_DENIED = {"AccessDenied", "AllAccessDisabled", "BlobImmutableDueToPolicy", "ObjectLocked"}
_REGION = {
    "AuthorizationHeaderMalformed",
    "PermanentRedirect",
    "IllegalLocationConstraintException",
}

# Where instances and containers are asked for credentials, AWS's, Google's and Azure's.
_METADATA = re.compile(
    r"https?://169\.254\.1(?:69\.254|70\.2)\b|/computeMetadata/v1/|/latest/api/token"
    r"|/latest/meta-data/|/metadata/identity/oauth2"
)
_CERTIFICATE = re.compile(r"InvalidCertificate|invalid peer certificate|UnknownIssuer|NotValidFor")
NOT_TRUSTED = "The store's certificate is not one that this machine trusts for that name"
TRUST_IT = "Set PGKEEP_CA_FILE to the file of its authority, or correct the endpoint."
# First match wins.
_TRANSPORT = (
    (re.compile(r"ConnectionRefused|Connection refused"), "Nobody listens there"),
    (re.compile(r"dns error|failed to lookup|NameResolution"), "Its name cannot be resolved"),
    (re.compile(r"TimedOut|timed out|kind: Timeout", re.I), "It did not answer in time"),
    (re.compile(r"Unreachable|unreachable"), "No network leads there"),
    (re.compile(r"tls|TLS|handshake|rustls"), "The TLS connection broke off"),
    (re.compile(r"Reset|BrokenPipe|IncompleteMessage|Eof|closed|Body"), "The connection broke off"),
    (re.compile(r"reqwest|hyper|HttpError|kind: (?:Connect|Request)"), "The request did not pass"),
)


def object_problem(error: BaseException, place: ObjectPlace, key: str, *, doing: str) -> StoreError:
    """The error to raise for ``error``, met while ``doing`` something with ``key``."""
    return answer_problem(answer_of(error), place, key, doing=doing)


def answer_problem(answer: Answer, place: ObjectPlace, key: str, *, doing: str) -> StoreError:
    """The error to raise for an answer that was not what was asked for."""
    kind, why, remedy = _kind_of(answer, place)
    facts = {"status": answer.status, "code": answer.code, "key": key}
    return kind(
        f"Cannot {doing} {_where(place, key)}.",
        why=f"{why}.",
        remedy=remedy,
        **{name: value for name, value in facts.items() if value},
    )


def missing_bucket(place: ObjectPlace, *, key: str, doing: str) -> StoreError:
    """There is nothing in which an object could be missing."""
    return StoreError(
        f"Cannot {doing} {_where(place, key)}.",
        why=f"There is no {place.word} {place.bucket} there.",
        remedy=f"Correct the name or the endpoint, or make the {place.word}: pgkeep init "
        "--create-bucket does it.",
        key=key,
        code="NoSuchBucket",
    )


def _where(place: ObjectPlace, key: str) -> str:
    return f"{place.url}/{key}".rstrip("/")


def _kind_of(answer: Answer, place: ObjectPlace) -> tuple[type[StoreError], str, str]:
    if _METADATA.search(answer.text):
        return (
            StoreUnavailable,
            "No credentials are set, and no instance or container offers any",
            "Set credentials, a profile, or a role: see docs/reference/stores.",
        )
    if answer.status is None and answer.code not in _PASSING:
        return _no_answer(answer)
    said = f"The store answered {answer}"
    if answer.status == 507 or answer.code in _FULL:
        return StoreFull, said, "Make room in the store, or raise the quota."
    if answer.code in _CLOCK:
        return StoreDenied, f"{said}{_skew(answer)}", "Set the clock of this machine right (NTP)."
    if answer.code in _REGION or "BareRedirect" in answer.text:
        named = answer.region or "the region of the " + place.word
        return StoreError, said, f"Set PGKEEP_REGION to {named}."
    if _is_passing(answer):
        return StoreUnavailable, said, "It may pass: try again. See the state of the store."
    if answer.status == 401 or answer.code in _CREDENTIALS:
        return StoreDenied, said, "Check the credentials: pgkeep config shows whence they come."
    if answer.status == 403 or answer.code in _DENIED:
        return (
            StoreDenied,
            said,
            (f"Allow it to these credentials in the policy of the {place.word}."),
        )
    if answer.status in (405, 501):
        return StoreError, said, "This store does not know that request: see docs/reference/stores."
    return StoreError, said, f"See the settings of the store: pgkeep config, and {place.url}."


def _is_passing(answer: Answer) -> bool:
    status = answer.status or 0
    if answer.code in _PASSING:
        return True
    if status == 409:
        # No key of ours is another's directory; one that is being removed may look so for a moment.
        is_in_the_way = answer.names_are_files and answer.code != "ExistingObjectIsDirectory"
        return answer.code not in _DENIED and not is_in_the_way
    return status in (408, 425, 429) or (500 <= status < 600 and status != 501)


def _skew(answer: Answer) -> str:
    """By how much the clocks differ, if the store said what its own shows."""
    if answer.server_time is None:
        return ""
    from datetime import UTC, datetime

    try:
        theirs = datetime.fromisoformat(answer.server_time.replace("Z", "+00:00"))
        if theirs.tzinfo is None:
            theirs = theirs.replace(tzinfo=UTC)
        seconds = (datetime.now(UTC) - theirs).total_seconds()
    except ValueError:
        return f" (its clock shows {answer.server_time})"
    side = "ahead of" if seconds > 0 else "behind"
    return f" (this machine's clock is {abs(seconds) / 60:.0f} min {side} the store's)"


def _no_answer(answer: Answer) -> tuple[type[StoreError], str, str]:
    text = answer.text
    if "BareRedirect" in text or "redirect without LOCATION" in text:
        return (
            StoreError,
            "The store sent the request elsewhere without saying where",
            "Set PGKEEP_REGION to the region of the bucket.",
        )
    if _CERTIFICATE.search(text):
        return StoreError, NOT_TRUSTED, TRUST_IT
    for pattern, why in _TRANSPORT:
        if pattern.search(text):
            return StoreUnavailable, why, "See that the endpoint is right and the network is up."
    return StoreError, f"The library says: {_harmless(text)}", "See the settings: pgkeep config."


def _harmless(text: str) -> str:
    """The beginning of a text of which nothing is known, without anything like a URL or a key."""
    text = re.sub(r"https?://\S+", "(a URL)", " ".join(text.split()))
    return re.sub(r"[A-Za-z0-9+/=_%-]{30,}", "(hidden)", text)[:200]
