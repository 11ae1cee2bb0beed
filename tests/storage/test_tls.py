"""TLS to a store with a certificate of its own: trusted when told, and refused at once when not."""

from __future__ import annotations

import ipaddress
import time
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pgkeep.errors import StoreError, StoreUnavailable
from pgkeep.storage.create_bucket import create_bucket
from pgkeep.storage.object_store import ObjectStore
from pgkeep.storage.object_url import ObjectPlace
from pgkeep.storage.options import StoreOptions
from pgkeep.storage.retry import RetryingStore
from tests.object_stores import KEY, SECRET, present, start_minio
from tests.servers import new_directory

PLACE = ObjectPlace("s3", "bucket-of-tls", "pg")


class Authority(NamedTuple):
    """Somebody who signs certificates; ``file`` holds the authority's own."""

    name: x509.Name
    key: ec.EllipticCurvePrivateKey
    file: Path

    def sign(self, folder: Path, *, expires_days: int = 10) -> Path:
        """A folder as MinIO wants it, for 127.0.0.1 and no other name."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = _builder(_name("store"), key, expires_days).issuer_name(self.name)
        certificate = builder.add_extension(names, critical=False).sign(self.key, hashes.SHA256())
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "public.crt").write_bytes(_pem(certificate))
        (folder / "private.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return folder


def _authority(folder: Path) -> Authority:
    key, name = ec.generate_private_key(ec.SECP256R1()), _name("authority")
    builder = _builder(name, key, 10).issuer_name(name)
    basic = x509.BasicConstraints(ca=True, path_length=None)
    file = folder / "ca.pem"
    file.write_bytes(_pem(builder.add_extension(basic, critical=True).sign(key, hashes.SHA256())))
    return Authority(name, key, file)


def _builder(
    name: x509.Name, key: ec.EllipticCurvePrivateKey, expires_days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=20))
        .not_valid_after(now + timedelta(days=expires_days))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"pgkeep test {text}")])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


class Site(NamedTuple):
    port: int
    authority: Authority

    def options(self, *, ca_file: Path | None, host: str = "127.0.0.1") -> StoreOptions:
        return StoreOptions(
            endpoint=f"https://{host}:{self.port}",
            access_key_id=KEY,
            secret_access_key=SECRET,
            ca_file=str(ca_file) if ca_file else None,
        )


@cache
def _site(expires_days: int) -> Site:
    folder = new_directory("tls")
    authority = _authority(folder)
    certificates = authority.sign(folder / "certs", expires_days=expires_days)
    return Site(start_minio("--certs-dir", certificates), authority)


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Site:
    return present(request, "minio", partial(_site, 10))


def test_an_authority_of_ones_own_is_trusted_where_it_is_named(site: Site) -> None:
    options = site.options(ca_file=site.authority.file)
    create_bucket(PLACE, options)
    store = ObjectStore(PLACE, options)
    store.put("a", b"x", if_absent=True)
    assert store.get("a") == b"x"
    assert [info.key for info in store.list()] == ["a"]
    assert store.delete(["a"]) == {"a": None}


@pytest.mark.parametrize("case", ["unknown", "another", "name", "expired"])
def test_a_certificate_that_is_not_trusted_is_an_answer(
    request: pytest.FixtureRequest, site: Site, case: str, tmp_path: Path
) -> None:
    """Said at once, with what to set, and not tried again for minutes."""
    if case == "expired":
        site = present(request, "minio", partial(_site, -1))
    ca_file = {"unknown": None, "another": _authority(tmp_path).file}.get(case, site.authority.file)
    host = "localhost" if case == "name" else "127.0.0.1"
    options = site.options(ca_file=ca_file, host=host)
    store = RetryingStore(ObjectStore(PLACE, options), deadline_seconds=300)
    began = time.monotonic()
    for call in (
        lambda: store.get("a"),
        lambda: store.put("a", b"x"),
        lambda: [*store.list()],
        lambda: create_bucket(PLACE, options),
    ):
        with pytest.raises(StoreError, match="certificate") as caught:
            call()
        assert not isinstance(caught.value, StoreUnavailable)
        assert "PGKEEP_CA_FILE" in str(caught.value.remedy)
    assert time.monotonic() - began < 20
