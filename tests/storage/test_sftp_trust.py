"""Whom the SFTP store believes, and who it says it is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncssh
import pytest

from pgkeep.errors import ConfigError, StoreDenied
from pgkeep.storage.sftp import SftpStore
from tests.sshd import Sshd
from tests.storage.sftp import directory_of, open_store


def _fingerprint(key: Path) -> str:
    said = subprocess.run(["ssh-keygen", "-lf", key], check=True, capture_output=True, text=True)
    return said.stdout.split()[1]


def test_an_unknown_host_key_is_refused_with_its_fingerprint(sshd: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text("# nobody\n")
    path = sshd.new_directory()
    with pytest.raises(StoreDenied) as caught:
        open_store(sshd, path, known_hosts=str(known), create=True)
    assert "is not known here, and nothing was sent" in caught.value.what
    assert _fingerprint(sshd.folder / "host_key.pub") in str(caught.value.why)
    assert not path.exists()
    assert known.read_text() == "# nobody\n"


def test_the_line_that_the_refusal_names_is_the_right_one(sshd: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.touch()
    with pytest.raises(StoreDenied) as caught:
        open_store(sshd, known_hosts=str(known))
    known.write_text(str(caught.value.remedy).partition(f"{known}: ")[2])
    open_store(sshd, known_hosts=str(known)).close()


def test_a_changed_host_key_is_refused(own_sshd: Sshd) -> None:
    store = open_store(own_sshd)
    store.put("a", b"x")
    before = _fingerprint(own_sshd.folder / "host_key.pub")
    own_sshd.kill()
    own_sshd.renew_host_key()
    own_sshd.start()
    with pytest.raises(StoreDenied, match="another one than before") as caught:
        store.get("a")
    assert before in str(caught.value)
    assert _fingerprint(own_sshd.folder / "host_key.pub") in str(caught.value)
    assert f"ssh-keygen -R '[127.0.0.1]:{own_sshd.port}'" in str(caught.value.remedy)
    store.close()


def test_a_host_key_of_another_kind_than_the_known_one_is_refused(
    own_sshd: Sshd, tmp_path: Path
) -> None:
    other = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_public_key().decode()
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{own_sshd.port} {other}")
    with pytest.raises(
        StoreDenied, match="another one than before, and nothing was sent"
    ) as caught:
        open_store(own_sshd, known_hosts=str(known))
    assert _fingerprint(own_sshd.folder / "host_key.pub") in str(caught.value)
    assert str(caught.value).count("known is ecdsa-sha2-nistp256") == 1


def test_a_revoked_host_key_is_refused(own_sshd: Sshd) -> None:
    line = own_sshd.known_hosts.read_text()
    own_sshd.known_hosts.write_text(f"{line}@revoked {line}")
    with pytest.raises(StoreDenied, match="nothing was sent"):
        open_store(own_sshd)


def test_the_users_own_files_are_used_unless_told_otherwise(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / ".ssh"
    home.mkdir()
    (home / "known_hosts").write_text(sshd.known_hosts.read_text())
    (home / "id_ed25519").write_text(sshd.key_file.read_text())
    # What would turn the check off is not read.
    (home / "config").write_text("UserKnownHostsFile none\nStrictHostKeyChecking no\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    open_store(sshd, key_file=None, known_hosts=None).close()
    (home / "known_hosts").write_text("")
    with pytest.raises(StoreDenied, match="is not known here"):
        open_store(sshd, key_file=None, known_hosts=None)


def test_a_key_in_an_agent_is_used(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    socket = sshd.folder / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        agent.stdout.readline()
        try:
            monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
            subprocess.run(["ssh-add", "-q", sshd.key_file], check=True)
            monkeypatch.setenv("HOME", str(sshd.folder))
            open_store(sshd, key_file=None).close()
        finally:
            agent.terminate()


def test_a_key_that_the_server_does_not_know_is_denied(own_sshd: Sshd) -> None:
    key = own_sshd.new_key("stranger")
    with pytest.raises(StoreDenied, match=f"does not let {own_sshd.user} in") as caught:
        open_store(own_sshd, key_file=str(key))
    assert "authorized_keys" in str(caught.value.remedy)


def test_a_key_file_of_no_use_is_a_wrong_setting(own_sshd: Sshd, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        open_store(own_sshd, key_file=str(tmp_path / "absent"))
    sealed = own_sshd.new_key("sealed", passphrase="a secret")
    with pytest.raises(ConfigError, match="without a passphrase"):
        open_store(own_sshd, key_file=str(sealed))
    (tmp_path / "text").write_text("no key")
    with pytest.raises(ConfigError, match="cannot be used"):
        open_store(own_sshd, key_file=str(tmp_path / "text"))


def test_a_file_of_known_hosts_of_no_use_is_a_wrong_setting(sshd: Sshd, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        open_store(sshd, known_hosts=str(tmp_path / "absent"))
    (tmp_path / "bad").write_text("@nonsense host key\n")
    with pytest.raises(ConfigError, match="malformed"):
        open_store(sshd, known_hosts=str(tmp_path / "bad"))


def test_the_remedy_for_a_missing_library_is_named() -> None:
    program = "import sys; sys.modules['asyncssh'] = None; import pgkeep.storage.sftp"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "ConfigError" in done.stderr
    assert "pip install 'pgkeep[sftp]'" in done.stderr


class _ByPassword(asyncssh.SSHServer):
    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return (username, password) == ("keeper", "right secret")


@contextmanager
def _server_by_password(known_hosts: Path) -> Iterator[int]:
    """OpenSSH asks the system about passwords, and no account here has one that we know."""
    loop = asyncio.new_event_loop()
    key = asyncssh.generate_private_key("ssh-ed25519")
    serving = asyncssh.listen(
        "127.0.0.1", 0, server_factory=_ByPassword, server_host_keys=[key], sftp_factory=True
    )

    async def listen() -> asyncssh.SSHAcceptor:
        return await serving

    acceptor = loop.run_until_complete(listen())
    port = acceptor.get_port()
    known_hosts.write_text(f"[127.0.0.1]:{port} {key.export_public_key().decode()}")
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield port
    finally:
        asyncio.run_coroutine_threadsafe(_end(acceptor), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(acceptor: asyncssh.SSHAcceptor) -> None:
    acceptor.close()
    await acceptor.wait_closed()


def test_a_password_is_used_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    known = tmp_path / "known_hosts"
    with _server_by_password(known) as port:
        url = f"sftp://keeper@127.0.0.1:{port}{tmp_path}/repository"
        store = SftpStore(url, known_hosts=str(known), password="right secret", create=True)
        store.put("a", b"content")
        assert store.get("a") == b"content"
        store.close()
        assert (directory_of(store) / "a").read_bytes() == b"content"
        with pytest.raises(StoreDenied, match="does not let keeper in") as caught:
            SftpStore(url, known_hosts=str(known), password="wrong secret")
    assert "secret" not in str(caught.value.as_dict())
