"""Keys and certificates of a federation: a CA of its own, the SuperLink's certificate, and a key for each SuperNode."""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedmomentum.errors import UserError

CA, CA_KEY, CERTIFICATE, KEY = "ca.crt", "ca.key", "server.crt", "server.key"
SECRET = "superexec.secret"
Key: TypeAlias = ec.EllipticCurvePrivateKey


def make_server(folder: Path, hosts: Sequence[str], *, days: int = 365) -> None:
    """Write a CA, the certificate of a SuperLink, and the secret by which it knows what starts its server apps.

    The files are ``ca.crt``, ``ca.key``, ``server.crt``, ``server.key`` and ``superexec.secret``.

    Args:
        folder: is made, for its owner alone.
        hosts: names and addresses under which nodes reach the SuperLink.
        days: for which the server's certificate holds; the CA's holds ten times as long.

    Raises:
        UserError: there are keys already (they are never overwritten), or the folder cannot be written to.
    """
    _new(folder, CA, CA_KEY, CERTIFICATE, KEY, SECRET)
    ca_key, key = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    issuer = _name("fedmomentum federation CA")
    ca = (
        _certificate(issuer, issuer, ca_key, 10 * days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA384())
    )
    server = (
        _certificate(_name(hosts[0]), issuer, key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA384())
    )
    pem = serialization.Encoding.PEM
    _write(folder / CA, ca.public_bytes(pem), secret=False)
    _write(folder / CERTIFICATE, server.public_bytes(pem), secret=False)
    _write(folder / CA_KEY, _private(ca_key, serialization.PrivateFormat.PKCS8))
    _write(folder / KEY, _private(key, serialization.PrivateFormat.PKCS8))
    _write(folder / SECRET, secrets.token_hex(32).encode())


def make_node(folder: Path, name: str) -> tuple[Path, Path]:
    """Write the key of a SuperNode (EC P-384, OpenSSH) and give the files of the private and of the public half.

    Raises:
        UserError: there is one of that name already, or the folder cannot be written to.
    """
    _new(folder, name, f"{name}.pub")
    key = ec.generate_private_key(ec.SECP384R1())
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    _write(folder / name, _private(key, serialization.PrivateFormat.OpenSSH))
    _write(folder / f"{name}.pub", public + b"\n", secret=False)
    return folder / name, folder / f"{name}.pub"


def _new(folder: Path, *names: str) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror}") from error
    for name in names:
        if "/" in name or (folder / name).exists():
            raise UserError(f"{folder / name}: is there already, and a key is never overwritten; move it away first")


def _write(path: Path, data: bytes, *, secret: bool = True) -> None:
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644)
        with os.fdopen(number, "wb") as stream:
            stream.write(data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def _private(key: Key, form: serialization.PrivateFormat) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _certificate(subject: x509.Name, issuer: x509.Name, key: Key, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(**allowed: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: allowed.get(name, False) for name in names})
