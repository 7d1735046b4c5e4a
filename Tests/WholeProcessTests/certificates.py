"""Keys and certificates, made by the openssl command."""

import subprocess


def openssl(*arguments, stdin=None, check=True):
    done = subprocess.run(["openssl", *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, done.stderr
    return done


class Pair:
    """A certificate and its key, as two PEM files in a folder."""

    def __init__(self, folder, name, days=30):
        self.name = name
        self.certificate = folder / f"{name}.pem"
        self.key = folder / f"{name}.key"
        openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", days,
            "-keyout", self.key, "-out", self.certificate, "-subj", f"/CN={name}",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")

    def put(self, certificate, key):
        """Copies the pair to where a relay reads it."""
        certificate.write_bytes(self.certificate.read_bytes())
        key.write_bytes(self.key.read_bytes())
