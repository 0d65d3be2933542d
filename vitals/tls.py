"""TLS to the broker: what the settings mean, and what a failure means to the person who must mend it."""

import ssl
from typing import Any, Final, NamedTuple

from vitals import settings
from vitals.errors import SettingsError


class Trouble(NamedTuple):
    """Why there is no connection: the three facts of a VitalsError."""

    found: str
    expected: str
    do: str


class _Context(ssl.SSLContext):
    """Closes the socket of a handshake that failed. paho leaves it open, once for each attempt, for ever."""

    def wrap_socket(self, *args: Any, **more: Any) -> ssl.SSLSocket:
        wrapped = super().wrap_socket(*args, **more)
        try:
            wrapped.do_handshake()  # paho's own, which follows, finds it done
        except BaseException:
            wrapped.close()
            raise
        return wrapped


def context(where: settings.Broker) -> ssl.SSLContext | None:
    """TLS 1.2 or newer, the site's own authority only, host name checked; None where the settings name no authority.

    Raises SettingsError when a file is not there or not what it should be.
    """
    if not where.ca_file:
        return None
    made = _Context(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and host name
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    key = "broker.ca_file"
    try:
        made.load_verify_locations(cafile=where.ca_file)
        if where.cert_file:
            key = "broker.cert_file or broker.key_file"
            made.load_cert_chain(where.cert_file, where.key_file)
    except OSError as error:  # ssl.SSLError is one
        files = where.ca_file if key == "broker.ca_file" else f"{where.cert_file}, {where.key_file}"
        raise SettingsError(
            f"{key} cannot be used.", expected="PEM files, as `vitals provision` makes them",
            found=f"{files}: {error}", do="Copy the folder that `vitals provision` made, or correct the path.",
        ) from None  # fmt: skip
    return made


def explain(error: BaseException | None, where: settings.Broker) -> Trouble:
    """What an attempt to connect failed by."""
    place = f"{where.host}:{where.port}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _certificate(error, where)
    if isinstance(error, ssl.SSLError) or (where.ca_file and isinstance(error, ConnectionResetError)):
        return Trouble(
            f"{place} does not speak TLS with us ({error})",
            "a TLS listener, since broker.ca_file is set",
            "Correct broker.port (mosquitto: 8883), or let the broker listen with TLS.",
        )
    return Trouble(
        f"nothing listens at {place}, or it cannot be reached",
        "a broker that accepts our connection",
        "Start the broker (mosquitto, or `vitals demo`), or correct [broker] in the settings.",
    )


_HOSTNAME_MISMATCH: Final = 62
_IP_MISMATCH: Final = 64
_EXPIRED: Final = 10
_NOT_YET: Final = 9
"""X509_V_ERR_* of OpenSSL's x509_vfy.h."""


def _certificate(error: ssl.SSLCertVerificationError, where: settings.Broker) -> Trouble:
    found = f"the broker's certificate is not accepted: {error.verify_message}"
    if error.verify_code in (_HOSTNAME_MISMATCH, _IP_MISMATCH):
        return Trouble(
            found,
            f"a certificate for {where.host}",
            "Correct broker.host, or add the name: `vitals provision rotate broker --host ...`.",
        )
    if error.verify_code in (_EXPIRED, _NOT_YET):
        return Trouble(
            found,
            "a certificate that is valid now, by this machine's clock",
            "Set this machine's clock; if it is right, renew: `vitals provision rotate broker`.",
        )
    return Trouble(
        found,
        f"one signed by the authority in {where.ca_file}",
        "Copy ca.crt of the site's `vitals provision` folder. If it is the same file, this is not our broker.",
    )


def refused(reason: str, where: settings.Broker) -> Trouble:
    """The broker answered, and said no."""
    secret = "broker.cert_file" if where.cert_file else "broker.username and broker.password_file"
    return Trouble(
        f"the broker refused the connection: {reason}",
        f"a broker that knows us by {secret}",
        "Copy this client's folder again from where `vitals provision` made it, and restart. Was it revoked?",
    )


def hung_up(reason: str, where: settings.Broker) -> Trouble:
    """The broker closed the line before it answered."""
    if where.cert_file:
        return Trouble(
            f"the broker hung up while we said who we are: {reason}",
            "a client certificate that is neither expired nor revoked",
            "See `vitals provision list`; make a new one with `vitals provision rotate`.",
        )
    return Trouble(
        f"the broker hung up before it answered: {reason}",
        "an MQTT 5 broker" + ("" if where.ca_file else " that accepts connections without TLS"),
        "Correct broker.port" + ("." if where.ca_file else ", or set broker.ca_file if the broker wants TLS."),
    )
