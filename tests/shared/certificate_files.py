"""Certificates of an authority of the test's own, made with the openssl command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from real_programs import require

if TYPE_CHECKING:
    from pathlib import Path


__all__ = ["NEW_KEY", "Certificates", "new_authority"]

NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Certificates:
    """An authority, and a certificate for localhost and 127.0.0.1 that it signed, as PEM files."""

    ca: Path
    cert: Path
    key: Path

    def another(self, home: Path) -> Certificates:
        """A further certificate for the same names by the same authority, in a folder of its own."""
        home.mkdir(parents=True)
        return _signed(home, self.ca)


def _openssl(home: Path, *arguments: str) -> None:
    subprocess.run([require("openssl"), *arguments], cwd=home, check=True, capture_output=True, timeout=250)


def new_authority(home: Path) -> Certificates:
    """An authority of its own, with a certificate."""
    home.mkdir(parents=True, exist_ok=True)
    _openssl(
        *(home, "req", "-x509", *NEW_KEY, "-keyout", "ca.key", "-out", "ca.pem"),
        *("-days", "2", "-subj", f"/CN=test authority {home.name}"),
    )
    return _signed(home, home / "ca.pem")


def _signed(home: Path, ca: Path) -> Certificates:
    _openssl(home, "req", *NEW_KEY, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (home / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    _openssl(
        *(home, "x509", "-req", "-in", "server.csr", "-CA", str(ca), "-CAkey", str(ca.with_suffix(".key"))),
        *("-CAcreateserial", "-out", "server.pem", "-days", "2", "-extfile", "names"),
    )
    return Certificates(ca=ca, cert=home / "server.pem", key=home / "server.key")
