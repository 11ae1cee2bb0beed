"""What an object store answered, read from the text of the library's error.

The library tells much by the type of its exceptions, but not what safety rests on: whether a 404
speaks of the key or of the bucket, and a 409 of the object or of somebody else's request. Status
and body of the answer stand in the text, as Rust's ``Debug`` prints them; nothing else of
that text is ever shown, since a URL in it may be signed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# The last form is that of a part of Azure's batch, which is how a blob is deleted there.
_STATUS = re.compile(r"(?:status code: |\bstatus: |\(code: )(\d{3})\b")
_CODE = re.compile(r"<Code>\s*([A-Za-z0-9._-]{1,80})\s*</Code>")
_MESSAGE = re.compile(r"<Message>\s*([^<]{1,400}?)\s*</Message>")
_SERVER_TIME = re.compile(r"<ServerTime>\s*([0-9T:.Z-]{10,40})\s*</ServerTime>")
_REGION = re.compile(r"<Region>\s*([a-z0-9-]{2,40})\s*</Region>")
_SPACE = re.compile(r"(?:\\[nrt]|\s)+")

_NO_KEY = {"NoSuchKey", "NoSuchVersion", "BlobNotFound"}
_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "InvalidBucketName"}
_EXISTS = {"BlobAlreadyExists", "FileAlreadyExists", "ObjectAlreadyExists"}
# Of versitygw: an object at a/b leaves no room for one at a/b/c, nor the other way round.
_FILES = {"ObjectParentIsFile", "ExistingObjectIsDirectory"}


class Answer(NamedTuple):
    """What the store said. ``status`` is None if there was no answer; ``code`` and ``message``
    are the provider's own, and may be empty (a HEAD request's answer has no body)."""

    status: int | None
    code: str
    message: str
    text: str

    @property
    def is_absence(self) -> bool:
        """Something is not there: the key, or the bucket."""
        return self.status == 404

    @property
    def speaks_of_key(self) -> bool:
        """Positively: the bucket is there, and has no such object."""
        return self.status == 404 and self.code in _NO_KEY

    @property
    def speaks_of_bucket(self) -> bool:
        """There is no such bucket (any more)."""
        return self.code in _NO_BUCKET

    @property
    def says_exists(self) -> bool:
        """A create-only put found an object: HTTP says 412 (304 on old gateways), Azure says 409
        with a code. Any other 409 is about a request that runs at the same time."""
        return self.status in (304, 412) or (self.status == 409 and self.code in _EXISTS)

    @property
    def names_are_files(self) -> bool:
        """A gateway to a file system cannot have this object, since another is in its way."""
        return self.code in _FILES

    @property
    def is_past_the_end(self) -> bool:
        """The range begins where the object has ended already."""
        return self.status == 416

    @property
    def server_time(self) -> str | None:
        """The store's clock, where it said why ours will not do."""
        found = _SERVER_TIME.search(self.text)
        return found[1] if found else None

    @property
    def region(self) -> str | None:
        """The region that the store would have liked."""
        found = _REGION.search(self.text)
        return found[1] if found else None

    def __str__(self) -> str:
        said = f"{self.status} {self.code}".strip()
        return f"{said}: {self.message}" if self.message else said


def answer_of(error: BaseException) -> Answer:
    """The answer that an exception of the library tells of."""
    text = str(error)
    status = _STATUS.search(text)
    return answer_in(int(status[1]) if status else None, text)


def answer_in(status: int | None, text: str) -> Answer:
    """The answer with this status, whose body stands somewhere in ``text``."""
    code, message = _CODE.search(text), _MESSAGE.search(text)
    return Answer(
        status,
        code[1] if code else "",
        _SPACE.sub(" ", message[1]).rstrip(".") if message else "",
        text,
    )
