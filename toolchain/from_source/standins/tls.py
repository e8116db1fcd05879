"""Stand-in for the `tls` plugin 5.6.2: private keys, certificate requests and certificates.

Source of the behaviour: the schema of pulumi-tls and terraform-provider-tls, `internal/provider`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from ipaddress import ip_address

from cryptography.hazmat.primitives.serialization import Encoding

from toolchain.from_source.standins import certificates, keys
from toolchain.from_source.standins.properties import UNKNOWN, Properties, Secret, changes, revealed
from toolchain.from_source.standins.provider import Difference, Failure, Log, Provider, ResourceError, serve

VERSION = "5.6.2"

# Given for one operation and never kept among the outputs.
_WRITE_ONLY = frozenset({"caPrivateKeyPemWo", "privateKeyPemWo"})
_PRIVATE = _WRITE_ONLY | {"caPrivateKeyPem", "privateKeyPem", "privateKeyPemPkcs8", "privateKeyOpenssh"}


@dataclass(frozen=True, kw_only=True)
class TlsResource:
    """One type of the package: computed once from its inputs, and replaced when those change.

    Attributes:
        inputs: the names of the inputs.
        defaults: what inputs are when they are not given.
        computed: the names of the outputs that are not inputs.
        check_values: finds wrong values among inputs that are known.
        make: gives the id and the computed outputs.
    """

    inputs: frozenset[str]
    defaults: Properties
    computed: frozenset[str]
    check_values: Callable[[Properties], Iterable[Failure]]
    make: Callable[[Properties], tuple[str, Properties]]

    def check(self, inputs: Properties) -> tuple[Properties, list[Failure]]:
        known = {name: value for name, value in revealed(inputs).items() if value is not UNKNOWN}
        return _with_secrets(inputs), list(self.check_values(known))

    def diff(self, state: Properties, old_inputs: Properties, inputs: Properties) -> Difference:
        wanted = self._wanted(state, inputs)
        kept = {name: value for name, value in revealed(state).items() if name in self.inputs - _WRITE_ONLY}
        found = dict(changes(kept, {name: wanted[name] for name in wanted if name not in _WRITE_ONLY}))
        replaces = {path for path in found if path != "earlyRenewalHours"}
        if _is_due(state, wanted):
            found["readyForRenewal"] = "UPDATE"
            replaces.add("readyForRenewal")
        return Difference(changes=found, replaces=frozenset(replaces))

    def planned(self, state: Properties | None, inputs: Properties) -> Properties:
        outputs = dict.fromkeys(self.computed, UNKNOWN) if state is None else state
        return _with_secrets(outputs | self._kept(state or {}, inputs) | self._readiness(inputs))

    def planned_id(self, name: str) -> str:
        return ""

    def create(self, name: str, inputs: Properties, log: Log) -> tuple[str, Properties]:
        wanted = self._wanted({}, inputs)
        try:
            identity, computed = self.make(wanted)
        except ValueError as error:
            raise ResourceError(str(error)) from error
        outputs = {"id": identity} | self._kept({}, inputs) | computed | self._readiness(inputs)
        return identity, _with_secrets(outputs)

    def read(self, state: Properties) -> Properties:
        return state | {"readyForRenewal": True} if _is_due(state, revealed(state)) else state

    def update(self, state: Properties, inputs: Properties, log: Log) -> Properties:
        return self.planned(state, inputs)

    def delete(self, state: Properties, log: Log) -> None:
        """Nothing exists but the state."""

    def _given(self, state: Properties, inputs: Properties) -> Properties:
        # A path length once chosen stays when it is no longer given.
        kept = {"maxPathLength": state["maxPathLength"]} if "maxPathLength" in state else {}
        return self.defaults | kept | inputs

    def _wanted(self, state: Properties, inputs: Properties) -> Properties:
        wanted: Properties = revealed(self._given(state, inputs))
        return wanted

    def _kept(self, state: Properties, inputs: Properties) -> Properties:
        # With their marks: what the user made secret stays so among the outputs.
        return {name: value for name, value in self._given(state, inputs).items() if name not in _WRITE_ONLY}

    def _readiness(self, inputs: Properties) -> Properties:
        if "readyForRenewal" not in self.computed:
            return {}
        wanted = self._wanted({}, inputs)
        validity, early = wanted["validityPeriodHours"], wanted["earlyRenewalHours"]
        if UNKNOWN in (validity, early):
            return {"readyForRenewal": UNKNOWN}
        return {"readyForRenewal": early >= validity}


def _with_secrets(properties: Properties) -> Properties:
    return {
        name: Secret(value) if name in _PRIVATE and not isinstance(value, Secret) else value
        for name, value in properties.items()
    }


def _is_due(state: Properties, wanted: Properties) -> bool:
    """Whether the time of early renewal has come, by the hours that are wanted now."""
    end, early = state.get("validityEndTime"), wanted.get("earlyRenewalHours", 0)
    if end is None or early is UNKNOWN:
        return False
    return datetime.fromisoformat(end) - timedelta(hours=early) <= datetime.now(UTC)


def _check_private_key(known: Properties) -> Iterable[Failure]:
    if "algorithm" in known and known["algorithm"] not in keys.ALGORITHMS:
        yield Failure(property="algorithm", reason=f"must be one of {', '.join(keys.ALGORITHMS)}")
    if "ecdsaCurve" in known and known["ecdsaCurve"] not in keys.CURVES:
        yield Failure(property="ecdsaCurve", reason=f"must be one of {', '.join(keys.CURVES)}")


def _check_names(known: Properties) -> Iterable[Failure]:
    for index, address in enumerate(known.get("ipAddresses", [])):
        try:
            if address is not UNKNOWN:
                ip_address(address)
        except ValueError:
            yield Failure(property=f"ipAddresses[{index}]", reason=f"{address!r} is not an IP address")


def _check_certificate(known: Properties) -> Iterable[Failure]:
    yield from _check_names(known)
    supported = certificates.KEY_USAGES | certificates.EXTENDED_KEY_USAGES
    for index, use in enumerate(known.get("allowedUses", [])):
        if use is not UNKNOWN and use not in supported:
            yield Failure(property=f"allowedUses[{index}]", reason=f"must be one of {', '.join(sorted(supported))}")
    for name, least in (("validityPeriodHours", 0), ("earlyRenewalHours", 0), ("maxPathLength", -1)):
        if known.get(name, least) < least:
            yield Failure(property=name, reason=f"must be at least {least}")


def _private_key(wanted: Properties) -> tuple[str, Properties]:
    key = keys.generate(wanted["algorithm"], rsa_bits=int(wanted["rsaBits"]), curve=wanted["ecdsaCurve"])
    # The official plugin's mark of which version of its schema the state has.
    identity, formats = keys.formats(key)
    return identity, formats | {"__meta": '{"schema_version":"1"}'}


def _cert_request(wanted: Properties) -> tuple[str, Properties]:
    key = _given_key(wanted, "privateKeyPem")
    request = certificates.request(wanted, key)
    return sha1(request.public_bytes(Encoding.DER)).hexdigest(), {
        "keyAlgorithm": keys.algorithm_of(key),
        "certRequestPem": request.public_bytes(Encoding.PEM).decode(),
    }


def _self_signed_cert(wanted: Properties) -> tuple[str, Properties]:
    key = _given_key(wanted, "privateKeyPem")
    identity, certificate = certificates.certify(wanted, certificates.bearer(wanted, key), key)
    return identity, certificate | {"keyAlgorithm": keys.algorithm_of(key)}


def _locally_signed_cert(wanted: Properties) -> tuple[str, Properties]:
    key = _given_key(wanted, "caPrivateKeyPem")
    subject = certificates.requested(wanted["certRequestPem"])
    identity, certificate = certificates.certify(wanted, subject, certificates.authority(wanted["caCertPem"], key))
    return identity, certificate | {"caKeyAlgorithm": keys.algorithm_of(key)}


def _given_key(wanted: Properties, name: str) -> keys.PrivateKey:
    pem = wanted.get(name) or wanted.get(f"{name}Wo")
    if not pem:
        raise ValueError(f"one of {name} and {name}Wo must be set")
    return keys.read(pem)


_NAMES = frozenset({"subject", "dnsNames", "ipAddresses", "uris"})
_OWN_KEY = frozenset({"privateKeyPem", "privateKeyPemWo", "privateKeyPemWoVersion"})
_CERTIFICATE_DEFAULTS = {"earlyRenewalHours": 0, "isCaCertificate": False, "setSubjectKeyId": False}
_CERTIFICATE = frozenset({"allowedUses", "validityPeriodHours", "maxPathLength", *_CERTIFICATE_DEFAULTS})
_CERTIFIED = frozenset({"certPem", "readyForRenewal", "validityStartTime", "validityEndTime"})

RESOURCES = {
    "tls:index/privateKey:PrivateKey": TlsResource(
        inputs=frozenset({"algorithm", "rsaBits", "ecdsaCurve"}),
        defaults={"rsaBits": 2048, "ecdsaCurve": "P224"},
        computed=frozenset({"privateKeyPem", "privateKeyPemPkcs8", "publicKeyPem", *keys.OPENSSH_FORMATS}),
        check_values=_check_private_key,
        make=_private_key,
    ),
    "tls:index/certRequest:CertRequest": TlsResource(
        inputs=_NAMES | _OWN_KEY,
        defaults={},
        computed=frozenset({"certRequestPem", "keyAlgorithm"}),
        check_values=_check_names,
        make=_cert_request,
    ),
    "tls:index/selfSignedCert:SelfSignedCert": TlsResource(
        inputs=_NAMES | _OWN_KEY | _CERTIFICATE | {"setAuthorityKeyId"},
        defaults=_CERTIFICATE_DEFAULTS | {"setAuthorityKeyId": False},
        computed=_CERTIFIED | {"keyAlgorithm"},
        check_values=_check_certificate,
        make=_self_signed_cert,
    ),
    "tls:index/locallySignedCert:LocallySignedCert": TlsResource(
        inputs=_CERTIFICATE
        | {"caCertPem", "caPrivateKeyPem", "caPrivateKeyPemWo", "caPrivateKeyPemWoVersion", "certRequestPem"},
        defaults=_CERTIFICATE_DEFAULTS,
        computed=_CERTIFIED | {"caKeyAlgorithm"},
        check_values=_check_certificate,
        make=_locally_signed_cert,
    ),
}


def main() -> None:
    """Run the plugin; the engine's address is the last argument."""
    serve(Provider(VERSION, RESOURCES))
