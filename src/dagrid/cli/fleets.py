"""What settings say of a coordinator and of who calls it: addresses, certificates, the signing key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagrid.config import BY_NAME, DEFAULT, expanded
from dagrid.config.files import read
from dagrid.errors import InvalidSettingError

if TYPE_CHECKING:
    from pathlib import Path

    from dagrid.cli.calls import Call
    from dagrid.execution.backends.cluster.calling import Address
    from dagrid.execution.backends.cluster.tls import CallerTLS, Claims, ListenerTLS
    from dagrid.history import About
    from dagrid.ports import Backend
    from dagrid.workflow.running import Fleet


def signing_key(call: Call) -> bytes | None:
    """Return the signing key, None if there is none; who says it on a command line is told that others can read it there.

    Raises:
        InvalidSettingError: its file cannot be read, or it is empty.
    """
    said = call.config.value("coordinator.signing_key")
    key = str(said.value or "").strip()
    if not key and said.source.startswith("-"):
        raise InvalidSettingError(
            f"{said.source} is empty. Say what coordinator and workers both know, or leave the flag out."
        )
    if key:
        if said.source.startswith("-"):
            call.out.complain(
                f"dagrid: who lists the processes of this machine sees what {said.source} says. Say it as "
                f"{said.setting.variable}, or name a file: --coordinator.signing-key-file."
            )
        return key.encode()
    file = call.config["coordinator.signing_key_file"]
    return None if not file else secret_lines(call, "coordinator.signing_key_file")[0].encode()


def secret_lines(call: Call, name: str) -> list[str]:
    """Return the lines of a file that a setting names, those that are empty left out. Raises InvalidSettingError."""
    said = call.config.value(name)
    try:
        text = expanded(said.value).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InvalidSettingError(f"{said.named}: {said.value} cannot be read: {why}.") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InvalidSettingError(f"{said.named}: {said.value} is empty. Write what is secret on a line of it.")
    return lines


def listener_tls(call: Call) -> ListenerTLS | None:
    """Return the certificates of a coordinator, None if there are none. Raises InvalidSettingError: one of them is missing."""
    certificate, key, ca = (_file(call, f"coordinator.tls.{name}") for name in ("cert_file", "key_file", "ca_file"))
    if certificate is None and key is None and ca is None:
        return None
    from dagrid.execution.backends.cluster.tls import ListenerTLS  # gRPC comes with it

    return ListenerTLS.of(certificate, key, ca)


def listener_claims(call: Call) -> dict[str, Claims] | None:
    """Return what the holders of certificates may say of themselves, None for anything. Raises InvalidSettingError."""
    file = _file(call, "coordinator.tls.claims_file")
    if file is None:
        return None
    from dagrid.execution.backends.cluster.tls import Claims

    said = read(file)
    try:
        return Claims.of(said.data)
    except InvalidSettingError as error:
        raise said.refuse(str(error)) from error


def caller_tls(call: Call) -> CallerTLS | None:
    """Return what is shown to a coordinator and which is trusted; None: nothing is encrypted. Raises InvalidSettingError."""
    certificate, key, ca = (_file(call, f"worker.tls.{name}") for name in ("cert_file", "key_file", "ca_file"))
    insecure = call.config["worker.insecure"]
    named = certificate or key or ca
    if insecure or (insecure is None and not named):
        return None
    from dagrid.execution.backends.cluster.tls import CallerTLS

    return CallerTLS(ca, certificate, key)


def coordinator_of(call: Call) -> Address | None:
    """Return where the coordinator is that somebody has named, None if nobody has.

    A file may say for it where it listens: where that is everywhere, it is called as workers of this machine call it.
    """
    values = [call.config.value(name) for name in ("coordinator.host", "coordinator.port")]
    if all(value.source == DEFAULT for value in values):
        return None
    from dagrid.execution.backends.cluster.calling import Address, reached

    host, port = (value.value for value in values)
    named = call.config.value("worker.coordinator_host")
    where = reached(host or "127.0.0.1", None if named.source == DEFAULT else named.value)
    return Address(where, port, caller_tls(call), signing_key(call))


def fleet_of(call: Call) -> Fleet | None:
    """Return the workers that perform the steps of a run: those of the coordinator that is named, None for this machine."""
    address = coordinator_of(call)
    if address is None:
        return None
    from dagrid.service.fleet import borrowed

    return borrowed(address, call.config.home)


def names_workers(call: Call, about: About) -> bool:
    """Return whether the settings name a coordinator whose workers perform a run, and find again there what they have of it."""
    backend = str(call.config["backend"] or "") if about.kind == "graph" else ""
    return backend.startswith("grpc") if backend else coordinator_of(call) is not None


def left_alone(call: Call, about: About) -> bool:
    """Return whether a run is for the coordinator that performed it, if one is there: this command line names no other one.

    What a file or the environment says of a coordinator is for all commands of the machine, also for that of the run.
    """
    said = (call.config.value(name) for name in ("coordinator.host", "coordinator.port"))
    return about.served and not any(value.source.startswith("-") for value in said)


def graph_variables(call: Call) -> dict[str, str]:
    """Return the variables with which a process that a coordinator starts can call it: the key, and where it is reached by name.

    A backend that is named here is for graphs that are started by hand: those of queues are for the workers. What else it shows
    and trusts, it finds where workers of this machine find it, in the environment and in the file of settings.
    """
    found = {BY_NAME["backend"].variable: ""}
    key = call.config["coordinator.signing_key"]
    if key:
        found[BY_NAME["coordinator.signing_key"].variable] = str(key)
    elif call.config["coordinator.signing_key_file"]:
        file = expanded(call.config["coordinator.signing_key_file"]).absolute()
        found[BY_NAME["coordinator.signing_key_file"].variable] = str(file)
    named = call.config.value("worker.coordinator_host")
    if named.source != DEFAULT:
        found[BY_NAME["coordinator.host"].variable] = str(named.value)
    return found


def backend_of(call: Call) -> str | Backend | None:
    """Return where a graph of Python's runs: the backend or the coordinator that is named, None if neither is."""
    address = None if call.config["backend"] else coordinator_of(call)
    if address is None:
        return str(call.config["backend"] or "") or None
    from dagrid.execution.backends.cluster.backend import ClusterBackend

    return ClusterBackend(address)


def remarks(call: Call) -> None:
    """Say which variables were not taken for settings."""
    for remark in call.config.remarks:
        call.out.complain(f"dagrid: {remark}")


def _file(call: Call, name: str) -> Path | None:
    said = call.config[name]
    return expanded(said) if said else None
