"""The policy pack of this project: `pulumi preview --policy-pack policy`, or `./hardway policy` for a running lab.

The rules are in rules.py; here they get their data from Pulumi's SDK. docs/policy.md is the page for users.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import rules
from pulumi_policy import (
    EnforcementLevel,
    PolicyConfigSchema,
    PolicyPack,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    Secret,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import UnknownValueError

_REDACTED_CONNECTION = "The connection is a secret that was not decrypted."


def plain(value: Any) -> Any:
    """A value without the SDK's proxies; what is not known yet is `rules.UNKNOWN`."""
    if isinstance(value, Mapping):
        return {key: _at(value, key) for key in value}
    if not isinstance(value, str) and hasattr(value, "__getitem__"):
        return [_at(value, index) for index in range(len(value))]
    return value


def _at(value: Any, key: Any) -> Any:
    try:
        return plain(value[key])
    except UnknownValueError:
        return rules.UNKNOWN


def not_secret(value: Any) -> Any:
    """A value without all that is secret in it, from what the SDK gives to a remediation."""
    if isinstance(value, Secret):
        return None
    if isinstance(value, str) or not hasattr(value, "__getitem__"):
        return value
    # The SDK's proxies show secrets as plain values. What they have below this key shows the difference.
    inside = value if isinstance(value, dict | list) else value["__target"]
    if isinstance(inside, dict):
        return {key: not_secret(each) for key, each in inside.items()}
    return [not_secret(each) for each in inside]


def of_args(args: ResourceValidationArgs) -> rules.Resource:
    """The resource that one policy is asked about, by its inputs."""
    return rules.Resource(args.urn, args.resource_type, args.name, plain(args.props))


def of_stack(args: StackValidationArgs) -> list[rules.Resource]:
    """All resources of the stack."""
    return [
        rules.Resource(
            each.urn, each.resource_type, each.name, plain(each.props), [before.urn for before in each.dependencies]
        )
        for each in args.resources
    ]


def each_resource(name: str, rule: Callable[..., Iterator[str]], **options: Any) -> ResourceValidationPolicy:
    """A rule that judges one resource by itself, before the resource is made."""

    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        config = args.get_config() if options else {}
        for violation in rule(of_args(args), *([config["allow"]] if "allow" in config else [])):
            report(violation)

    return ResourceValidationPolicy(name, _description(rule), validate, EnforcementLevel.MANDATORY, **options)


def whole_stack(name: str, rule: Callable[..., Iterator[tuple[str, str]]]) -> StackValidationPolicy:
    """A rule that needs the other resources."""

    def validate(args: StackValidationArgs, report: ReportViolation) -> None:
        for urn, violation in rule(of_stack(args)):
            report(violation, urn)

    return StackValidationPolicy(name, _description(rule), validate, EnforcementLevel.MANDATORY)


def _description(rule: Callable[..., Any]) -> str:
    return (rule.__doc__ or "").split("\n")[0]


def host_key(args: ResourceValidationArgs, report: ReportViolation) -> None:
    """Judge a connection; a redacted one cannot be judged, and is no violation."""
    resource = of_args(args)
    if resource.properties.get("connection") == rules.REDACTED:
        args.not_applicable(_REDACTED_CONNECTION)
    for violation in rules.host_key(resource):
        report(violation)


_plain_keys: dict[str, list[str]] = {}
"""URN -> violations, as the remediation below found them: it is asked before the policy."""


def find_plain_keys(args: ResourceValidationArgs) -> None:
    """Note private keys in inputs that are not secret. It changes nothing: it is a remediation only to be told."""
    _plain_keys[args.urn] = list(rules.plain_private_keys(not_secret(args.props)))


def plain_keys(args: ResourceValidationArgs, report: ReportViolation) -> None:
    """Report what was noted of a resource."""
    for violation in _plain_keys.get(args.urn, []):
        report(violation)


def plain_keys_in_outputs(args: StackValidationArgs, report: ReportViolation) -> None:
    """Judge outputs, where secrets are redacted: elsewhere the SDK does not tell which outputs are secret."""
    resources = of_stack(args)
    if not any(rules.REDACTED in each.properties.values() for each in resources):
        args.not_applicable("Only a state that is read without its passphrase shows which outputs are secret.")
    for each in resources:
        for violation in rules.plain_private_keys(each.properties):
            report(violation, each.urn)


PolicyPack(
    "hardway",
    [
        each_resource(
            "not-open-to-the-world",
            rules.open_to_the_world,
            config_schema=PolicyConfigSchema(
                properties={"allow": {"type": "array", "items": {"type": "string"}, "default": []}}
            ),
        ),
        each_resource("leaf-validity", rules.leaf_validity),
        ResourceValidationPolicy(
            "find-plain-private-keys",
            "Finds what private-keys-are-secret reports; changes nothing.",
            remediate=find_plain_keys,
            enforcement_level=EnforcementLevel.REMEDIATE,
        ),
        ResourceValidationPolicy(
            "private-keys-are-secret", _description(rules.plain_private_keys), plain_keys, EnforcementLevel.MANDATORY
        ),
        StackValidationPolicy(
            "private-keys-in-outputs-are-secret",
            _description(rules.plain_private_keys),
            plain_keys_in_outputs,
            EnforcementLevel.MANDATORY,
        ),
        ResourceValidationPolicy(
            "host-keys-are-pinned", _description(rules.host_key), host_key, EnforcementLevel.MANDATORY
        ),
        each_resource("etcd-by-tls", rules.etcd_without_tls),
        whole_stack("images-are-pinned", rules.images_without_digest),
        whole_stack("existing-hosts-are-marked", rules.unmarked_hosts),
    ],
)
