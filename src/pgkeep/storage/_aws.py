"""AWS's own library, for the few requests that the usual one does not know: versions and locks.

It is the extra ``pgkeep[aws]``. Everything else goes by the usual library, which is faster and
leaves the interpreter free.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pgkeep.errors import ConfigError, StoreError, StoreUnavailable
from pgkeep.storage._answers import Answer
from pgkeep.storage._object_problems import answer_problem, missing_bucket
from pgkeep.storage._object_settings import check_options, is_virtual
from pgkeep.storage.object_url import ObjectPlace
from pgkeep.storage.options import StoreOptions

_CONNECT_SECONDS, _READ_SECONDS, _CONNECTIONS = 5, 60, 16
_Result = TypeVar("_Result")


class AwsRequests:
    """Requests to the bucket of ``place``, in the words of botocore's S3 client, with our errors.

    ``wanted_for`` says what cannot be had without the library. Raises ``ConfigError`` where it is
    not installed.
    """

    def __init__(self, place: ObjectPlace, options: StoreOptions, *, wanted_for: str) -> None:
        check_options(place, options)
        self.place = place
        self._client = _client(place, options, wanted_for)

    def full_key(self, key: str) -> str:
        """The key as the bucket knows it."""
        return f"{self.place.prefix}/{key}" if self.place.prefix else key

    def own_key(self, full_key: str) -> str:
        """The inverse of :meth:`full_key`."""
        return full_key[len(self.full_key("")) :]

    def ask(self, operation: str, *, key: str = "", doing: str, **parameters: Any) -> Any:
        """Make one request; ``doing`` and ``key`` are for the error. Raises ``StoreError``s."""
        request = getattr(self._client, operation)
        return self._asking(
            lambda: request(Bucket=self.place.bucket, **parameters), key=key, doing=doing
        )

    def close(self) -> None:
        """Let the connections go."""
        self._client.close()

    def _asking(self, request: Callable[[], _Result], *, key: str, doing: str) -> _Result:
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        try:
            return request()
        except ClientError as error:
            raise self._problem(error.response, key=key, doing=doing) from error
        except HTTPClientError as error:
            raise StoreUnavailable(
                f"Cannot {doing} {self.place.url}/{key}.".replace("/.", "."),
                why=f"The store did not answer: {type(error).__name__}.",
                remedy="See that the endpoint is right and the network is up.",
            ) from error
        except BotoCoreError as error:
            raise StoreError(
                f"Cannot {doing} {self.place.url}/{key}.".replace("/.", "."),
                why=f"The library says: {type(error).__name__}.",
                remedy="Check the credentials and the endpoint: pgkeep config shows them.",
            ) from error

    def _problem(self, response: Any, *, key: str, doing: str) -> StoreError:
        said = response.get("Error", {})
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        message = str(said.get("Message", ""))[:400].rstrip(".")
        answer = Answer(status, str(said.get("Code", "")), message, message)
        if answer.speaks_of_bucket:
            return missing_bucket(self.place, key=key, doing=doing)
        return answer_problem(answer, self.place, key, doing=doing)


def _client(place: ObjectPlace, options: StoreOptions, wanted_for: str) -> Any:
    try:
        import botocore.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise ConfigError(
            f"{wanted_for} needs AWS's library, and it is not installed.",
            remedy="Install pgkeep[aws].",
        ) from None
    keys = {
        "aws_access_key_id": options.access_key_id,
        "aws_secret_access_key": options.secret_access_key,
        "aws_session_token": options.session_token,
    }
    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        # There is one policy of retries, in ``retry``.
        retries={"total_max_attempts": 1},
        max_pool_connections=_CONNECTIONS,
        s3={"addressing_style": "virtual" if is_virtual(place, options) else "path"},
    )
    try:
        session = botocore.session.Session(profile=options.profile)
        if options.aws_credentials_file:
            session.set_config_variable("credentials_file", options.aws_credentials_file)
        if options.aws_config_file:
            session.set_config_variable("config_file", options.aws_config_file)
        region = options.region or session.get_config_variable("region") or "us-east-1"
        return session.create_client(
            "s3",
            region_name=region,
            endpoint_url=options.endpoint,
            verify=options.ca_file,
            config=config,
            **(keys if options.access_key_id else {}),
        )
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(
            f"The settings for {place.url} cannot be used.",
            why=f"AWS's library says: {type(error).__name__}.",
            remedy="See them with pgkeep config.",
        ) from error
